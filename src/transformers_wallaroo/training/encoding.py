# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Makes cached codes: the images of a data set go through the VQ tokenizer once. `codes.py` says what the files are."""

import importlib.metadata
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file
from torch.utils.data import DataLoader
from transformers.utils import logging

from ..configuration_wallaroo import WallarooConfig, WallarooVQConfig
from ..image_grid_wallaroo import ImageTask, get_task
from ..modeling_wallaroo_vq import ENCODE_CHUNK, WallarooVQModel
from ..processing_wallaroo import WallarooProcessor
from .codes import ENCODING, black_path, shards_of, tokenizer_hash
from .collator import DroppedSample
from .encoding_samples import LeftOutSample, PreparedSample, SamplesToEncode
from .sources import open_source
from .stages import StageConfig, load_processor

logger = logging.get_logger(__name__)

FORMAT = 1
ROW_GROUP = 128  # rows that a reader has in memory at once
ON_ERROR = ("raise", "skip")
LIBRARIES = ("transformers-wallaroo", "transformers", "torch", "datasets")


# ---------------------------------------------------------------------- the data sets of a recipe


def encode_recipe(
    config: StageConfig,
    output: str | Path,
    *,
    samples: int | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Encodes the images that a recipe's `data` names, a folder a task.

    Args:
        config: the recipe. Its tokenizer, sizes, `min_side` and `max_ratio` hold.
        output: folder; `output/generate` and `output/edit` become folders of codes.
        samples: most samples of a task; by default all, and of a source without end as many as the run takes.
        device: where the tokenizer computes; by default this process's GPU, or the CPU.
        options: of `encode_dataset`: `batch_size`, `shard_size`, `workers`, `on_error`, `rank`, `world_size`,
            `show_progress`.

    Returns:
        The recipe's `data` with the codes in place of the images: what the recipe should say from now on.
    """
    wanted = [
        task for task in config.data if isinstance(get_task(task), ImageTask) and "encoded" not in config.data[task]
    ]
    if not wanted:
        raise ValueError(f"`config` has no images to encode: the tasks of its `data` are {sorted(config.data)}.")
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    processor = load_processor(config)
    vq_model = load_tokenizer(config).to(device)
    data = dict(config.data)
    for task in wanted:
        count = config.steps * config.accumulation(1) * config.tasks[task]
        dataset: Any = open_source(task, config.data[task], count if samples is None else samples)
        if samples is not None and len(dataset) > samples:
            dataset = torch.utils.data.Subset(dataset, range(samples))
        folder = Path(output) / task
        encode_dataset(
            dataset,
            vq_model,
            processor,
            folder,
            min_side=config.min_side,
            max_ratio=config.max_ratio,
            data=config.data[task],
            **options,
        )
        data[task] = {"encoded": {"path": str(folder)}}
    return data


def load_tokenizer(config: StageConfig) -> WallarooVQModel:
    """The VQ tokenizer that a recipe trains with: its `vq_model`, or that of the checkpoint it starts from.

    Of a checkpoint nothing else is loaded. The tokenizer computes in float32 whatever the checkpoint is in, as the
    model's own does: in bfloat16 its codes would be others.
    """
    return load_vq(config.init if config.vq_model is None else config.vq_model)


def load_vq(checkpoint: str | Path) -> WallarooVQModel:
    """The VQ tokenizer of a checkpoint, or one that was saved by itself, in float32."""
    kind = WallarooConfig.get_config_dict(checkpoint)[0].get("model_type")
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    if kind == WallarooVQConfig.model_type:
        vq_model, info = WallarooVQModel.from_pretrained(checkpoint, **options)
    elif kind == WallarooConfig.model_type:
        config = WallarooConfig.from_pretrained(checkpoint).vq_config
        mapping = {r"^model\.vq_model\.": ""}
        vq_model, info = _PartOfCheckpoint.from_pretrained(checkpoint, config=config, key_mapping=mapping, **options)
    else:
        raise ValueError(
            f"`checkpoint` must be a Wallaroo or a VQ tokenizer, but {checkpoint} is of the type {kind!r}."
        )
    if info["missing_keys"]:
        raise ValueError(f"{checkpoint} holds no whole VQ tokenizer: it lacks {sorted(info['missing_keys'])[:5]}.")
    return vq_model.eval()


class _PartOfCheckpoint(WallarooVQModel):
    _keys_to_ignore_on_load_unexpected = [r"."]


# ---------------------------------------------------------------------- a data set


def encode_dataset(
    dataset: Any,
    vq_model: WallarooVQModel,
    processor: WallarooProcessor,
    output: str | Path,
    *,
    batch_size: int = 32,
    shard_size: int = 2048,
    workers: int = 0,
    on_error: str = "raise",
    min_side: int = 0,
    max_ratio: float | None = None,
    data: Any = None,
    rank: int | None = None,
    world_size: int | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Encodes the images of a data set, in shards; a run that was stopped goes on where it was.

    Sizes are those that the collator would take: as the sample says, else the bucket of the picture. A sample's codes
    and latents depend on its pixels alone, not on `batch_size` nor on its neighbours. Of its other fields those that
    JSON can hold are kept; pictures and other objects are not (but the whole source picture of an edit is).

    Args:
        dataset: samples of `generate`, or samples of `edit`, by index, as `WallarooDataCollator` takes them.
        vq_model: tokenizer; it computes where it is.
        processor: the sizes in which images are made; that of the recipe, see `load_processor`.
        output: folder.
        batch_size: samples of one size that are collected before they go to the device.
        shard_size: samples a file; a process holds one shard in memory.
        workers: processes that read and resize pictures.
        on_error: `"raise"`, or `"skip"` to leave out samples that cannot be encoded and list them in `encoding.json`.
        min_side, max_ratio: as the collator's: images to be learned by `generate` that break them are dropped.
        data: what the data set is, in words of JSON; going on with another one in the same folder is refused.
        rank, world_size: this process, and how many share the shards; by default as `accelerate launch` says.
        show_progress: whether to draw a bar, with the time that is left.

    Returns:
        What `encoding.json` holds; `complete` is false while other processes are at work.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"`on_error` must be one of {ON_ERROR}, but got {on_error!r}.")
    rank, world_size = _place(rank, world_size)
    output = Path(output)
    settings = _settings(dataset, vq_model, processor, shard_size, min_side, max_ratio, data)
    _begin(output, settings)
    todo = [
        shard
        for number, shard in enumerate(shards_of(output, settings["source_samples"], shard_size))
        if number % world_size == rank and not _is_whole(shard[0])
    ]
    samples = SamplesToEncode(
        dataset, settings["task"], processor, min_side=min_side, max_ratio=max_ratio, skip=on_error == "skip"
    )
    indices = [index for _, of_shard in todo for index in of_shard]
    loader = DataLoader(samples, batch_size=None, sampler=indices, num_workers=workers)
    name = f"encoding {settings['task']}"
    with logging.tqdm(total=len(indices), desc=name, unit="sample", position=rank, disable=not show_progress) as bar:
        prepared = _counted(loader, bar)
        for path, of_shard in todo:
            rows, left_out = _encode_shard(vq_model, output, prepared, len(of_shard), batch_size)
            _write_shard(path, rows, left_out, is_edit=settings["task"] == "edit")
    return _finish(output, settings, changed=bool(todo))


def _counted(samples: Iterable[Any], bar: Any) -> Iterator[Any]:
    for sample in samples:
        bar.update()
        yield sample


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
    if not 0 <= rank < world_size:
        raise ValueError(f"`rank` must be in [0, `world_size`), but got {rank} of {world_size}.")
    return rank, world_size


def _settings(dataset, vq_model, processor, shard_size, min_side, max_ratio, data) -> dict[str, Any]:
    """All that the content of the folder depends on."""
    if len(dataset) == 0:
        raise ValueError("`dataset` has no samples.")
    if shard_size < 1:
        raise ValueError(f"`shard_size` must be 1 or more, but got {shard_size!r}.")
    task = _task_of(dataset)
    if not isinstance(get_task(task), ImageTask):
        raise ValueError(f"`dataset` has samples of {task!r}, which have no image to be learned.")
    factor = processor.image_processor.downsample_factor
    if factor != vq_model.downsample_factor:
        raise ValueError(
            f"`processor` has cells of {factor} pixels, but `vq_model` has cells of {vq_model.downsample_factor}: they "
            "are not of one checkpoint."
        )
    settings = {
        "format": FORMAT,
        "task": task,
        "data": data,
        "source_samples": len(dataset),
        "shard_size": shard_size,
        "downsample_factor": factor,
        "embed_dim": vq_model.config.embed_dim,
        "buckets": processor.image_processor.buckets,
        "min_side": min_side,
        "max_ratio": max_ratio,
        "vq_hash": tokenizer_hash(vq_model),
    }
    return json.loads(json.dumps(settings))  # as it will be read back


def _task_of(dataset: Any) -> str:
    """The task of the first sample that is not left out."""
    for index in range(len(dataset)):
        try:
            return dataset[index]["task"]
        except DroppedSample as error:
            last = error
    raise ValueError(f"`dataset` has no samples that can be encoded. The last one: {last}")


def _begin(output: Path, settings: Mapping[str, Any]) -> None:
    """Notes the settings in a new folder; raises where the folder was begun with others."""
    if not (output / ENCODING).is_file():
        output.mkdir(parents=True, exist_ok=True)
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        _write_json(output / ENCODING, {**settings, "versions": versions, "complete": False})
        return
    before = json.loads((output / ENCODING).read_text(encoding="utf-8"))
    changed = [name for name, value in settings.items() if before.get(name) != value]
    if changed:
        shown = "; ".join(f"`{name}` was {before.get(name)!r} and is {settings[name]!r}" for name in changed)
        raise ValueError(
            f"`output` {str(output)!r} was begun with another tokenizer or other settings, which do not go together in "
            f"one data set: {shown}. Take another folder, or remove this one."
        )


def _is_whole(path: Path) -> bool:
    """Whether a shard is there and readable; a damaged one is made anew."""
    try:
        return path.is_file() and pq.read_metadata(path) is not None
    except (OSError, ValueError):
        logger.warning(f"{path} is damaged; it is encoded anew.")
        return False


# ---------------------------------------------------------------------- a shard


def _encode_shard(
    vq_model: WallarooVQModel, output: Path, prepared: Iterator[Any], count: int, batch_size: int
) -> tuple[list[dict[str, Any]], list[LeftOutSample]]:
    """The rows of the next `count` samples, in their order, and what is left out."""
    waiting: dict[tuple[int, int], list[PreparedSample]] = defaultdict(list)
    rows: list[dict[str, Any]] = []
    left_out: list[LeftOutSample] = []
    for _ in range(count):
        sample = next(prepared)
        if isinstance(sample, LeftOutSample):
            left_out.append(sample)
            continue
        waiting[sample.size].append(sample)
        if len(waiting[sample.size]) == batch_size:
            rows += _encode_group(vq_model, output, waiting.pop(sample.size))
    for group in waiting.values():
        rows += _encode_group(vq_model, output, group)
    return sorted(rows, key=lambda row: row["index"]), left_out


def _encode_group(vq_model: WallarooVQModel, output: Path, group: Sequence[PreparedSample]) -> list[dict[str, Any]]:
    """Rows of samples of one size."""
    pictures = len(group[0].pixels)
    codes, latents = _encode_pixels(vq_model, torch.cat([sample.pixels for sample in group]))
    rows = []
    for place, sample in enumerate(group):
        row = {
            "index": sample.index,
            "prompt": sample.prompt,
            "height": sample.size[0],
            "width": sample.size[1],
            "codes": codes[place * pictures],
            "fields": json.dumps(sample.fields, ensure_ascii=False),
        }
        if sample.source is not None:
            row["source_image"] = {"bytes": sample.source, "path": None}
            row["source_latents"] = latents[place * pictures + 1].ravel()
            _keep_black_latents(vq_model, black_path(output, *sample.size), sample.size)
        rows.append(row)
    return rows


def _encode_pixels(vq_model: WallarooVQModel, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 `(pictures, cells)` and latents float32 `(pictures, cells, embed_dim)`.

    The encoder always gets as many pictures. A convolution may add up in another order in a batch of another size, and
    what becomes of a picture must not depend on the pictures beside it.
    """
    filling = pixels.new_zeros(-len(pixels) % ENCODE_CHUNK, *pixels.shape[1:])
    chunks: list[Any] = [vq_model.encode(chunk) for chunk in torch.cat([pixels, filling]).split(ENCODE_CHUNK)]
    codes = torch.cat([chunk["codes"].flatten(1) for chunk in chunks])[: len(pixels)]
    latents = torch.cat([chunk["latents"].flatten(1, 2) for chunk in chunks])[: len(pixels)]
    return codes.cpu().numpy().astype(np.int32), latents.float().contiguous().cpu().numpy()


def _keep_black_latents(vq_model: WallarooVQModel, path: Path, size: tuple[int, int]) -> None:
    if not path.is_file():
        _, latents = _encode_pixels(vq_model, torch.full((1, 3, *size), -1.0))
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        save_file({"latents": latents[0]}, temporary)
        os.replace(temporary, path)


def _write_shard(path: Path, rows: list[dict[str, Any]], left_out: Sequence[LeftOutSample], *, is_edit: bool) -> None:
    """What is left out is noted first, for a shard that is there is done."""
    if left_out:
        _write_json(_beside(path), [vars(sample) for sample in left_out])
    else:
        _beside(path).unlink(missing_ok=True)
    number, text = datasets.Value("int32"), datasets.Value("string")
    columns = {"index": datasets.Value("int64"), "prompt": text, "height": number, "width": number}
    columns.update(codes=datasets.List(number), fields=text)
    if is_edit:
        columns.update(source_image=datasets.Image(), source_latents=datasets.List(datasets.Value("float32")))
    temporary = path.with_name(f".{path.name}.partial")
    # The schema is that of `datasets`, whose own writer takes no shard without rows.
    table = pa.Table.from_pylist(rows, schema=datasets.Features(columns).arrow_schema)
    pq.write_table(table, temporary, row_group_size=ROW_GROUP, compression="zstd")
    os.replace(temporary, path)


def _beside(path: Path) -> Path:
    return path.with_suffix(".left-out.json")


def _finish(output: Path, settings: Mapping[str, Any], *, changed: bool) -> dict[str, Any]:
    """Adds the counts to `encoding.json` once all shards are there: the process that is last does it."""
    encoding = json.loads((output / ENCODING).read_text(encoding="utf-8"))
    paths = [path for path, _ in shards_of(output, settings["source_samples"], settings["shard_size"])]
    if not all(path.is_file() for path in paths):
        return {**encoding, "complete": False}
    if encoding["complete"] and not changed:
        return encoding
    sizes: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    skipped: dict[str, str] = {}
    for path in paths:
        table = pq.read_table(path, columns=["height", "width"]).to_pydict()
        sizes.update(f"{height}x{width}" for height, width in zip(table["height"], table["width"], strict=True))
        for sample in json.loads(_beside(path).read_text(encoding="utf-8")) if _beside(path).is_file() else []:
            if sample["reason"] is None:
                skipped[str(sample["index"])] = sample["message"]
            else:
                dropped[sample["reason"]] += 1
    if skipped:
        logger.warning(f"{len(skipped)} samples could not be encoded and were skipped; {output / ENCODING} lists them.")
    counts = {"samples": sum(sizes.values()), "sizes": dict(sizes), "dropped": dict(dropped), "skipped": skipped}
    encoding.update(counts, complete=True)
    _write_json(output / ENCODING, encoding)
    return encoding


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


__all__ = ["encode_dataset", "encode_recipe", "load_tokenizer", "load_vq"]
