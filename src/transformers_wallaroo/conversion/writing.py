# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint folder, written shard by shard, whole or not at all."""

import contextlib
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from ..configuration_wallaroo import WallarooConfig
from ..modeling_wallaroo import WallarooForConditionalGeneration
from ..processing_wallaroo import WallarooProcessor
from .keys import VQ, check_keys, drop_tied_head, expected_shapes, fresh_weight, vq_entries
from .reading import CheckpointError, Loader

# The file by which these commands know a folder that they wrote.
RECORD = "conversion.json"
# What a hidden folder beside the output is: the result that is being written, or the one that it takes the place of.
NEW, OLD = "new", "old"


def write_shards(
    folder: Path,
    entries: Mapping[str, tuple[Loader, torch.Size]],
    dtype_of: Callable[[str], torch.dtype],
    max_shard_size: str,
) -> None:
    """Writes safetensors shards; no more than one shard is in memory at a time."""
    try:
        plan = split_torch_state_dict_into_shards(
            {key: torch.empty(shape, dtype=dtype_of(key), device="meta") for key, (_, shape) in entries.items()},
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise CheckpointError(f"The shard size {max_shard_size!r} cannot be used: {error}") from error
    for filename, keys in tqdm(plan.filename_to_tensors.items(), desc="writing", unit="shard"):
        shard = {key: entries[key][0]().to(dtype_of(key)).contiguous().clone() for key in keys}
        save_file(shard, folder / filename, metadata={"format": "pt"})
        (folder / filename).chmod(0o644)  # safetensors makes files that only their owner reads
        del shard
    if plan.is_sharded:
        index = {"metadata": {"total_size": plan.metadata["total_size"]}, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def record_of(folder: Path, model_type: str) -> dict[str, Any]:
    """What tells a result of these commands from a folder that was made otherwise or trained since."""
    weights = {file.name: sha256(file) for file in sorted(folder.glob("*.safetensors"))}
    return {"model_type": model_type, "weights": weights}


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as reader:
        while chunk := reader.read(1 << 24):
            digest.update(chunk)
    return digest.hexdigest()


def is_earlier_result(output: Path, model_type: str) -> bool:
    """Whether a folder is empty, or a result of the same kind whose weights nobody has changed."""
    if not output.is_dir():
        return False
    if not any(output.iterdir()):
        return True
    try:
        record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return record == record_of(output, model_type)


@contextlib.contextmanager
def whole_folder(output: str | os.PathLike, model_type: str) -> Iterator[Path]:
    """A folder to write into that takes the place of `output` when all went well, and leaves no trace otherwise.

    An `output` that is there already must be empty or an earlier result, see `is_earlier_result`. What a run into the
    same `output` left when it was killed is removed.
    """
    output = Path(output).absolute()
    _remove_left(output)
    if output.exists() and not is_earlier_result(output, model_type):
        raise CheckpointError(
            f"{output} exists and is no earlier result of this command: it is a file, another folder, or its weights "
            "were changed since. Nothing was written; choose another output folder."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    work = _beside(output, NEW)
    try:
        yield work
        (work / RECORD).write_text(json.dumps(record_of(work, model_type), indent=2) + "\n")
        work.chmod(0o755)
        if not output.exists():
            work.rename(output)
            return
        old = _beside(output, OLD)
        output.rename(old / output.name)
        try:
            work.rename(output)
        except BaseException:
            (old / output.name).rename(output)
            raise
        finally:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _beside(output: Path, kind: str) -> Path:
    """A new hidden folder beside `output`, whose name says which process of which machine it belongs to."""
    prefix = f".{output.name}.{_machine()}-{os.getpid()}."
    folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=f".{kind}", dir=output.parent))
    _made.add(folder.name)
    return folder


# Names of the hidden folders of this process; one of its number that it has not made is of an earlier process.
_made: set[str] = set()


def _machine() -> str:
    """This machine; of a container that has process numbers of its own, that too."""
    namespace = Path("/proc/self/ns/pid")
    return f"{platform.node()}.{namespace.stat().st_ino if namespace.exists() else 0}"


def _remove_left(output: Path) -> None:
    """Removes what killed processes of this machine have left beside `output`. A result that one of them had just moved
    out of its way comes back."""
    machine = re.escape(_machine())
    name = re.compile(rf"\.{re.escape(output.name)}\.{machine}-(\d+)\.\w+\.({NEW}|{OLD})")
    for path in sorted(output.parent.glob(f".{glob.escape(output.name)}.*")):
        found = name.fullmatch(path.name)
        if found is None or path.name in _made or (int(found[1]) != os.getpid() and _is_running(int(found[1]))):
            continue
        if found[2] == OLD and not output.exists() and (path / output.name).is_dir():
            (path / output.name).rename(output)
        shutil.rmtree(path)


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere `os.kill` ends what it is asked about
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def save_code_and_configs(
    folder: Path, config: WallarooConfig, processor: WallarooProcessor, generation_config: GenerationConfig
) -> None:
    """Everything of a checkpoint folder but the weights: configs, tokenizer, chat template, remote code."""
    custom_object_save(WallarooForConditionalGeneration, folder)
    config.save_pretrained(folder)
    generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_wallaroo(
    output: str | os.PathLike,
    config: WallarooConfig,
    processor: WallarooProcessor,
    generation_config: GenerationConfig,
    entries: dict[str, tuple[Loader, torch.Size]],
    unknown: list[str],
    vq_state: Mapping[str, torch.Tensor],
    *,
    may_miss: tuple[str, ...],
    why: str,
    dtype: torch.dtype,
    max_shard_size: str,
) -> list[str]:
    """Adds the VQ tokenizer to renamed `entries`, checks every key, fills in the parts that may be missing, and
    writes the folder. Returns a line for each dropped key and each newly initialised weight."""
    for part in (config, config.text_config, config.vision_config, config.vq_config):
        part.dtype = dtype
    config.row_ends = processor.row_ends
    vq, dropped, vq_unknown = vq_entries(vq_state)
    entries = {**entries, **vq}
    drop_tied_head(entries, config)
    expected = expected_shapes(config)
    fresh = check_keys(entries, expected, unknown + vq_unknown, may_miss=may_miss)
    for key in fresh:
        _, fan_in = expected[f"{key.rpartition('.')[0]}.weight"]
        entries[key] = partial(fresh_weight, key, expected[key], fan_in), expected[key]
    with whole_folder(output, config.model_type) as folder:
        save_code_and_configs(folder, config, processor, generation_config)
        write_shards(
            folder,
            {key: entries[key] for key in expected},
            lambda key: torch.float32 if key.startswith(VQ) else dtype,
            max_shard_size,
        )
    return [f"dropped {key}" for key in dropped] + [f"newly initialised {key} ({why})" for key in fresh]
