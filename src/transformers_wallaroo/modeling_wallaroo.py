# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Wallaroo: Qwen2.5-VL plus a VQ image tokenizer, three adapters and two more heads (paper section 3.1)."""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLPreTrainedModel,
)
from transformers.utils import can_return_tuple

from .auto_wallaroo import WallarooAutoGenerationMixin
from .configuration_wallaroo import WallarooConfig
from .decode_step_wallaroo import fuse, is_plain_mlp, why_not_lean
from .image_grid_wallaroo import EDIT, GENERATE, TASKS, UNDERSTAND, ImageTask, Task, TokenType, split_rows
from .modeling_wallaroo_vq import WallarooVQModel, execution_device
from .pipeline_wallaroo import WallarooPipeline  # named here so that its file travels with every checkpoint

# The label that the losses pass over, as everywhere in torch and transformers.
IGNORE_INDEX = -100
# The losses in the order in which `num_items_in_batch` counts their labels.
LOSS_NAMES = ("understand_text", "generate_text", "generate_image", "edit_text", "edit_image")
# What quantisation leaves alone unless its config names others: everything but the language model. By their whole
# names, for transformers takes them as beginnings.
UNQUANTIZED = (
    "model.visual",
    "model.vq_model",
    "model.generation_adapter",
    "model.editing_adapter",
    "model.source_adapter",
    "lm_head",
    "generation_head",
    "editing_head",
)
# A masked source cell: every component of its latent, before the source adapter (docs/protocol.md section 6).
MASKED_LATENT = -1.0


@dataclass
class WallarooOutput(CausalLMOutputWithPast):
    """`CausalLMOutputWithPast` and the losses by name.

    Attributes:
        losses (`dict[str, torch.Tensor]`, when `labels` are given): mean cross entropies of the tasks in the batch:
            `understand_text`, `generate_text`, `generate_image`, `edit_text`, `edit_image`; `loss` is their sum.
        logits: `None` when `labels` are given: a training step never holds logits of unlabelled positions.
    """

    losses: dict[str, torch.Tensor] | None = None


class WallarooLinear(nn.Linear):
    """A layer of an adapter or head, known by its class to `_init_weights`: transformers hands it no containers."""


class WallarooMLP(nn.Module):
    """A two-layer MLP with exact GELU: every adapter and both image heads."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int, *, bias: bool = True):
        super().__init__()
        self.fc1 = WallarooLinear(in_features, hidden_features)
        self.activation = nn.GELU()
        self.fc2 = WallarooLinear(hidden_features, out_features, bias=bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states.to(self.fc1.weight.dtype))))


def loss_positions(
    labels: torch.Tensor, mm_token_type_ids: torch.Tensor, task_ids: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Which labels belong to which loss: for each of `LOSS_NAMES` bools `(batch_size, sequence_length - 1)`, after the
    shift. The arguments are those of `WallarooForConditionalGeneration.forward`."""
    labels, types = labels[:, 1:], mm_token_type_ids[:, 1:]
    if task_ids is None:
        task_ids = labels.new_full((labels.shape[0],), UNDERSTAND.index)
        for image_task in (GENERATE, EDIT):
            task_ids[(types == image_task.code_type).any(dim=1)] = image_task.index
    task_ids = task_ids[:, None] if task_ids.ndim == 1 else task_ids[:, 1:]
    positions = {}
    for name in LOSS_NAMES:
        task = TASKS[name.split("_")[0]]
        labelled = (labels != IGNORE_INDEX) & (task_ids == task.index)
        is_code = types == task.code_type if isinstance(task, ImageTask) else torch.zeros_like(labelled)
        positions[name] = labelled & (is_code if name.endswith("_image") else ~is_code)
    return positions


def _is_one_of_many() -> bool:
    """Whether this process works together with others."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def quantize_language_model(config: Any) -> Any:
    """A copy of a quantization config, object or dict, that leaves `UNQUANTIZED` alone where it names nothing."""
    config = copy.deepcopy(config)
    fields = config if isinstance(config, dict) else vars(config)
    ours_of_bitsandbytes = {"load_in_8bit", "_load_in_8bit", "load_in_4bit", "_load_in_4bit"} & set(fields)
    name = "llm_int8_skip_modules" if ours_of_bitsandbytes else "modules_to_not_convert"
    if fields.get(name) is None:
        fields[name] = list(UNQUANTIZED)
    return config


def fold_source_positions(positions: torch.Tensor, types: torch.Tensor) -> int:
    """Gives the source cells of one sample 2-D positions, in place (`config.source_positions="2d"`).

    The cell in row `r` and column `c` gets the height `r` and the width `c`, counted from the first; a row end stands
    in the column after the last. What follows moves up.

    Args:
        positions (`torch.LongTensor` of shape `(3, sequence_length)`): 1-D positions of the cells.
        types (`torch.LongTensor` of shape `(sequence_length,)`): see `TokenType`.

    Returns:
        By how much what follows has moved: zero or less.
    """
    cells = torch.nonzero(types == TokenType.SOURCE_CELL).flatten().tolist()
    if not cells:
        return 0
    first, end = cells[0], cells[-1] + 1
    gaps = [place for place in range(first, end) if types[place] != TokenType.SOURCE_CELL]
    columns = gaps[0] - first if gaps else math.isqrt(len(cells))
    width = columns + bool(gaps)
    places = torch.arange(end - first, device=positions.device)
    start = positions[0, first].clone()
    positions[:, first:end] = start + torch.stack([places * 0, places // width, places % width])
    moved = max(len(cells) // columns, width) - (end - first)
    positions[:, end:] += moved
    return moved


class WallarooPreTrainedModel(Qwen2_5_VLPreTrainedModel):
    config: WallarooConfig
    _no_split_modules = ["Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock", "WallarooVQModel"]
    _keep_in_fp32_modules_strict = ["vq_model"]

    @classmethod
    def from_pretrained(cls, *args: Any, quantization_config: Any = None, **kwargs: Any) -> Any:
        """As in transformers. A `quantization_config` that does not name what to leave alone quantises the language
        model and nothing else, see `UNQUANTIZED`."""
        if quantization_config is not None:
            quantization_config = quantize_language_model(quantization_config)
        return super().from_pretrained(*args, quantization_config=quantization_config, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """As Qwen2.5-VL's; new adapters and heads start as in the released program, with torch's own first weights.

        At a standard deviation of 0.02 the 8 components of a code would hardly reach the language model.
        """
        super()._init_weights(module)
        if isinstance(module, WallarooLinear):
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)


class WallarooPatchProjection(nn.Conv3d):
    """The vision tower's projection of whole patches, as the matrix product that a convolution without overlap is: on a
    CPU Conv3d takes many times as long."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1))


class WallarooModel(WallarooPreTrainedModel, Qwen2_5_VLModel):
    """The backbone: token embedding by the routing table `mm_token_type_ids`, positions, language model."""

    def __init__(self, config: WallarooConfig):
        super().__init__(config)
        width, embed_dim = config.text_config.hidden_size, config.vq_config.embed_dim
        # Not made anew, which would draw other first weights for everything that follows.
        self.visual.patch_embed.proj.__class__ = WallarooPatchProjection
        self.vq_model = WallarooVQModel._from_config(config.vq_config)
        for name in ("generation_adapter", "editing_adapter", "source_adapter"):
            setattr(self, name, WallarooMLP(embed_dim, config.mlp_hidden_size(name), width))
        self.vq_model.requires_grad_(False)
        self.post_init()

    def train(self, mode: bool = True) -> "WallarooModel":
        """As usual, but the VQ tokenizer stays frozen: in every stage, and after loading, which sets this anew."""
        super().train(mode)
        self.vq_model.requires_grad_(False).eval()
        return self

    @property
    def rope_deltas(self) -> None:
        """Always `None`: Qwen2.5-VL keeps a request's position offset here, we keep it on the request's cache.

        Two threads may so generate at once on one model.
        """
        return None

    @rope_deltas.setter
    def rope_deltas(self, value: Any) -> None:
        if value is not None:
            raise AttributeError("`rope_deltas` would be shared by every request on this model; pass `position_ids`.")

    def token_types(
        self, input_ids: torch.Tensor, mm_token_type_ids: torch.Tensor | None, past_key_values: Cache | None = None
    ) -> torch.Tensor:
        """`mm_token_type_ids`, or what a prompt without image codes and sources lets us derive for itself."""
        if mm_token_type_ids is not None:
            length = input_ids.shape[1]
            if mm_token_type_ids.shape[1] != length:
                # While decoding, transformers hands over the types of the prompt, or of all tokens so far, with the ids
                # of the new ones; what follows the prompt is text.
                start = 0 if past_key_values is None else past_key_values.get_seq_length()
                missing = max(start + length - mm_token_type_ids.shape[1], 0)
                types = nn.functional.pad(mm_token_type_ids, (0, missing), value=int(TokenType.TEXT))
                mm_token_type_ids = types[:, start : start + length]
            return mm_token_type_ids
        if bool(((input_ids >= self.config.text_vocab_size) | (input_ids == self.config.pixel_start_token_id)).any()):
            raise ValueError(
                "`mm_token_type_ids` is needed for inputs that hold image codes or a source image: pass all that "
                "the processor returned, `model(**inputs)`."
            )
        types = torch.zeros_like(input_ids)
        types[input_ids == self.config.image_token_id] = TokenType.IMAGE
        types[input_ids == self.config.video_token_id] = TokenType.VIDEO
        return types

    def get_rope_index(self, input_ids, mm_token_type_ids, *args, attention_mask=None, **kwargs):
        """Positions `(3, batch_size, sequence_length)` and offsets `(batch_size, 1)`, as Qwen2.5-VL's.

        Source cells, codes, row ends and size tokens count 1-D, as text (docs/protocol.md section 5). A padded
        position holds 1, as in the released programs; nothing attends to it.
        """
        rope_types = mm_token_type_ids.masked_fill(mm_token_type_ids > TokenType.VIDEO, TokenType.TEXT)
        position_ids, deltas = super().get_rope_index(
            input_ids, rope_types, *args, attention_mask=attention_mask, **kwargs
        )
        if self.config.source_positions == "2d":
            for row, types in enumerate(mm_token_type_ids):
                deltas[row] += fold_source_positions(position_ids[:, row], types)
        if attention_mask is not None:
            position_ids = position_ids.masked_fill(attention_mask.to(position_ids.device) == 0, 1)
        return position_ids, deltas

    def compute_3d_position_ids(
        self,
        input_ids=None,
        image_grid_thw=None,
        video_grid_thw=None,
        inputs_embeds=None,
        attention_mask=None,
        past_key_values=None,
        second_per_grid_ts=None,
        mm_token_type_ids=None,
    ) -> torch.Tensor | None:
        """As Qwen2.5-VL's, but the offset found at prefill travels with the cache, not with the model."""
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        if past_length == 0 and input_ids is not None:
            position_ids, deltas = self.get_rope_index(
                input_ids,
                self.token_types(input_ids, mm_token_type_ids),
                image_grid_thw=image_grid_thw,
                video_grid_thw=video_grid_thw,
                second_per_grid_ts=second_per_grid_ts,
                attention_mask=attention_mask,
            )
            if past_key_values is not None:
                past_key_values.rope_deltas = deltas
            return position_ids
        deltas = getattr(past_key_values, "rope_deltas", None)
        if deltas is None:
            return None
        batch_size, length = inputs_embeds.shape[:2]
        if attention_mask is not None:
            position_ids = (attention_mask.long().cumsum(-1) - 1)[:, -length:]
        else:
            position_ids = torch.arange(past_length, past_length + length, device=inputs_embeds.device)[None]
        deltas = deltas.repeat_interleave(batch_size // deltas.shape[0], dim=0).to(position_ids.device)
        return (position_ids + deltas).expand(3, batch_size, length)

    def encode_images(
        self, pixel_values: torch.Tensor, grid: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Codes and latents of images of any sizes; those of one size go through the VQ encoder together.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(num_images, 3, max_height, max_width)`): RGB in `[-1, 1]`,
                padded at the right and the bottom.
            grid (`torch.LongTensor` of shape `(num_images, 2)`): (grid_height, grid_width) of each image, in cells.

        Returns:
            Codes `(grid_height * grid_width,)` and latents `(grid_height * grid_width, embed_dim)` an image, in
            raster order.
        """
        factor = self.vq_model.downsample_factor
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, (height, width) in enumerate(grid.tolist()):
            groups[height, width].append(index)
        codes: dict[int, torch.Tensor] = {}
        latents: dict[int, torch.Tensor] = {}
        for (height, width), indices in groups.items():
            encoded = self.vq_model.encode(pixel_values[indices, :, : height * factor, : width * factor])
            codes.update(zip(indices, encoded.codes.flatten(1), strict=True))
            latents.update(zip(indices, encoded.latents.flatten(1, 2), strict=True))
        return [codes[index] for index in range(len(grid))], [latents[index] for index in range(len(grid))]

    def embed_codes(self, codes: torch.Tensor, task: ImageTask) -> torch.Tensor:
        """Language-model embeddings of codes that `task` writes, of shape `(*codes.shape, hidden_size)`."""
        return getattr(self, task.adapter)(self.vq_model.embed_codes(codes))

    @torch.no_grad()
    def tabulate_codes(self) -> None:
        """Computes the embeddings of all codes of both image tasks once, for decoding; a matrix of
        `(num_embeddings, hidden_size)` a task, which is neither saved nor moved with the model."""
        codes = torch.arange(
            self.config.vq_config.num_embeddings, device=self.vq_model.quantize.embedding.weight.device
        )
        self._code_tables = {
            task.name: (self._code_weights(task), self.embed_codes(codes, task)) for task in (GENERATE, EDIT)
        }

    def code_table(self, task: ImageTask) -> torch.Tensor | None:
        """The embeddings of all codes that `task` writes; `None` where `tabulate_codes` was not called, where the
        weights behind them have changed since, and where the adapter is more than its weights (LoRA, hooks)."""
        made_of, table = getattr(self, "_code_tables", {}).get(task.name, (None, None))
        if table is None:
            return None
        if not is_plain_mlp(getattr(self, task.adapter)):
            return None
        return table if made_of == self._code_weights(task) else None

    def _code_weights(self, task: ImageTask) -> list[tuple[Any, ...]]:
        """What tells the weights behind a table from others: where they are, how often they were written to, and their
        sums, for what writes through `.data` is not counted."""
        weights = [self.vq_model.quantize.embedding.weight, *getattr(self, task.adapter).parameters()]
        sums = torch.stack([weight.detach().sum(dtype=torch.float32).to(weights[0].device) for weight in weights])
        return [
            (weight.data_ptr(), weight._version, weight.dtype, total)
            for weight, total in zip(weights, sums.tolist(), strict=True)
        ]

    def embed_source(
        self,
        source_pixel_values: torch.Tensor | None,
        source_grid: torch.Tensor,
        source_mask: torch.Tensor | None = None,
        source_latents: torch.Tensor | Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Language-model embeddings of the source cells of all images, one after the other.

        Args:
            source_pixel_values, source_grid: as for `encode_images`.
            source_latents (`torch.FloatTensor` of shape `(num_images, max_cells, embed_dim)`, or a list of tensors):
                instead of pixels, what the VQ tokenizer makes of them, in raster order and padded at the end.
            source_mask (`torch.BoolTensor` of shape `(num_images, max_cells)`): cells, in raster order, whose latent
                becomes -1 before the adapter (training only, paper section 4.1).
        """
        if source_latents is not None:
            latents = [
                cells[:count] for cells, count in zip(source_latents, source_grid.prod(-1).tolist(), strict=True)
            ]
        else:
            assert source_pixel_values is not None
            _, latents = self.encode_images(source_pixel_values, source_grid)
        if source_mask is not None:
            latents = [
                cells.masked_fill(mask[: len(cells), None].to(cells.device), MASKED_LATENT)
                for cells, mask in zip(latents, source_mask, strict=True)
            ]
        return self.source_adapter(torch.cat(latents))

    def embed_inputs(
        self,
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor,
        *,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        source_pixel_values: torch.Tensor | None = None,
        source_grid: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        source_latents: torch.Tensor | Sequence[torch.Tensor] | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """Embeds each position by its token type, see `TokenType`: `(batch_size, sequence_length, hidden_size)`.

        `mm_encoder_outputs` are the features of images and videos where transformers has computed them already.
        """
        embed_tokens = self.get_input_embeddings()
        # As ints: torch.compile does not know how a tensor compares with a member of an enumeration.
        is_text = (mm_token_type_ids == int(TokenType.TEXT)) & (input_ids < self.config.text_vocab_size)
        embeds = embed_tokens(input_ids.masked_fill(~is_text, self.config.generate_image_pad_token_id))
        parts: dict[TokenType, torch.Tensor] = {}
        encoded = dict(mm_encoder_outputs or {})
        if pixel_values is not None:
            encoded["image"] = self.get_image_features(pixel_values, image_grid_thw, return_dict=True)
        if pixel_values_videos is not None:
            encoded["video"] = self.get_video_features(pixel_values_videos, video_grid_thw, return_dict=True)
        for modality, token_type in (("image", TokenType.IMAGE), ("video", TokenType.VIDEO)):
            if encoded.get(modality) is not None:
                parts[token_type] = torch.cat(list(encoded[modality].pooler_output))
            elif token_type == TokenType.IMAGE and _is_one_of_many():
                parts[token_type] = self._look_at_nothing()
        # Processes that learn or evaluate together must run the same modules in the same order in every step, whatever
        # tasks their share of the batch holds: else DDP waits for a gradient, ZeRO-3 for a weight, and ZeRO-2 adds the
        # gradient of one adapter to that of another. So an adapter that has no work is given nothing to do.
        in_step = self.training or _is_one_of_many()
        if source_grid is not None and (source_pixel_values is not None or source_latents is not None):
            parts[TokenType.SOURCE_CELL] = self.embed_source(
                source_pixel_values, source_grid, source_mask, source_latents
            )
        elif in_step:
            weight = self.vq_model.quantize.embedding.weight
            parts[TokenType.SOURCE_CELL] = self.source_adapter(weight.new_zeros(0, self.config.vq_config.embed_dim))
        for task in (GENERATE, EDIT):
            codes = input_ids[mm_token_type_ids == int(task.code_type)] - self.config.text_vocab_size
            if codes.numel():
                self._check_codes(codes)
            if codes.numel() or in_step:
                parts[task.code_type] = self.embed_codes(codes, task)
        for token_type in (TokenType.IMAGE, TokenType.VIDEO, TokenType.SOURCE_CELL):
            positions = int((mm_token_type_ids == int(token_type)).sum())
            features = len(parts[token_type]) if token_type in parts else 0
            if positions != features:
                raise ValueError(
                    f"`mm_token_type_ids` marks {positions} positions as {token_type.name}, but the pixel inputs give "
                    f"{features} features. Pass all that the processor returned, unchanged: `model(**inputs)`."
                )
        for token_type, part in parts.items():
            mask = (mm_token_type_ids == int(token_type)).unsqueeze(-1).to(embeds.device)
            embeds = embeds.masked_scatter(mask, part.to(embeds.device, embeds.dtype))
        return embeds

    def _look_at_nothing(self) -> torch.Tensor:
        """No features `(0, hidden_size)`, by way of the vision tower."""
        vision, weight = self.config.vision_config, self.vq_model.quantize.embedding.weight
        merge = vision.spatial_merge_size
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        grid = torch.tensor([[1, merge, merge]], device=weight.device)
        features = self.get_image_features(weight.new_zeros(merge**2, values), grid, return_dict=True)
        return features.pooler_output[0][:0]

    def _check_codes(self, codes: torch.Tensor) -> None:
        smallest, largest = int(codes.min()), int(codes.max())
        if smallest < 0 or largest >= self.config.vq_config.num_embeddings:
            raise ValueError(
                f"`input_ids` holds codes from {smallest} to {largest}, but the codebook has codes in "
                f"[0, {self.config.vq_config.num_embeddings}). Placeholders of codes that are not known yet need "
                "`target_pixel_values`; ids of codes are `config.text_vocab_size` plus the code."
            )

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        source_pixel_values: torch.Tensor | None = None,
        source_grid: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        source_latents: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As Qwen2.5-VL's, plus the source image of editing: see `embed_inputs`."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if inputs_embeds is None:
            assert input_ids is not None
            mm_token_type_ids = self.token_types(input_ids, mm_token_type_ids, past_key_values)
            inputs_embeds = self.embed_inputs(
                input_ids,
                mm_token_type_ids,
                pixel_values=pixel_values,
                image_grid_thw=image_grid_thw,
                pixel_values_videos=pixel_values_videos,
                video_grid_thw=video_grid_thw,
                source_pixel_values=source_pixel_values,
                source_grid=source_grid,
                source_mask=source_mask,
                source_latents=source_latents,
                mm_encoder_outputs=mm_encoder_outputs,
            )
        if position_ids is None:
            position_ids = self.compute_3d_position_ids(
                input_ids=input_ids,
                image_grid_thw=image_grid_thw,
                video_grid_thw=video_grid_thw,
                second_per_grid_ts=second_per_grid_ts,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                mm_token_type_ids=mm_token_type_ids,
            )
        return self.language_model(
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )


class WallarooForConditionalGeneration(
    WallarooPreTrainedModel, WallarooAutoGenerationMixin, Qwen2_5_VLForConditionalGeneration
):
    """Wallaroo with its three heads; see `generate` for understanding, drawing and editing."""

    output_modalities = ("text", "image")
    _auto_class = "AutoModel"

    def __init__(self, config: WallarooConfig):
        # Past Qwen2.5-VL's own __init__, which would build a second backbone.
        super(Qwen2_5_VLForConditionalGeneration, self).__init__(config)
        width, num_codes = config.text_config.hidden_size, config.vq_config.num_embeddings
        self.model = WallarooModel(config)
        self.lm_head = nn.Linear(width, config.text_config.vocab_size, bias=False)
        for name in ("generation_head",) if config.shared_image_head else ("generation_head", "editing_head"):
            setattr(self, name, WallarooMLP(width, config.mlp_hidden_size(name), num_codes, bias=False))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        source_pixel_values: torch.Tensor | None = None,
        source_grid: torch.Tensor | None = None,
        source_mask: torch.Tensor | None = None,
        source_latents: torch.Tensor | None = None,
        target_pixel_values: torch.Tensor | None = None,
        target_grid: torch.Tensor | None = None,
        task_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        loss_weights: Mapping[str, float] | None = None,
        mm_encoder_outputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> WallarooOutput:
        """One forward pass over whatever mixture of tasks the processor or the collator put into the batch.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): text ids, and codes `c` as
                `config.text_vocab_size + c`.
            mm_token_type_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): see `TokenType`.
            labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`): ids of the one id space, -100 where
                there is no loss. They are shifted here, as in every transformers model.
            position_ids (`torch.LongTensor` of shape `(3 or 4, batch_size, sequence_length)`): by default found from
                the other inputs. Rows of several samples need all 4, text positions first, as `pack` makes them.
            source_pixel_values, source_grid, source_mask, source_latents: the source images of editing, see
                `WallarooModel.embed_source`.
            target_pixel_values (`torch.FloatTensor` of shape `(num_images, 3, max_height, max_width)`): images to be
                learned, RGB in `[-1, 1]`; their codes take the place of the placeholders in `input_ids` and `labels`.
                Leave it out where `input_ids` holds the codes already.
            target_grid (`torch.LongTensor` of shape `(num_images, 2)`): their sizes in cells.
            task_ids (`torch.LongTensor` of shape `(batch_size,)` or `(batch_size, sequence_length)`): the task of each
                row, or of each position where a row holds several samples; see `Task.index`.
            num_items_in_batch (`torch.Tensor` of shape `(5,)`): labels of each loss, in the order of `LOSS_NAMES`, that
                the losses are divided by. By default those of this batch; `WallarooTrainer` passes those of all
                batches of a step, on all processes.
            loss_weights (`dict[str, float]`): weight in `loss` of each task, 1 where it is not named.
            mm_encoder_outputs: what transformers' `generate` hands over in place of pixels, see `embed_inputs`.
            logits_to_keep: as in transformers. Without labels, `logits` come from the text head, or from the image
                head where every row's task is one and the same image task.

        Returns:
            [`WallarooOutput`]: with labels `loss` and `losses` (docs/protocol.md section 7), else `logits`.
        """
        for_images = ("unconditional_", "region_mask", "original_sizes")  # of the processor, for `generate` alone
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith(for_images)}
        if input_ids is not None and inputs_embeds is None:
            mm_token_type_ids = self.model.token_types(input_ids, mm_token_type_ids, past_key_values)
        if target_pixel_values is not None:
            if labels is None:
                raise ValueError(
                    "`target_pixel_values` came without `labels`, so nothing would be learned of the images. Trainer's "
                    "`label_smoothing_factor` takes the labels away; it cannot be used."
                )
            input_ids, labels = self._fill_in_codes(
                input_ids, labels, mm_token_type_ids, target_pixel_values, target_grid
            )
        if labels is not None and use_cache is None:
            # Nothing would use a cache, and with one transformers does not look for packed samples.
            use_cache = False
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            second_per_grid_ts=second_per_grid_ts,
            source_pixel_values=source_pixel_values,
            source_grid=source_grid,
            source_mask=source_mask,
            source_latents=source_latents,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss, losses, logits = None, None, None
        if labels is not None:
            losses, loss = self._losses(hidden_states, labels, mm_token_type_ids, task_ids, num_items_in_batch)
            for name, value in losses.items():
                loss = loss + value * (loss_weights or {}).get(name.split("_")[0], 1.0)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.head_of(self._task_of(task_ids))(hidden_states[:, kept])
        return WallarooOutput(
            loss=loss,
            losses=losses,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def head_of(self, task: Task) -> nn.Module:
        """The module that predicts the task's next token."""
        shared = self.config.shared_image_head and task.name == EDIT.name
        return getattr(self, GENERATE.head if shared else task.head)

    def optimize(self) -> "WallarooForConditionalGeneration":
        """Prepares the weights for decoding images: query, key and value, and gate and up, become one matrix product
        each, and the embeddings of all codes are computed once.

        The weights keep their names, shapes and values, and go on being trained and saved as before. Call it anew after
        `to(...)`, which lays them out one by one again. Memory: at 7B in bf16 235 MB for the embeddings, and for a
        moment the largest layer's projections twice.

        Returns:
            The model itself.
        """
        reason = why_not_lean(self)
        if reason is not None:
            raise ValueError(f"`optimize` is for the lean decode step, which this model cannot take: {reason}.")
        fuse(self)
        self.model.tabulate_codes()
        return self

    @property
    def execution_device(self) -> torch.device:
        """Where inputs go: the device that the embedding table computes on, also when its weights are offloaded."""
        return execution_device(self.get_input_embeddings())

    def decode_image_tokens(
        self,
        sequences: torch.Tensor | Sequence[torch.Tensor],
        row_ends: bool | None = None,
        *,
        strip_rows: int | None = None,
    ) -> list[torch.Tensor]:
        """Pixels of the images in `sequences`, as `generate` returns them for `"generate"` and `"edit"`.

        Args:
            sequences (`torch.LongTensor` of shape `(num_images, length)` or `(length,)`, or a list of 1-D tensors):
                ids of the one id space; anything but codes and row ends (marks, padding) is passed over.
            row_ends (`bool`, *optional*): whether rows end with the row-end token; by default what the config says.
            strip_rows (`int`, *optional*): for large pictures where memory is short, see `WallarooVQModel.decode`.

        Returns:
            One `torch.FloatTensor` of shape `(3, height, width)` an image, about `[-1, 1]`, of its own size.
        """
        sequences = [sequences] if isinstance(sequences, torch.Tensor) and sequences.ndim == 1 else sequences
        shapes = [tuple(sequence.shape) for sequence in sequences]
        if any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"`sequences` must be ids of shape (num_images, length), but got entries of shapes {shapes[:4]}. Pass "
                "`out.sequences`; grids of codes go to `model.model.vq_model.decode`."
            )
        grids = [
            torch.tensor(
                split_rows(
                    sequence.tolist(),
                    self.config.text_vocab_size,
                    self.config.vq_config.num_embeddings,
                    self.config.eol_token_id,
                    self.config.row_ends if row_ends is None else row_ends,
                )
            )
            for sequence in sequences
        ]
        groups: dict[torch.Size, list[int]] = defaultdict(list)
        for index, grid in enumerate(grids):
            groups[grid.shape].append(index)
        pixels: dict[int, torch.Tensor] = {}
        for indices in groups.values():
            batch = torch.stack([grids[index] for index in indices])
            pixels.update(zip(indices, self.model.vq_model.decode(batch, strip_rows=strip_rows), strict=True))
        return [pixels[index] for index in range(len(grids))]

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        """As Qwen2.5-VL's, `(4, batch_size, sequence_length)` with the text positions first, but leaves nothing
        behind on the model and knows our token types."""
        input_ids = model_kwargs.get("input_ids")
        if input_ids is None or input_ids.shape[1] == 0:
            input_ids = inputs_tensor
        text_positions = super(Qwen2_5_VLForConditionalGeneration, self)._prepare_position_ids_for_generation(
            inputs_tensor, model_kwargs
        )
        if input_ids.ndim != 2:
            return text_positions[None].expand(4, -1, -1)
        positions, _ = self.model.get_rope_index(
            input_ids,
            self.model.token_types(input_ids, model_kwargs.get("mm_token_type_ids")),
            image_grid_thw=model_kwargs.get("image_grid_thw"),
            video_grid_thw=model_kwargs.get("video_grid_thw"),
            second_per_grid_ts=model_kwargs.get("second_per_grid_ts"),
            attention_mask=model_kwargs.get("attention_mask"),
        )
        return torch.cat([text_positions[None].expand(1, *input_ids.shape).to(positions.device), positions])

    def _fill_in_codes(self, input_ids, labels, mm_token_type_ids, target_pixel_values, target_grid):
        """Puts the codes of the target images where the placeholders stand, in `input_ids` and in `labels`."""
        codes, _ = self.model.encode_images(target_pixel_values, target_grid)
        ids = torch.cat(codes).to(input_ids.device) + self.config.text_vocab_size
        is_code = (mm_token_type_ids == GENERATE.code_type) | (mm_token_type_ids == EDIT.code_type)
        is_code &= input_ids == self.config.generate_image_pad_token_id
        if int(is_code.sum()) != len(ids):
            raise ValueError(
                f"`target_grid` describes {len(ids)} cells, but `mm_token_type_ids` has {int(is_code.sum())} code "
                "placeholders. Pass the batch as the collator made it."
            )
        input_ids = input_ids.masked_scatter(is_code, ids)
        return input_ids, torch.where(is_code & (labels != IGNORE_INDEX), input_ids, labels)

    def _losses(
        self, hidden_states, labels, mm_token_type_ids, task_ids, counts=None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Mean cross entropy of each task's text labels and code labels, logits at labelled positions only; and a zero
        by way of the heads that have nothing to learn, see `WallarooModel.embed_inputs`."""
        positions = loss_positions(labels, mm_token_type_ids, task_ids)
        labels, hidden_states = labels[:, 1:].to(hidden_states.device), hidden_states[:, :-1]
        losses: dict[str, torch.Tensor] = {}
        nothing = hidden_states.new_zeros((), dtype=torch.float32)
        for index, (name, where) in enumerate(positions.items()):
            task, is_code = TASKS[name.split("_")[0]], name.endswith("_image")
            count = int(where.sum()) if counts is None else float(counts[index])
            where = where.to(hidden_states.device)
            logits = self.head_of(task if is_code else UNDERSTAND)(hidden_states[where]).float()
            targets = labels[where] - (self.config.text_vocab_size if is_code else 0)
            total = nn.functional.cross_entropy(logits, targets.to(logits.device), reduction="sum")
            if count > 0:
                losses[name] = total / count
            else:
                nothing = nothing + total.to(nothing.device)
        return losses, nothing

    def _task_of(self, task_ids: torch.Tensor | None) -> Task:
        """The one task of all rows; understanding where it is not noted, not one, or left to `generate`."""
        noted = set() if task_ids is None else set(task_ids.tolist())
        if len(noted) != 1:
            return UNDERSTAND
        index = noted.pop()
        return next((task for task in TASKS.values() if task.index == index), UNDERSTAND)


__all__ = ["WallarooForConditionalGeneration", "WallarooModel", "WallarooPipeline", "WallarooPreTrainedModel"]
