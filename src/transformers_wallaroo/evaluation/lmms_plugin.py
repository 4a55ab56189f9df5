# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What lmms-eval finds by its entry-point group `lmms_eval.models`: the name `wallaroo`, and the classes behind it."""

from typing import Any

MODULE = "transformers_wallaroo.evaluation.lmms"


def manifest() -> Any:
    """lmms-eval's manifest of the model: it imports the classes where the model is asked for."""
    try:
        from lmms_eval.models.registry_v2 import ModelManifest
    except ImportError as error:
        raise ImportError(
            "The model `wallaroo` of lmms-eval needs lmms-eval 0.7 or newer: `pip install 'lmms-eval>=0.7.3'`. "
            f"({error})"
        ) from error
    return ModelManifest(
        model_id="wallaroo", chat_class_path=f"{MODULE}.WallarooChat", simple_class_path=f"{MODULE}.WallarooSimple"
    )
