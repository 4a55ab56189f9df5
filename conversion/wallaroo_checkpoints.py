# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the conversion commands share: reading released files, the key tables, writing a folder whole or not at all."""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, split_torch_state_dict_into_shards
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoTokenizer, GenerationConfig, Qwen2_5_VLConfig
from transformers.dynamic_module_utils import custom_object_save

from transformers_wallaroo import (
    WallarooConfig,
    WallarooForConditionalGeneration,
    WallarooImageProcessor,
    WallarooProcessor,
    WallarooVQConfig,
    add_wallaroo_tokens,
)
from transformers_wallaroo.configuration_wallaroo import MLP_NAMES

# Released name -> ours, first match wins; `None` drops the key. docs/protocol.md section 1.
WALLAROO_KEYS: tuple[tuple[str, str | None], ...] = (
    (r"wallaroo\.visual\.(.+)", r"model.visual.\1"),
    (r"wallaroo\.model\.(.+)", r"model.language_model.\1"),
    (r"wallaroo\.lm_head\.(.+)", r"lm_head.\1"),
    (r"gen_input_adpater\.0\.(.+)", r"model.generation_adapter.fc1.\1"),
    (r"gen_input_adpater\.2\.(.+)", r"model.generation_adapter.fc2.\1"),
    (r"edit_input_adpater\.0\.(.+)", r"model.editing_adapter.fc1.\1"),
    (r"edit_input_adpater\.2\.(.+)", r"model.editing_adapter.fc2.\1"),
    (r"pixel_adapter\.0\.(.+)", r"model.source_adapter.fc1.\1"),
    (r"pixel_adapter\.2\.(.+)", r"model.source_adapter.fc2.\1"),
    (r"gen_image_head\.0\.(.+)", r"generation_head.fc1.\1"),
    (r"gen_image_head\.2\.weight", r"generation_head.fc2.weight"),
    (r"edit_image_head\.0\.(.+)", r"editing_head.fc1.\1"),
    (r"edit_image_head\.2\.weight", r"editing_head.fc2.weight"),
)
# A Qwen2.5-VL folder, in the names of the Hub and in those that transformers 5 may write.
QWEN_KEYS: tuple[tuple[str, str | None], ...] = (
    (r"model\.(visual|language_model)\.(.+)", r"model.\1.\2"),
    (r"visual\.(.+)", r"model.visual.\1"),
    (r"model\.(.+)", r"model.language_model.\1"),
    (r"lm_head\.weight", r"lm_head.weight"),
)
# Wallaroo -> the names of the Hub, which stock transformers and vLLM read.
EXPORT_KEYS: tuple[tuple[str, str | None], ...] = (
    (r"model\.visual\.(.+)", r"visual.\1"),
    (r"model\.language_model\.(.+)", r"model.\1"),
    (r"lm_head\.weight", r"lm_head.weight"),
    (r"model\.(?:vq_model|generation_adapter|editing_adapter|source_adapter)\..+", None),
    (r"(?:generation|editing)_head\..+", None),
)
VQ = "model.vq_model."
VQ_KEYS: tuple[tuple[str, str | None], ...] = (
    (r"quantize\.codebook_used", None),  # a training statistic
    (r"(encoder|decoder)\.(conv_in|conv_out|norm_out)\.(.+)", rf"{VQ}\1.\2.\3"),
    (r"(encoder|decoder)\.mid\.0\.(.+)", rf"{VQ}\1.mid.block_1.\2"),
    (r"(encoder|decoder)\.mid\.1\.(.+)", rf"{VQ}\1.mid.attn_1.\2"),
    (r"(encoder|decoder)\.mid\.2\.(.+)", rf"{VQ}\1.mid.block_2.\2"),
    (r"encoder\.conv_blocks\.(\d+)\.res\.(.+)", rf"{VQ}encoder.down.\1.block.\2"),
    (r"encoder\.conv_blocks\.(\d+)\.(attn|downsample)\.(.+)", rf"{VQ}encoder.down.\1.\2.\3"),
    (r"decoder\.conv_blocks\.(\d+)\.res\.(.+)", rf"{VQ}decoder.up.\1.block.\2"),
    (r"decoder\.conv_blocks\.(\d+)\.(attn|upsample)\.(.+)", rf"{VQ}decoder.up.\1.\2.\3"),
    (r"quantize\.embedding\.weight", rf"{VQ}quantize.embedding.weight"),
    (r"(quant_conv|post_quant_conv)\.(.+)", rf"{VQ}\1.\2"),
)
# Parts that a checkpoint of stages 1 to 3 does not have yet, and those that a plain Qwen2.5-VL does not have.
EDITING_PARTS = ("model.source_adapter.", "model.editing_adapter.", "editing_head.")
IMAGE_PARTS = ("model.generation_adapter.", "generation_head.", *EDITING_PARTS)
RELEASED_MLP = {
    "generation_adapter": "gen_input_adpater",
    "editing_adapter": "edit_input_adpater",
    "source_adapter": "pixel_adapter",
    "generation_head": "gen_image_head",
    "editing_head": "edit_image_head",
}

# The file by which these commands know a folder that they wrote.
RECORD = "conversion.json"

# Of each training stage, docs/protocol.md sections 3, 4 and 9: the side of its square images in pixels (`None` from the
# multi-resolution stage on, which has row ends, size tokens and the table of sizes), and the most pixels of the ViT.
STAGES: dict[str, tuple[int | None, int]] = {
    "1": (384, 1003520),
    "2": (384, 254016),
    "3a": (512, 254016),
    "3b": (None, 254016),
    "4": (None, 188160),
}

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Loader = Callable[[], torch.Tensor]


class CheckpointError(ValueError):
    """A file that is not what it should be; the message names it, what was found and what was expected."""


# ---------------------------------------------------------------------------------------------------- reading


def load_pickled(path: str | os.PathLike, entry: str) -> dict[str, torch.Tensor]:
    """The state dict under `entry` of a torch file, memory-mapped and without running any pickled code."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is no file.")
    try:
        # mmap needs the zip format that torch has written since 1.6; an older file is read into memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises many kinds for a broken file
        raise CheckpointError(
            f"{path} cannot be read as a torch checkpoint of plain tensors; it is truncated, or something else: {error}"
        ) from error
    state = content.get(entry, content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        found = sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"{path} should hold a state dict under {entry!r}, but holds {found}.")
    stripped: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if not isinstance(key, str) or strip_prefixes(key) in stripped:
            raise CheckpointError(f"{path} has the key {key!r} twice, or it is no string: expected names of weights.")
        stripped[strip_prefixes(key)] = value
    return stripped


def strip_prefixes(key: str) -> str:
    """The key without the `module.` that DDP and DeepSpeed may put before it, once or more."""
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def read_base(folder: str | os.PathLike) -> dict[str, Any]:
    """The config of a Qwen2.5-VL folder, checked to be one."""
    config_path = Path(folder) / "config.json"
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{folder} has no readable config.json: expected a Qwen2.5-VL folder ({error})."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{config_path} is no JSON: {error}.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{config_path} holds a {type(config).__name__}, but expected an object.")
    if config.get("model_type") != "qwen2_5_vl":
        raise CheckpointError(
            f"{config_path} is of model type {config.get('model_type')!r}, but expected 'qwen2_5_vl'."
        )
    try:
        Qwen2_5_VLConfig.from_dict(dict(config))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(f"{config_path} describes no Qwen2.5-VL: {error}") from error
    return config


def safetensors_loaders(folder: str | os.PathLike) -> dict[str, tuple[Loader, torch.Size]]:
    """For each tensor of the safetensors files of a folder: a function that reads it, and its shape."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder} has no *.safetensors files.")
    loaders: dict[str, tuple[Loader, torch.Size]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                for key in reader.keys():  # noqa: SIM118, a safetensors reader is no mapping
                    if key in loaders:
                        raise CheckpointError(f"{folder} has {key} in more than one *.safetensors file.")
                    shape = torch.Size(reader.get_slice(key).get_shape())
                    loaders[key] = partial(_read_tensor, file, key), shape
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} cannot be read as safetensors; it is truncated or foreign: {error}."
            ) from error
    return loaders


def _read_tensor(file: Path, key: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as reader:
        return reader.get_tensor(key)


def state_dict_loaders(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[Loader, torch.Size]]:
    """The same for a state dict in (mapped) memory."""
    return {key: (partial(_same, value), value.shape) for key, value in state.items()}


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


# ---------------------------------------------------------------------------------------------------- configs


def infer_vq_config(state: Mapping[str, torch.Tensor]) -> WallarooVQConfig:
    """The widths of a LlamaGen VQ tokenizer, from its weights."""
    try:
        base = state["encoder.conv_in.weight"].shape[0]
        levels = 1 + max(int(match[1]) for key in state if (match := re.match(r"encoder\.conv_blocks\.(\d+)\.", key)))
        blocks = 1 + max(
            int(match[1]) for key in state if (match := re.match(r"encoder\.conv_blocks\.0\.res\.(\d+)\.", key))
        )
        multipliers = [
            state[f"encoder.conv_blocks.{level}.res.0.conv1.weight"].shape[0] // base for level in range(levels)
        ]
        codes, dims = state["quantize.embedding.weight"].shape
        return WallarooVQConfig(
            base_channels=base,
            channel_multiplier=multipliers,
            num_res_blocks=blocks,
            latent_channels=state["decoder.conv_in.weight"].shape[1],
            in_channels=state["encoder.conv_in.weight"].shape[1],
            out_channels=state["decoder.conv_out.weight"].shape[0],
            embed_dim=dims,
            num_embeddings=codes,
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"The VQ checkpoint is not in LlamaGen's layout ({error}); its keys begin with {sorted(state)[:5]}."
        ) from error


def infer_mlp_sizes(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Hidden widths of the adapters and heads that a Wallaroo checkpoint has."""
    names = {name: f"{RELEASED_MLP[name]}.0.weight" for name in MLP_NAMES}
    return {name: state[key].shape[0] for name, key in names.items() if key in state and state[key].ndim}


def make_config(
    base: Mapping[str, Any], vq_config: WallarooVQConfig, mlp_sizes: Mapping[str, int], tokenizer: Any
) -> WallarooConfig:
    """The Wallaroo config on top of a Qwen2.5-VL config, token ids as the tokenizer has them."""
    qwen = Qwen2_5_VLConfig.from_dict(dict(base))
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in {
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
            "generate_start_token_id": "<|generate_start|>",
            "generate_end_token_id": "<|generate_end|>",
            "pixel_start_token_id": "<|pixel_start|>",
            "pixel_end_token_id": "<|pixel_end|>",
            "eol_token_id": "<|end_of_line>|",
            "generate_image_pad_token_id": "<|generate_image_pad|>",
        }.items()
    }
    text, width = qwen.text_config, qwen.text_config.hidden_size
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        if base.get(name, ids[name]) != ids[name]:
            raise CheckpointError(
                f"The tokenizer of the base folder {tokenizer.name_or_path} gives {ids[name]} as {name}, but its "
                f"config.json {base[name]}: tokenizer files are missing or of another model."
            )
    if len(tokenizer) > text.vocab_size:
        raise CheckpointError(
            f"The tokenizer has ids up to {len(tokenizer) - 1}, but the embedding table has {text.vocab_size} rows."
        )
    return WallarooConfig(
        text_config=text.to_dict(),
        vision_config=qwen.vision_config.to_dict(),
        vq_config=vq_config,
        tie_word_embeddings=qwen.tie_word_embeddings,
        # Only what differs from the language model's width is worth saying.
        mlp_hidden_sizes={name: size for name, size in mlp_sizes.items() if size != width},
        architectures=[WallarooForConditionalGeneration.__name__],
        **ids,
    )


def make_processor(base_folder: str | os.PathLike, downsample_factor: int = 16, stage: str = "4") -> WallarooProcessor:
    """The processor for a Qwen2.5-VL folder's tokenizer and chat template, with the Wallaroo tokens added and the
    sizes, row ends and size tokens of a training stage."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{base_folder} has no readable tokenizer: {error}") from error
    lacking = [
        token
        for token in ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
        if token not in tokenizer.get_vocab()
    ]
    if lacking:
        raise CheckpointError(f"{base_folder} has no readable tokenizer of Qwen2.5-VL: it lacks {', '.join(lacking)}.")
    template = tokenizer.chat_template
    template_file = Path(base_folder) / "chat_template.json"
    if template_file.is_file():
        try:
            template = json.loads(template_file.read_text(encoding="utf-8"))["chat_template"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{template_file} holds no chat template: {error!r}.") from error
    if not template:
        raise CheckpointError(
            f"{base_folder} has no chat template: expected chat_template.json or one in the tokenizer."
        )
    side, max_pixels = STAGES[stage]
    image_processor = WallarooImageProcessor(
        size={"shortest_edge": 12544, "longest_edge": max_pixels},
        buckets=None if side is None else [[1.0, side, side]],
        downsample_factor=downsample_factor,
    )
    return WallarooProcessor(
        image_processor,
        add_wallaroo_tokens(tokenizer),
        chat_template=template,
        row_ends=side is None,
        size_indicators="token" if side is None else "none",
    )


def make_generation_config(base_folder: str | os.PathLike) -> GenerationConfig:
    """The token ids of the base model's generation config, and nothing of its sampling: answers are greedy."""
    base = GenerationConfig()
    if (Path(base_folder) / "generation_config.json").is_file():
        try:
            base = GenerationConfig.from_pretrained(base_folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{base_folder} has no readable generation_config.json: {error}") from error
    return GenerationConfig(
        bos_token_id=base.bos_token_id, eos_token_id=base.eos_token_id, pad_token_id=base.pad_token_id
    )


# ---------------------------------------------------------------------------------------------------- keys


def rename_keys(
    loaders: Mapping[str, tuple[Loader, torch.Size]], table: tuple[tuple[str, str | None], ...]
) -> tuple[dict[str, tuple[Loader, torch.Size]], list[str], list[str]]:
    """Renames by the table. Returns the renamed entries, the dropped keys, and the keys no rule knows."""
    renamed, dropped, unknown = {}, [], []
    for key, entry in loaders.items():
        for pattern, replacement in table:
            match = re.fullmatch(pattern, key)
            if match:
                if replacement is None:
                    dropped.append(key)
                else:
                    name = match.expand(replacement)
                    if name in renamed:
                        raise CheckpointError(f"The checkpoint has {key} under two names, both stand for {name}.")
                    renamed[name] = entry
                break
        else:
            unknown.append(key)
    return renamed, dropped, unknown


def expected_shapes(config: WallarooConfig) -> dict[str, torch.Size]:
    """Name and shape of each weight of a Wallaroo of this config; a tied text head is no weight of its own."""
    try:
        with torch.device("meta"):
            model = WallarooForConditionalGeneration(config)
    except ValueError as error:
        raise CheckpointError(f"The base config.json describes a model that cannot be built: {error}") from error
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    return shapes


def check_keys(
    entries: Mapping[str, tuple[Loader, torch.Size]],
    expected: Mapping[str, torch.Size],
    unknown: list[str],
    may_miss: tuple[str, ...] = (),
) -> list[str]:
    """Strict both ways. Returns the missing keys that may be missing: all under the prefixes `may_miss`, or none."""
    missing = [key for key in expected if key not in entries]
    all_absent = not any(key.startswith(may_miss) for key in entries)
    fresh = [key for key in missing if all_absent and key.startswith(may_miss)]
    problems = {
        "unknown keys": unknown + [key for key in entries if key not in expected],
        "missing keys": [key for key in missing if key not in fresh],
        "misshaped keys": [
            f"{key} {tuple(entries[key][1])}, expected {tuple(shape)}"
            for key, shape in expected.items()
            if key in entries and entries[key][1] != shape
        ],
    }
    text = "; ".join(
        f"{len(keys)} {what}: {', '.join(keys[:10])}{', ...' * (len(keys) > 10)}"
        for what, keys in problems.items()
        if keys
    )
    if text:
        raise CheckpointError(f"The checkpoint does not fit the config of the base model and the VQ tokenizer. {text}.")
    return fresh


def drop_tied_head(entries: dict[str, tuple[Loader, torch.Size]], config: Any) -> None:
    """Takes the text head of a tied model out, after making sure that it is the embedding table."""
    if not config.tie_word_embeddings or "lm_head.weight" not in entries:
        return
    head, _ = entries.pop("lm_head.weight")
    table = entries.get("model.language_model.embed_tokens.weight")
    if table is not None and not torch.equal(head(), table[0]()):
        raise CheckpointError(
            "The config ties the text head to the embedding table (`tie_word_embeddings`), but lm_head.weight differs "
            "from it. Set `tie_word_embeddings` to false in the base config.json."
        )


def fresh_weight(key: str, shape: torch.Size, fan_in: int) -> torch.Tensor:
    """A new weight or bias of a linear layer with `fan_in` inputs, as torch starts one and `WallarooLinear` does; the
    same every time for one key."""
    bound = fan_in**-0.5
    generator = torch.Generator().manual_seed(sum(ord(char) * 31**index for index, char in enumerate(key)) % 2**63)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def vq_entries(state: Mapping[str, torch.Tensor]) -> tuple[dict[str, tuple[Loader, torch.Size]], list[str], list[str]]:
    """The VQ tokenizer under our names, in fp32 and with the codebook l2-normalised (docs/protocol.md section 2)."""
    entries, dropped, unknown = rename_keys(state_dict_loaders(state), VQ_KEYS)
    codebook = f"{VQ}quantize.embedding.weight"
    if codebook in entries:
        load, shape = entries[codebook]
        entries[codebook] = (lambda: torch.nn.functional.normalize(load().float(), dim=-1)), shape
    return entries, dropped, unknown


# ---------------------------------------------------------------------------------------------------- writing


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

    An `output` that is there already must be empty or an earlier result, see `is_earlier_result`.
    """
    output = Path(output).absolute()
    if output.exists() and not is_earlier_result(output, model_type):
        raise CheckpointError(
            f"{output} exists and is no earlier result of this command: it is a file, another folder, or its weights "
            "were changed since. Nothing was written; choose another output folder."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield work
        (work / RECORD).write_text(json.dumps(record_of(work, model_type), indent=2) + "\n")
        work.chmod(0o755)
        if not output.exists():
            work.rename(output)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}.old.", dir=output.parent))
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


# ---------------------------------------------------------------------------------------------------- commands


def add_arguments(parser: argparse.ArgumentParser, writes_wallaroo: bool = True) -> None:
    """The options that every command has."""
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="folder to write; it appears whole or not at all"
    )
    if writes_wallaroo:
        parser.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of all but the VQ tokenizer")
        parser.add_argument(
            "--stage",
            default="4",
            choices=STAGES,
            help="training stage whose prompts the processor makes: 1, 2 and 3a have square images, no row ends and no "
            "size tokens (weights do not tell; default: %(default)s)",
        )
    parser.add_argument("--max-shard-size", default="5GB", help="largest file of weights; also bounds the memory used")
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload to this Hub repository")


def run(command: Callable[..., list[str]], options: argparse.Namespace) -> int:
    """Runs a command with the options of its parameters' names, prints what it reports, uploads where asked to.
    Returns the exit status."""
    arguments = {name: value for name, value in vars(options).items() if name != "push_to_hub"}
    if "dtype" in arguments:
        arguments["dtype"] = DTYPES[options.dtype]
    try:
        report = command(**arguments)
    except CheckpointError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("\n".join([*report, f"wrote {options.output}"]) + "\n")
    if options.push_to_hub:
        return upload(options.output, options.push_to_hub)
    return 0


def upload(folder: str, repo_id: str) -> int:
    """Uploads a folder to the Hub. Returns the exit status."""
    try:
        api = HfApi()
        api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload checkpoint")
    except Exception as error:  # noqa: BLE001, a network fails in many ways
        sys.stderr.write(f"error: {folder} is complete, but its upload to {repo_id} failed: {error}\n")
        return 1
    sys.stdout.write(f"pushed to {repo_id}\n")
    return 0
