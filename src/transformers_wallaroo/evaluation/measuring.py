# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What is measured of many pictures: shared by processes, and a file a batch, so that a stopped run goes on.

Batches are planned before it is known which of them are done, and are the same in every process: a picture is computed
beside the same others whatever the number of processes and however often the run was stopped. What was measured is read
in the order of the pictures, so that sums over them are the same as well.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers.utils import logging

from ..image_processing_wallaroo import BROKEN, to_rgb
from .processes import Processes
from .run_files import PARTIAL, write_whole
from .run_notes import as_json, check_same, earlier_run, note_begin

logger = logging.get_logger(__name__)

MEASURED, REPORT = "measured", "report.json"
# Beside what was measured: which pictures these are, of how many bytes their files were, and how large they are.
INDEX, BYTES, SIZE = "index", "bytes", "size"

# Pictures of one size, as RGB, to tensors whose first dimension is theirs.
Measure = Callable[[list[Image.Image]], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Pictures:
    """Pictures to be measured.

    Attributes:
        names: of each, the same wherever the folder lies.
        items: of each, a path or the picture itself.
        wanted: which of them, by their place; the others may be wanted when the run goes on.
        size_of: (height, width) in pixels that one of (height, width) is brought to.
        fit: brings one to (height, width).
        known_as: says which pictures these are, where their names do not.
    """

    names: Sequence[str]
    items: Sequence[Any]
    wanted: Sequence[int]
    size_of: Callable[[int, int], tuple[int, int]] = lambda height, width: (height, width)
    fit: Callable[[Image.Image, int, int], Image.Image] = lambda picture, height, width: picture  # noqa: ARG005
    known_as: str | None = None

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.items)

    def bytes_of(self, index: int) -> int:
        """Of the file; 0 of what is none, or is gone."""
        item = self.items[index]
        return item.stat().st_size if isinstance(item, Path) and item.is_file() else 0

    def plan(self, batch_size: int) -> list[list[int]]:
        """All that are wanted in batches of pictures that, by their files, become one size."""
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in logging.tqdm(self.wanted, desc="sizes", unit="picture", disable=None, leave=False):
            by_size[self._planned_size(self.items[index])].append(index)
        cut = [
            same[start : start + batch_size] for same in by_size.values() for start in range(0, len(same), batch_size)
        ]
        return sorted(cut)

    def _planned_size(self, item: Any) -> tuple[int, int]:
        """Without decoding it; (0, 0) of what cannot be read, which reading it tells of."""
        try:
            if isinstance(item, Image.Image):
                return self.size_of(item.height, item.width)
            with Image.open(item) as picture:
                return self.size_of(picture.height, picture.width)
        except BROKEN:
            return 0, 0

    def hash(self) -> str:
        return hashlib.sha256((self.known_as or "\n".join(self.names)).encode()).hexdigest()


class MeasureStore:
    """What was measured, in a folder: a safetensors file a batch, named by its first picture, whole or not there."""

    def __init__(self, output: Path):
        self.folder, self.partial = output / MEASURED, output / PARTIAL

    def files(self) -> list[Path]:
        """In the order of their first pictures."""
        return sorted(self.folder.glob("*.safetensors"))

    def known(self) -> dict[int, int]:
        """Pictures that were measured -> bytes of their files then."""
        known: dict[int, int] = {}
        for path in self.files():
            with safe_open(path, framework="pt") as file:
                known.update(zip(file.get_tensor(INDEX).tolist(), file.get_tensor(BYTES).tolist(), strict=True))
        return known

    def remove_damaged(self) -> None:
        for path in self.files():
            try:
                with safe_open(path, framework="pt") as file:
                    file.get_tensor(INDEX)
            except (SafetensorError, OSError) as error:
                logger.warning(f"{path} is damaged ({error}); its pictures are measured anew.")
                path.unlink()

    def add(self, indices: Sequence[int], tensors: Mapping[str, torch.Tensor]) -> None:
        tensors = {
            INDEX: torch.tensor(indices),
            **{name: value.contiguous().clone() for name, value in tensors.items()},
        }
        assert all(len(value) == len(indices) for value in tensors.values())
        write_whole(self.folder / f"{indices[0]:08}.safetensors", save(tensors), partial=self.partial)

    def read(self, wanted: Sequence[int]) -> Iterator[dict[str, torch.Tensor]]:
        """What was measured of these pictures, a batch at a time."""
        left = set(wanted)
        for path in self.files():
            with safe_open(path, framework="pt") as file:
                indices = file.get_tensor(INDEX).tolist()
                kept = [row for row, index in enumerate(indices) if index in left]
                left.difference_update(indices)
                if kept:
                    yield {name: file.get_tensor(name)[kept] for name in file.keys()}  # noqa: SIM118


def measure_pictures(
    pictures: Pictures,
    output: Path,
    load: Callable[[], Measure],
    processes: Processes,
    *,
    identity: Mapping[str, Any],
    noted: Mapping[str, Any],
    resume: bool,
    batch_size: int,
    device: Any,
    title: str,
    show_progress: bool | None,
) -> list[dict[str, str]]:
    """Measures what is not measured yet, in `output/measured`; the processes share the batches.

    Args:
        load: gives what measures; asked for only where something is left.
        identity: what a run that goes on must agree in.
        noted: more for `run.json`.
        title: of the progress bar.

    Returns:
        The files that cannot be read, each with its `path` and `error`; they are tried anew when a run goes on.
    """
    store = MeasureStore(output)

    def begin() -> list[list[int]]:
        before = earlier_run(output, MEASURED, resume=resume, what="measured pictures")
        agreed = as_json({**identity, "pictures_sha256": pictures.hash()})
        if before is not None:
            check_same(output, before, agreed)
        store.remove_damaged()
        _check_unchanged(output, pictures, store.known())
        # Of a run that was complete and is longer now, the report is of fewer pictures.
        values = {**agreed, **noted, "files": len(pictures.wanted)}
        note_begin(output, before, batch_size=batch_size, processes=processes.count, device=device, **values)
        (output / REPORT).unlink(missing_ok=True)
        return pictures.plan(batch_size)

    batches = processes.first_does(begin)[processes.rank :: processes.count]
    known = store.known()
    todo = [missing for batch in batches if (missing := [index for index in batch if index not in known])]
    unreadable: list[dict[str, str]] = []
    if todo:
        measure, total = load(), sum(map(len, batches))
        with logging.tqdm(
            total=total,
            initial=total - sum(map(len, todo)),
            desc=title,
            unit="picture",
            position=processes.rank,
            # `disable=None` is tqdm's own "only on a terminal".
            disable=None if show_progress is None else not show_progress,
        ) as bar:
            for batch in todo:
                _measure_batch(batch, pictures, measure, store, unreadable)
                bar.update(len(batch))
    found = [entry for part in processes.gather(unreadable) for entry in part]
    return sorted(found, key=lambda entry: entry["path"])


def _measure_batch(
    batch: Sequence[int], pictures: Pictures, measure: Measure, store: MeasureStore, unreadable: list[dict[str, str]]
) -> None:
    """Measures and keeps a batch. What lies on its side by its EXIF data has another size than was planned."""
    by_size: dict[tuple[int, int], dict[int, Image.Image]] = defaultdict(dict)
    for index in batch:
        try:
            picture = to_rgb(pictures.items[index], name=str(pictures.items[index]))
        except ValueError as error:
            unreadable.append({"path": str(pictures.items[index]), "error": str(error)})
            continue
        size = pictures.size_of(picture.height, picture.width)
        by_size[size][index] = pictures.fit(picture, *size)
    for size, read in by_size.items():
        beside = {
            BYTES: torch.tensor([pictures.bytes_of(index) for index in read]),
            SIZE: torch.tensor([size] * len(read)),
        }
        store.add(list(read), {**beside, **measure(list(read.values()))})


def _check_unchanged(output: Path, pictures: Pictures, known: Mapping[int, int]) -> None:
    changed = [index for index, size in known.items() if pictures.bytes_of(index) != size]
    if changed:
        raise ValueError(
            f"`output` {str(output)!r} was begun with other pictures: {len(changed)} have changed, such as "
            f"{pictures.items[changed[0]]}. Take another folder."
        )


__all__ = ["MEASURED", "REPORT", "SIZE", "MeasureStore", "Pictures", "measure_pictures"]
