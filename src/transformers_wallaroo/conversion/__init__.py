# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Released checkpoints and Qwen2.5-VL folders into ours, and the understanding half back.

What was read must fit what is written key by key, both ways: an unknown, missing or misshaped one stops the conversion
in a [`CheckpointError`].
"""

from .configs import DTYPES, STAGES
from .qwen import export_qwen, init_from_qwen
from .reading import CheckpointError
from .released import convert

__all__ = ["DTYPES", "STAGES", "CheckpointError", "convert", "export_qwen", "init_from_qwen"]
