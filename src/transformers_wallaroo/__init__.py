# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Wallaroo for Hugging Face Transformers: one autoregressive model that understands, draws and edits images.

Importing this package registers its classes with transformers' Auto classes. A saved checkpoint needs no install:
`trust_remote_code=True` loads the same files from its folder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

# Not from the top level: there it is hidden without torchvision in transformers 5.17.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .auto_wallaroo import WallarooAutoOutput
from .configuration_wallaroo import WallarooConfig, WallarooVQConfig
from .embedded import tiny_path
from .generation_wallaroo import WallarooGenerateOutput
from .image_processing_wallaroo import WallarooImageProcessor
from .modeling_wallaroo import WallarooForConditionalGeneration, WallarooModel
from .modeling_wallaroo_vq import WallarooVQModel
from .processing_wallaroo import WallarooProcessor, add_wallaroo_tokens
from .training import WallarooDataCollator

if TYPE_CHECKING:
    from .apps.hub import push_to_hub
    from .training.stages import StageConfig
    from .training.trainer import WallarooTrainer, WallarooTrainingArguments

__version__ = "0.1.0"

AutoConfig.register(WallarooConfig.model_type, WallarooConfig)
for _auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    _auto_class.register(WallarooConfig, WallarooForConditionalGeneration)
AutoProcessor.register(WallarooConfig, WallarooProcessor)
AutoImageProcessor.register(WallarooConfig, image_processor_classes={"pil": WallarooImageProcessor})

# Imported when they are asked for: they bring transformers' trainer, and some need the extra `train`.
_LAZY = {
    "StageConfig": "training.stages",
    "WallarooTrainer": "training.trainer",
    "WallarooTrainingArguments": "training.trainer",
    "push_to_hub": "apps.hub",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


__all__ = [
    "StageConfig",
    "WallarooAutoOutput",
    "WallarooConfig",
    "WallarooDataCollator",
    "WallarooForConditionalGeneration",
    "WallarooGenerateOutput",
    "WallarooImageProcessor",
    "WallarooModel",
    "WallarooProcessor",
    "WallarooTrainer",
    "WallarooTrainingArguments",
    "WallarooVQConfig",
    "WallarooVQModel",
    "add_wallaroo_tokens",
    "push_to_hub",
    "tiny_path",
]
