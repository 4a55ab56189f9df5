# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Where pictures are written: names that say what they hold and take no other's place."""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .engine import MadeImage
from .pictures import save_picture

SLUG_LENGTH = 40  # characters


def slug(text: str) -> str:
    """A text as a part of a file name, in any language: `"a red circle"` becomes `a-red-circle`."""
    name = "-".join(re.findall(r"\w+", text.lower()))
    if len(name) > SLUG_LENGTH:
        whole_words = name[: SLUG_LENGTH + 1].rpartition("-")[0]
        name = whole_words or name[:SLUG_LENGTH]
    return name or "picture"


def numbered(path: Path) -> Iterator[Path]:
    """`a.png`, `a-2.png`, `a-3.png` and so on."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def save_under_free_name(made: MadeImage, path: Path) -> Path:
    """Saves a picture under this name, or the next of `numbered` that nobody has. Returns the name."""
    for free in numbered(path):
        if os.path.lexists(free):
            continue
        try:
            return save_picture(made.picture, free, made.info, replace=False)
        except FileExistsError:  # another program was quicker
            continue
    raise AssertionError("there is always a next name")


class Outputs:
    """Where the pictures of one command go.

    Args:
        output: a file that ends in .png; or a folder, in which each picture gets a name of its own; by default the
            folder that the command runs in.
        count: how many pictures there will be; several in one file become `a-1.png`, `a-2.png`, ...
        force: whether the file may be replaced.
    """

    def __init__(self, output: Path | None, count: int, *, force: bool = False):
        self.folder: Path | None = None
        self.files: list[Path] = []
        if output is None or output.is_dir() or output.suffix == "":
            self.folder = Path() if output is None else output
            if self.folder.exists() and not self.folder.is_dir():
                raise ValueError(f"`--output` must end in .png or be a folder, but {output} is a file of another name.")
            return
        if output.suffix.lower() != ".png":
            raise ValueError(f"`--output` must end in .png, or be a folder, but got {output}.")
        if count == 1:
            self.files = [output]
        else:
            self.files = [output.with_name(f"{output.stem}-{number}{output.suffix}") for number in range(1, count + 1)]
        folder = next((path for path in self.files if path.is_dir()), None)
        if folder is not None:
            raise ValueError(f"`--output` must be a file or a new name, but {folder} is a folder.")
        taken = next((path for path in self.files if os.path.lexists(path)), None)
        if taken is not None and not force:
            raise ValueError(f"`--output`: {taken} is there already. Take another name, or --force to replace it.")

    def save(self, index: int, made: MadeImage) -> Path:
        """Writes the picture with this index and returns its file."""
        if self.folder is None:
            return save_picture(made.picture, self.files[index], made.info)
        name = f"{slug(made.info['prompt'])}-{made.info['seed']}.png"
        return save_under_free_name(made, self.folder / name)


__all__ = ["Outputs", "numbered", "save_under_free_name", "slug"]
