# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Whether a folder is a whole checkpoint, or a LoRA adapter of one, that may go to the Hub."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_imports

from ..configuration_wallaroo import WallarooConfig
from ..modeling_wallaroo import WallarooForConditionalGeneration
from .parts import count_parameters

SENT, LEFT_OUT, REFUSED = "sent", "left out", "refused"
# Files that run code when they are read, or may.
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".joblib")
CARD, CONFIG, ADAPTER_CONFIG = "README.md", "config.json", "adapter_config.json"
WEIGHTS, INDEX, ADAPTER_WEIGHTS = "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"
PROCESSOR = ("processor_config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja")


@dataclass(frozen=True)
class FolderFile:
    """A file, what becomes of it (one of `SENT`, `LEFT_OUT`, `REFUSED`), and why where it is not sent."""

    name: str
    size: int
    fate: str = SENT
    why: str = ""


@dataclass(frozen=True)
class CheckpointFolder:
    """What there is in a folder, and what is wrong with it.

    Attributes:
        files: all of them, with paths relative to the folder.
        problems: sentences; with any of them nothing is sent.
        shapes: of the weights, by name.
    """

    path: Path
    is_adapter: bool
    files: list[FolderFile]
    problems: list[str] = field(default_factory=list)
    shapes: dict[str, list[int]] = field(default_factory=dict)

    @property
    def sent(self) -> list[FolderFile]:
        return [file for file in self.files if file.fate == SENT]

    def has(self, name: str) -> bool:
        return any(file.name == name for file in self.sent)

    def read_json(self, name: str) -> dict[str, Any]:
        """An empty one where there is none that can be read; `problems` says so then."""
        try:
            values = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError):
            return {}
        return values if isinstance(values, dict) else {}

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Of each part."""
        return count_parameters(self.shapes.items())


def read_folder(path: str | Path) -> CheckpointFolder:
    """Looks at a folder without loading it; a `ValueError` where it is neither a checkpoint nor an adapter at all."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(
            f"`folder` must be the folder of a checkpoint or of a LoRA adapter, but there is no folder {path}."
        )
    is_adapter = (path / ADAPTER_CONFIG).is_file() and not (path / CONFIG).is_file()
    if not is_adapter and not (path / CONFIG).is_file():
        raise ValueError(
            f"`folder` must be the folder of a checkpoint or of a LoRA adapter, but {path} has no {CONFIG} and no "
            f"{ADAPTER_CONFIG}. A run's checkpoint is in its folder `final`."
        )
    folder = CheckpointFolder(path, is_adapter, list(_files(path)))
    refused = [file.name for file in folder.files if file.fate == REFUSED]
    if refused:
        folder.problems.append(
            f"{', '.join(refused)} may hold pickled code, which runs when it is read: only safetensors are sent. "
            "Remove it, or save the weights anew with `save_pretrained`."
        )
    for problem in (_adapter_problems if is_adapter else _checkpoint_problems)(folder):
        folder.problems.append(problem)
    return folder


def _files(path: Path) -> Iterator[FolderFile]:
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        name, size = file.relative_to(path).as_posix(), file.stat().st_size
        if any(part.startswith(".") or part == "__pycache__" for part in name.split("/")):
            yield FolderFile(name, size, LEFT_OUT, "hidden, or a cache")
        elif name == CARD:
            yield FolderFile(name, size, LEFT_OUT, "the card is made from it, or anew")
        elif file.suffix.lower() in PICKLED:
            yield FolderFile(name, size, REFUSED, "may hold pickled code")
        else:
            yield FolderFile(name, size)


# ------------------------------------------------------------------ a checkpoint


def _checkpoint_problems(folder: CheckpointFolder) -> Iterator[str]:
    config = folder.read_json(CONFIG)
    kind = config.get("model_type")
    if kind != WallarooConfig.model_type:
        yield f"{CONFIG} is of the type {kind!r}, not of a Wallaroo."
        return
    missing = [name for name in ("generation_config.json", *PROCESSOR) if not folder.has(name)]
    if missing:
        yield (
            f"It has no {', '.join(missing)}: a checkpoint holds what `model.save_pretrained` and "
            "`processor.save_pretrained` write, both into one folder."
        )
    yield from _unreadable(folder)
    yield from _weight_problems(folder, config)
    yield from _code_problems(folder, (CONFIG, *PROCESSOR[:2]), "modeling_wallaroo")


def _unreadable(folder: CheckpointFolder) -> Iterator[str]:
    for file in folder.sent:
        if file.name.endswith(".json") and "/" not in file.name and not folder.read_json(file.name):
            yield f"{file.name} is no JSON object."


def _weight_problems(folder: CheckpointFolder, config: Mapping[str, Any]) -> Iterator[str]:
    by_file: dict[str, set[str]] = {}
    if folder.has(INDEX):
        for name, file in folder.read_json(INDEX).get("weight_map", {}).items():
            by_file.setdefault(file, set()).add(name)
    elif folder.has(WEIGHTS):
        by_file[WEIGHTS] = set()
    if not by_file:
        yield f"It has no weights: neither {WEIGHTS} nor an {INDEX} that names their files."
        return
    found = {file.name for file in folder.sent if file.name.endswith(".safetensors") and "/" not in file.name}
    if set(by_file) - found:
        yield f"{INDEX} names {', '.join(sorted(set(by_file) - found))}, which is not there."
    if found - set(by_file):
        yield f"{', '.join(sorted(found - set(by_file)))} is in no index, left perhaps by another save: remove it."
    problems = len(folder.problems)
    for file in sorted(found & set(by_file)):
        yield from _read_header(folder, file, by_file[file])
    if set(by_file) <= found and len(folder.problems) == problems and "quantization_config" not in config:
        yield from _missing_weights(folder)


def _read_header(folder: CheckpointFolder, file: str, expected: set[str]) -> Iterator[str]:
    """Notes the shapes of a file's weights, and tells what it lacks."""
    try:
        with safe_open(folder.path / file, "pt") as weights:
            shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        yield f"{file} is no whole safetensors file: {error}."
        return
    folder.shapes.update(shapes)
    lost = sorted(expected - set(shapes))
    if lost:
        yield f"{file} lacks {_some(lost)}, which {INDEX} says is there."


def _missing_weights(folder: CheckpointFolder) -> Iterator[str]:
    """What a model of the folder's config has, and the files have not, or in another shape."""
    try:
        config = WallarooConfig.from_pretrained(folder.path)
        with torch.device("meta"):
            model = WallarooForConditionalGeneration(config)
    except (ValueError, TypeError) as error:
        yield f"{CONFIG} describes a model that cannot be built: {error}"
        return
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    lost = [name for name in expected if name not in folder.shapes]
    if lost:
        yield f"The weights are not all there: {_some(lost)} is missing."
    other = [name for name, shape in expected.items() if name in folder.shapes and folder.shapes[name] != shape]
    if other:
        yield f"The weights do not fit {CONFIG}: {_some(other)} has another shape."


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


# ------------------------------------------------------------------ remote code


def _code_problems(folder: CheckpointFolder, configs: tuple[str, ...], entry: str) -> Iterator[str]:
    """What `trust_remote_code=True` would not find in the folder itself; `entry` is the file that it begins with."""
    classes = [name for file in configs for name in _auto_classes(folder.read_json(file))]
    if not any(name.split("--")[-1].startswith(f"{entry}.") for name in classes):
        yield (
            "It has no remote code, which `trust_remote_code=True` loads. Load model and processor with this package "
            "and save them into another folder: `save_pretrained` writes the code beside them."
        )
        return
    foreign = sorted({name.split("--")[0] for name in classes if "--" in name})
    if foreign:
        yield (
            f"Its code is that of another repository, {', '.join(foreign)}, which no revision of this one pins. Load "
            "it with this package and save it anew."
        )
    seen: set[str] = set()
    open_names = {name.split("--")[-1].split(".")[0] for name in classes}
    while open_names:
        module = open_names.pop()
        seen.add(module)
        if not folder.has(f"{module}.py"):
            yield f"It has no {module}.py, which its code needs."
            continue
        open_names |= set(get_relative_imports(folder.path / f"{module}.py")) - seen


def _auto_classes(values: Any) -> Iterator[str]:
    """The classes of every `auto_map` within."""
    if not isinstance(values, dict):
        return
    for key, value in values.items():
        if key == "auto_map" and isinstance(value, dict):
            for names in value.values():
                yield from (name for name in (names if isinstance(names, list) else [names]) if name)
        else:
            yield from _auto_classes(value)


# ------------------------------------------------------------------ an adapter


def _adapter_problems(folder: CheckpointFolder) -> Iterator[str]:
    yield from _unreadable(folder)
    if not folder.has(ADAPTER_WEIGHTS):
        yield f"It has no {ADAPTER_WEIGHTS}."
    else:
        yield from _read_header(folder, ADAPTER_WEIGHTS, set())
    if folder.has(PROCESSOR[0]):
        yield from _code_problems(folder, PROCESSOR[:2], "processing_wallaroo")


__all__ = ["LEFT_OUT", "REFUSED", "SENT", "CheckpointFolder", "FolderFile", "read_folder"]
