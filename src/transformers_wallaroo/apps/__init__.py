# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What people use: the engine that the command, the web page and the server share."""

from .engine import AnswerEnd, Engine, ImageJob, MadeImage, Stopped
from .pictures import open_picture, read_picture_info, save_picture

__all__ = [
    "AnswerEnd",
    "Engine",
    "ImageJob",
    "MadeImage",
    "Stopped",
    "open_picture",
    "read_picture_info",
    "save_picture",
]
