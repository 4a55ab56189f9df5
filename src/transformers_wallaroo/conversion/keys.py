# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Names of weights: the tables from released names to ours and back, and the check that holds both ways."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..configuration_wallaroo import WallarooConfig
from ..modeling_wallaroo import WallarooForConditionalGeneration
from .reading import CheckpointError, Loader, state_dict_loaders

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
