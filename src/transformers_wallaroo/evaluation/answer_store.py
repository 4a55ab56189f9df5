# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What was answered and drawn before, so that a run that was stopped need not do it again.

Both are found by a fingerprint of everything that they hang on: checkpoint, conversation, pictures and settings.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..image_processing_wallaroo import to_rgb
from .answering import Answer, Question
from .run_files import picture_hash

# The text of a PNG file that holds the fingerprint of its request.
FINGERPRINT = "wallaroo_request"


def fingerprint(question: Question, checkpoint: str, options: Mapping[str, Any]) -> str:
    """Fingerprint of a question (its conversation, pictures, settings) to a checkpoint, with other options."""
    media = [picture_hash(picture) for picture in map(to_rgb, question.media("image"))]
    clips = [[str(clip), os.path.getsize(clip)] for clip in question.media("video") if os.path.exists(str(clip))]
    texts = [
        [message["role"], message["content"]]
        if isinstance(message["content"], str)
        else [message["role"], [[part["type"], part.get("text")] for part in message["content"]]]
        for message in question.messages
    ]
    return _digest([checkpoint, question.name, texts, media, clips, asdict(question.settings), dict(options)])


def computed_by(model: Any, processor: Any) -> dict[str, Any]:
    """What answers and pictures hang on besides checkpoint and request: the dtype, and in how many pixels a picture is
    seen."""
    size = processor.image_processor.size
    return {"dtype": str(model.dtype), "sees": [size["shortest_edge"], size["longest_edge"]]}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


class AnswerStore:
    """Answers in a folder, a line each, in files of one writer each (`rank-0.jsonl`, ...); all of them are read.

    A line that a kill left half written is passed over, and the next one begins on a line of its own.
    """

    def __init__(self, folder: str | Path, rank: int = 0):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"rank-{rank}.jsonl"
        self._known: dict[str, Answer] = {}
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # not at U+2028 in it
                try:
                    key, *answer = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self._known[key] = Answer(*answer)
        whole = not self.path.is_file() or self.path.read_bytes()[-1:] in (b"", b"\n")
        self._file = self.path.open("a", encoding="utf-8")
        if not whole:
            self._file.write("\n")

    def get(self, key: str) -> Answer | None:
        return self._known.get(key)

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Keeps answers by their fingerprints, on the disk when this returns."""
        for key, answer in answers.items():
            self._known[key] = answer
            self._file.write(json.dumps([key, *astuple(answer)], ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def picture_path(folder: str | Path, name: str) -> Path:
    """Where the picture of a request goes: `FOLDER/imgedit/17.png` for `imgedit/17`."""
    return Path(folder, *(re.sub(r"[^\w.#-]", "_", part) for part in f"{name}.png".split("/")))


def is_drawn(path: Path, key: str) -> bool:
    """Whether the file is the whole picture of the request with this fingerprint."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.info.get(FINGERPRINT) == key
    except (OSError, SyntaxError, ValueError):  # not there, or what a kill left of it
        return False


def save_picture(picture: Image.Image, path: Path, key: str) -> None:
    """Writes a PNG that knows its request, whole or not at all."""
    info = PngImagePlugin.PngInfo()
    info.add_text(FINGERPRINT, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    picture.save(partial, format="PNG", pnginfo=info)
    os.replace(partial, path)


__all__ = ["AnswerStore", "computed_by", "fingerprint", "is_drawn", "picture_path", "save_picture"]
