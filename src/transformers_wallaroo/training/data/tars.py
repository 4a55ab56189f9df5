# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Members of tar files by name or by sample, read where they lie: nothing is unpacked."""

import tarfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers.utils import logging

from .rows import find_files, kept_index

logger = logging.get_logger(__name__)

TAR_ENDINGS = (".tar",)
PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")


@dataclass(frozen=True)
class Member:
    """A file in a tar: where it lies, in bytes."""

    tar: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open(self.tar, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)

    def __str__(self) -> str:
        return f"{self.tar}, member {self.name!r}"


class _Tars:
    """The members of several tars, as arrays that workers share: name, tar, offset and size of each.

    `truncated` names the tars of which something after the last member found cannot be read.
    """

    def __init__(self, files: Sequence[Path]):
        self.files = list(files)
        self.truncated: list[str] = []
        found = []
        show = sum(file.stat().st_size for file in files) >= 2**30
        for file in logging.tqdm(files, desc="indexing tars", unit="tar", disable=not show):
            index = kept_index(file, "tar", _scan)
            found.append(index)
            if index["truncated"]:
                self.truncated.append(str(file))
                logger.warning(
                    f"{file} is truncated or corrupt: after {len(index['names'])} whole members nothing more can be "
                    "read. Download it again; until then these are used."
                )
        self.names = np.concatenate([index["names"] for index in found])
        self.offsets = np.concatenate([index["offsets"] for index in found])
        self.sizes = np.concatenate([index["sizes"] for index in found])
        self.tars = np.repeat(np.arange(len(found)), [len(index["names"]) for index in found])

    def member(self, place: int) -> Member:
        name = self.names[place].decode("utf-8", "replace")
        return Member(self.files[self.tars[place]], name, int(self.offsets[place]), int(self.sizes[place]))


def _scan(file: Path) -> dict[str, np.ndarray]:
    """Name, offset and size of the files in a tar, and whether it breaks off."""
    names, places, truncated, end = [], [], False, 0
    size = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.offset_data + member.size > size:
                    truncated = True
                    break
                if member.isfile():
                    names.append(member.name.removeprefix("./").encode("utf-8", "surrogateescape"))
                    places.append((member.offset_data, member.size))
    except tarfile.ReadError as error:
        if not names:
            hint = " It is compressed or split: unpack it first." if ".gz" in file.name or ".zst" in file.name else ""
            raise ValueError(f"{file} is no tar file that can be read: {error}.{hint}") from error
        truncated = True
    # A whole tar ends in blocks of zeros. `tarfile` takes a header that is none for the end, and says nothing.
    truncated = truncated or size < end + tarfile.BLOCKSIZE or not _ends_in_zeros(file, end)
    table = np.array(places, dtype=np.int64).reshape(-1, 2)
    return {
        "names": np.array(names, dtype=np.bytes_) if names else np.zeros(0, "S1"),
        "offsets": table[:, 0],
        "sizes": table[:, 1],
        "truncated": np.array(truncated),
    }


def _ends_in_zeros(file: Path, start: int) -> bool:
    """Whether a file has nothing but zeros from a byte on."""
    with open(file, "rb") as stream:
        stream.seek(start)
        while chunk := stream.read(2**20):
            if chunk.strip(b"\0"):
                return False
    return True


class TarFiles(_Tars):
    """Members of tars by their path."""

    def __init__(self, files: Sequence[Path]):
        super().__init__(files)
        self._order = np.argsort(self.names, kind="stable")
        self._sorted = self.names[self._order]

    def find(self, name: str) -> Member | None:
        """The member of this path, the first where there are several."""
        wanted = name.removeprefix("./").encode("utf-8", "surrogateescape")
        place = int(np.searchsorted(self._sorted, wanted))
        if place == len(self._sorted) or self._sorted[place] != wanted:
            return None
        return self.member(int(self._order[place]))


class TarSamples(_Tars):
    """The samples of webdataset tars: members that share their path up to the first dot of the file name.

    Args:
        path: tars, see `find_files`.
        parts: name -> extensions, of which each sample has one, such as `{"text": ("txt",)}`. A whole tar in which a
            sample lacks one is refused; the sample at which a broken one breaks off is left out.
    """

    def __init__(self, path, parts: dict[str, Sequence[str]]):
        super().__init__(find_files(path, TAR_ENDINGS))
        self.parts = dict(parts)
        broken = {Path(file) for file in self.truncated}
        rows: list[list[int | None]] = []
        # Samples at which a broken tar breaks off; those with none of the parts; members of a name that came before.
        self.incomplete = self.strange = self.repeated = 0
        for (tar, key), members in self._grouped().items():
            chosen = [next((members[end] for end in ends if end in members), None) for ends in parts.values()]
            if None not in chosen:
                rows.append(chosen)
            elif not any(place is not None for place in chosen):
                self.strange += 1
            elif self.files[tar] in broken:
                self.incomplete += 1
            else:
                lacking = list(parts.values())[chosen.index(None)]
                raise ValueError(
                    f"{self.files[tar]}, sample {key!r} has no {' or '.join('.' + end for end in lacking)}; it has "
                    f"{', '.join('.' + end for end in members)}."
                )
        if not rows:
            endings = sorted({name.decode("utf-8", "replace").rpartition(".")[2] for name in self.names[:1000]})
            wanted = ", ".join("." + ends[0] for ends in parts.values())
            raise ValueError(f"`path` {str(path)!r} has no samples of {wanted}; its tars hold {endings or 'nothing'}.")
        self._rows = np.array(rows, dtype=np.int64)

    def _grouped(self) -> dict[tuple[int, str], dict[str, int]]:
        grouped: dict[tuple[int, str], dict[str, int]] = defaultdict(dict)
        known = {ending for endings in self.parts.values() for ending in endings}
        for place, (tar, name) in enumerate(zip(self.tars.tolist(), self.names.tolist(), strict=True)):
            folder, _, file = name.decode("utf-8", "replace").rpartition("/")
            stem, _, ending = file.partition(".")
            if stem:  # what begins with a dot is no sample
                members, ending = grouped[tar, f"{folder}/{stem}" if folder else stem], ending.lower()
                self.repeated += ending in members and ending in known
                members.setdefault(ending, place)
        return grouped

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Member]:
        return {part: self.member(int(place)) for part, place in zip(self.parts, self._rows[index], strict=True)}

    def name_of(self, index: int) -> str:
        """Tar and member, for messages."""
        return str(self.member(int(self._rows[index][0])))

    def length_of(self, index: int, part: str) -> int:
        """Bytes of a part of a sample."""
        return int(self.sizes[self._rows[index][list(self.parts).index(part)]])


__all__ = ["PICTURES", "Member", "TarFiles", "TarSamples"]
