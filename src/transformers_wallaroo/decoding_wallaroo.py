# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""How a decode step is computed: by transformers' own forward and cache, or by a leaner one over a static cache."""

import functools
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLAttention,
    Qwen2_5_VLDecoderLayer,
    Qwen2_5_VLRMSNorm,
    Qwen2MLP,
)
from transformers.utils import logging

from .image_grid_wallaroo import ImageTask

logger = logging.get_logger(__name__)

# How a step may be computed, see `make_decoder`.
DECODERS = ("plain", "static", "graphs", "compiled")
# Graphs that torch.compile may make of the step in one process: each model, task and precision has some of its own.
RECOMPILE_LIMIT = 64
# Stands for a code that is to be drawn, among codes that are given.
TO_DRAW = -1


@dataclass(frozen=True)
class ImagePlan:
    """The images of one request: what is known before the first step.

    Attributes:
        grids: (grid_height, grid_width) of each image, in cells.
        row_ends: whether a row end is forced between two rows.
        given (`torch.LongTensor` of shape `(num_images, num_codes)`, *optional*): codes that are not drawn, on the CPU;
            `TO_DRAW` where one is. `None` where all are drawn.
    """

    grids: tuple[tuple[int, int], ...]
    row_ends: bool
    given: torch.Tensor | None = None

    @property
    def num_codes(self) -> int:
        """Codes of the largest image: the number of sampling steps."""
        return max(height * width for height, width in self.grids)

    @property
    def mixes_widths(self) -> bool:
        """Whether rows end at different steps, so that a step may need padding."""
        return self.row_ends and len({width for _, width in self.grids}) > 1

    def row_end_after(self, code: int) -> list[bool | None]:
        """For each image whether a row end follows its `code`-th code (from 0); `None` where the image is whole."""
        done = code + 1
        return [None if done >= height * width else self.row_ends and done % width == 0 for height, width in self.grids]

    def fed_positions(self) -> int:
        """Positions that decoding adds to the cache, padding included."""
        return sum(2 if True in self.row_end_after(code) else 1 for code in range(self.num_codes - 1))


@dataclass(frozen=True)
class Prompts:
    """What the images of a request start from: prompts that are read once, and which of them each row goes on from.

    Attributes:
        embeds (`torch.FloatTensor` of shape `(num_prompts, prompt_length, hidden_size)`): left-padded.
        mask (`torch.LongTensor` of shape `(num_prompts, prompt_length)`, *optional*): 0 where padding is; `None` where
            there is none, now or later.
        positions (`torch.LongTensor` of shape `(3, num_prompts, prompt_length)`).
        rows (`torch.LongTensor` of shape `(num_branches * num_images,)`): the prompt of each row. The conditional rows
            of all images come first, those of the other branches follow in the same order, see `Guidance`.
    """

    embeds: torch.Tensor
    mask: torch.Tensor | None
    positions: torch.Tensor
    rows: torch.Tensor


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance of logits (paper section 3.4)."""
    return unconditional + guidance_scale * (conditional - unconditional)


class Guidance(NamedTuple):
    """How the logits of an image's branches become one.

    Attributes:
        scale: how far to go from the second branch to the first; at 1 the first is alone.
        image_scale: with three branches, how far to go from the last to the second, which has the source and not the
            instruction (arXiv 2211.09800, section 3.2.1).
    """

    scale: float = 1.0
    image_scale: float | None = None

    def num_branches(self) -> int:
        """How many branches there are."""
        if self.image_scale is not None:
            return 3
        return 1 if self.scale == 1 else 2

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `(num_images, ..., num_embeddings)` of those of all branches, `(num_branches, num_images, ...)`."""
        if self.image_scale is not None:
            return guide(logits[1], logits[2], self.image_scale) + self.scale * (logits[0] - logits[1])
        return logits[0] if self.scale == 1 else guide(logits[0], logits[1], self.scale)


def draw(weights: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Draws in proportion to `weights`, `(num_images, ..., num_embeddings)`; image `i` uses `generators[i]` alone, so
    that it does not depend on its neighbours in the batch."""
    noise = torch.empty_like(weights)
    for row, generator in zip(noise, generators, strict=True):
        row.uniform_(generator=generator)
    # The largest w/e with e ~ Exp(1) is a draw in proportion to w. On a CPU `exponential_` takes five times as long.
    return (weights / noise.log_().neg_()).argmax(dim=-1)


def sample_codes(scores: torch.Tensor, generators: Sequence[torch.Generator] | None) -> torch.Tensor:
    """A code for each of `scores` (`(num_images, ..., num_embeddings)`): the best without `generators`, else a draw.

    Image `i` draws from `generators[i]` alone, so that an image does not depend on its neighbours in the batch.
    """
    if generators is None:
        return scores.argmax(dim=-1)
    return draw(scores.softmax(dim=-1), generators)


def next_codes(
    plan: ImagePlan, code: int, scores: torch.Tensor, generators: Sequence[torch.Generator] | None
) -> torch.Tensor:
    """The `code`-th code of each image (from 0): what is given, else as `sample_codes`. Of a given code nothing is
    drawn from the image's generator."""
    if plan.given is None:
        return sample_codes(scores, generators)
    given = plan.given[:, code]
    rows = (given == TO_DRAW).nonzero().flatten()
    if len(rows) == len(given):
        return sample_codes(scores, generators)
    codes = given.to(scores.device, copy=True)
    if len(rows):
        own = None if generators is None else [generators[row] for row in rows.tolist()]
        rows = rows.to(scores.device)
        codes[rows] = sample_codes(scores[rows], own)
    return codes


class TaskGroups(NamedTuple):
    """Which images of a batch are of which task.

    Attributes:
        tasks: each once.
        heads: for each task what predicts its codes.
        tables: for each task the embeddings of all codes, where `model.optimize()` has made them.
        images: the indices of each task's images; none where there is one task.
        order (`torch.LongTensor`, *optional*): puts what was computed task by task back into the order of the images.
    """

    tasks: tuple[ImageTask, ...]
    heads: tuple[Callable[[torch.Tensor], torch.Tensor], ...]
    tables: tuple[torch.Tensor | None, ...]
    images: tuple[torch.Tensor, ...] = ()
    order: torch.Tensor | None = None

    @classmethod
    def of(cls, tasks: Sequence[ImageTask], model) -> "TaskGroups":
        """The groups of images of these tasks, by the model's own modules."""
        distinct = tuple({task.name: task for task in tasks}.values())
        groups = cls(distinct, tuple(model.head_of(task) for task in distinct), (None,) * len(distinct))
        return groups.only(tasks, model.execution_device)

    def only(self, tasks: Sequence[ImageTask], device: torch.device) -> "TaskGroups":
        """The same for images of these tasks."""
        names = [task.name for task in tasks]
        kept = [at for at, task in enumerate(self.tasks) if task.name in names]
        groups = TaskGroups(
            tuple(self.tasks[at] for at in kept),
            tuple(self.heads[at] for at in kept),
            tuple(self.tables[at] for at in kept),
        )
        if len(kept) == 1:
            return groups
        indices = [[at for at, name in enumerate(names) if name == task.name] for task in groups.tasks]
        order = torch.tensor([at for group in indices for at in group], device=device).argsort()
        return groups._replace(images=tuple(torch.tensor(group, device=device) for group in indices), order=order)


def embed_codes(model, groups: TaskGroups, codes: torch.Tensor) -> torch.Tensor:
    """Embeddings `(num_images, ..., hidden_size)` of codes `(num_images, ...)`, each by its task's adapter."""
    parts = []
    for index, (task, table) in enumerate(zip(groups.tasks, groups.tables, strict=True)):
        mine = codes if groups.order is None else codes[groups.images[index].to(codes.device)]
        parts.append(model.model.embed_codes(mine, task) if table is None else F.embedding(mine, table))
    return parts[0] if groups.order is None else torch.cat(parts)[groups.order.to(parts[0].device)]


def predict(groups: TaskGroups, hidden: torch.Tensor, guidance: Guidance) -> torch.Tensor:
    """Logits `(num_images, ..., num_embeddings)`, float32 and guided, of hidden states `(num_rows, ..., hidden_size)`,
    each by its task's head."""
    branches = hidden.unflatten(0, (guidance.num_branches(), -1))
    if groups.order is None:
        logits = groups.heads[0](branches).float()
    else:
        parts = [
            head(branches[:, images.to(branches.device)]).float()
            for head, images in zip(groups.heads, groups.images, strict=True)
        ]
        logits = torch.cat(parts, dim=1)[:, groups.order.to(parts[0].device)]
    return guidance.apply(logits)


class PlainDecoder:
    """State of one request that is decoded by transformers' own forward: any cache, any attention, any hook.

    It lives for one call; nothing of it is kept on the model.
    """

    def __init__(self, model, plan: ImagePlan, tasks: Sequence[ImageTask], guidance: Guidance, cache: Cache | None):
        self.model, self.plan, self.guidance, self.cache = model, plan, guidance, cache
        self.groups = TaskGroups.of(tasks, model)
        self.mask: torch.Tensor | None = None
        self.next_position: torch.Tensor  # of each row, known after the prefill
        # Embeddings and positions so far, kept only without a cache.
        self.history: list[torch.Tensor] = []
        self.history_positions: list[torch.Tensor] = []
        self.row_end = row_end_embedding(model)

    def start(self, prompts: Prompts) -> torch.Tensor:
        """Reads the prompts and returns the logits of the first codes, `(num_images, num_embeddings)`."""
        embeds, positions, rows = prompts.embeds, prompts.positions, prompts.rows
        self.mask = prompts.mask
        share = isinstance(self.cache, DynamicCache)
        if not share:  # a cache whose rows cannot be selected reads the prompt of each
            embeds, positions = embeds[rows], positions[:, rows]
            self.mask = None if self.mask is None else self.mask[rows]
        hidden = self._forward(embeds, positions)
        if share:
            assert self.cache is not None
            # On the CPU, for layers may lie on several devices.
            self.cache.batch_select_indices(rows.cpu())
            hidden, positions = hidden[rows.to(hidden.device)], positions[:, rows]
            self.mask = None if self.mask is None else self.mask[rows]
        self.next_position = positions.amax(dim=(0, 2)) + 1
        return predict(self.groups, hidden, self.guidance)

    def advance(self, codes: torch.Tensor, row_ends: list[bool | None]) -> torch.Tensor:
        """Feeds the codes just sampled, each with its row end where one follows, and returns the next logits.

        Where rows end at different steps, an image without a row end gets a masked position before its code.
        """
        branches = len(self.next_position) // len(codes)
        embeds = embed_codes(self.model, self.groups, codes).unsqueeze(1).to(self.row_end.dtype)
        embeds = embeds.repeat(branches, 1, 1)
        real = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        if True in row_ends:
            # Whole images (`None`) go on unread, as if their row ended.
            ends = torch.tensor([end is not False for end in row_ends], device=embeds.device).repeat(branches)
            both = torch.cat([embeds, self.row_end.to(embeds.device).expand(len(embeds), 1, -1)], dim=1)
            embeds = torch.where(ends[:, None, None], both, both.flip(1))
            real = torch.stack([ends, torch.ones_like(ends)], dim=1).long()
        last = self.next_position + real.sum(dim=1) - 1
        positions = last.unsqueeze(1) - torch.arange(embeds.shape[1] - 1, -1, -1, device=last.device)
        self.next_position = last + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, real.to(self.mask)], dim=1)
        return predict(self.groups, self._forward(embeds, positions.expand(3, -1, -1)), self.guidance)

    def _forward(self, embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            self.history.append(embeds)
            self.history_positions.append(positions)
            embeds, positions = torch.cat(self.history, dim=1), torch.cat(self.history_positions, dim=2)
        return read(self.model, embeds, self.mask, positions, self.cache)


def row_end_embedding(model) -> torch.Tensor:
    """Embedding of the row end, `(1, hidden_size)`."""
    return model.get_input_embeddings()(torch.tensor([model.config.eol_token_id], device=model.execution_device))


def read(model, embeds, mask, positions, cache) -> torch.Tensor:
    """The last hidden state of each row, `(num_rows, hidden_size)`, by transformers' own forward."""
    outputs = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return outputs.last_hidden_state[:, -1]


# ---------------------------------------------------------------------- the lean step

# Weight and bias of a linear layer, or the module where it is more than that (quantised, with LoRA).
Projection = tuple[torch.Tensor, torch.Tensor | None] | nn.Module


class LeanHead(NamedTuple):
    """An image head of two layers whose weights are called by the lean step itself."""

    fc1: Projection
    fc2: Projection

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        positions = hidden.flatten(0, -2)
        return project(self.fc2, F.gelu(project(self.fc1, positions))).unflatten(0, hidden.shape[:-1])


class LayerWeights(NamedTuple):
    """What a decode step needs of a decoder layer. `qkv` and `gate_up` are one projection each where they are fused."""

    input_norm: torch.Tensor
    qkv: tuple[Projection, ...]
    out: Projection
    post_norm: torch.Tensor
    gate_up: tuple[Projection, ...]
    down: Projection


class Heads(NamedTuple):
    """Numbers of the attention and the norms."""

    query: int
    key_value: int
    dim: int
    eps: float

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.query // self.key_value


class Parts(NamedTuple):
    """What a step goes through: the same in all steps of a request while the same images are in the batch.

    Attributes:
        layers, norm, heads: of the language model.
    """

    model: Any
    layers: Sequence[LayerWeights]
    norm: torch.Tensor
    heads: Heads
    groups: TaskGroups
    guidance: Guidance

    @classmethod
    def of(cls, model, tasks: Sequence[ImageTask], guidance: Guidance) -> "Parts":
        """Those of a model, for images of these tasks."""
        config = model.config.text_config
        dim = config.hidden_size // config.num_attention_heads
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, dim, config.rms_norm_eps)
        groups = TaskGroups.of(tasks, model)
        groups = groups._replace(
            heads=tuple(map(_lean_head, groups.heads)), tables=tuple(map(model.model.code_table, groups.tasks))
        )
        return cls(model, layer_weights(model), model.model.language_model.norm.weight, heads, groups, guidance)

    def only(self, tasks: Sequence[ImageTask]) -> "Parts":
        """The same for some of the images, those of these tasks."""
        return self._replace(groups=self.groups.only(tasks, self.norm.device))


def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`weight @ hidden.T + bias`, transposed, of a few positions `(num_positions, in_features)`.

    With so few of them it is the weights that take the time, and on a CPU the libraries read them faster where they are
    the left factor: in bf16 always, in float32 from eight positions on (docs/decisions.md).
    """
    weights_left = hidden.device.type == "cpu" and (hidden.dtype == torch.bfloat16 or hidden.shape[0] >= 8)
    if not weights_left or type(weight) not in (torch.Tensor, nn.Parameter):
        return F.linear(hidden, weight, bias)
    return (weight @ hidden.t() if bias is None else torch.addmm(bias[:, None], weight, hidden.t())).t()


def project(projection: Projection, hidden: torch.Tensor) -> torch.Tensor:
    """What a projection makes of `hidden`, `(num_positions, in_features)`."""
    return linear(hidden, *projection) if isinstance(projection, tuple) else projection(hidden)


def normalize(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of `(num_positions, hidden_size)`. In float32 on a CPU torch's own is eight small operations, and these
    are five."""
    if hidden.device.type != "cpu" or hidden.dtype != torch.float32 or torch.compiler.is_compiling():
        return F.rms_norm(hidden, hidden.shape[-1:], weight, eps)
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    return (hidden / length.square_().div_(hidden.shape[-1]).add_(eps).sqrt_()).mul_(weight)


def run_layers(
    parts: "Parts",
    state: "StepState",
    hidden: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    slots: torch.Tensor,
    mask: torch.Tensor | None,
    length: int,
) -> torch.Tensor:
    """The language model on a few new positions a row, over a static cache that it writes to.

    Args:
        hidden (`torch.FloatTensor` of shape `(num_rows, new, hidden_size)`): embeddings.
        rotary: cosine and signed sine, `(num_rows, new, num_heads, head_dim)`, of all heads: queries, keys and values,
            see `rotary_of`.
        slots (`torch.LongTensor` of shape `(num_rows, new)`): where in the cache each position goes.
        mask (`torch.FloatTensor` of shape `(num_rows, 1, 1 or new * group, length)`, *optional*): added to the scores
            of attention.
        length: slots that are read.

    Returns:
        Hidden states after the last norm, of the shape of `hidden`.
    """
    rows, new, width = hidden.shape
    heads, group = parts.heads, parts.heads.group
    cos, sin = rotary
    num_slots = state.caches[0].shape[1]
    flat = (slots + torch.arange(rows, device=slots.device)[:, None] * num_slots).flatten()
    hidden = hidden.flatten(0, 1)
    for layer, cache in zip(parts.layers, state.caches, strict=True):
        states = normalize(hidden, layer.input_norm, heads.eps)
        qkv = [project(each, states) for each in layer.qkv]
        states = (qkv[0] if len(qkv) == 1 else torch.cat(qkv, dim=-1)).contiguous().view(rows, new, -1, heads.dim)
        # Rotary positions: the halves change places, the sign of the first is in `sin`. Values stay as they are.
        states = torch.addcmul(states * cos, states.roll(heads.dim // 2, -1), sin)
        query, key_value = states.split((heads.query, 2 * heads.key_value), dim=2)
        cache.view(-1, *cache.shape[2:]).index_copy_(0, flat, key_value.flatten(0, 1))
        # The query heads of one key head are further queries to it, so that no key is repeated.
        query = query.unflatten(2, (heads.key_value, group)).transpose(1, 2).flatten(2, 3)
        key, value = cache[:, :length].transpose(1, 2).chunk(2, dim=1)
        states = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=heads.dim**-0.5)
        states = states.unflatten(2, (new, group)).transpose(1, 2).reshape(rows * new, -1)
        hidden = hidden + project(layer.out, states)
        states = normalize(hidden, layer.post_norm, heads.eps)
        gate_up = [project(each, states) for each in layer.gate_up]
        gate, up = gate_up if len(gate_up) == 2 else gate_up[0].chunk(2, dim=-1)
        hidden = hidden + project(layer.down, F.silu(gate) * up)
    return normalize(hidden, parts.norm, heads.eps).view(rows, new, width)


def attention_mask(
    window: torch.Tensor, padding: torch.Tensor, slots: torch.Tensor, group: int, dtype: torch.dtype
) -> torch.Tensor:
    """What is added to the scores of attention, `(num_rows, 1, 1 or new * group, length)`: a position sees the slots
    from the end of its row's padding up to its own.

    Args:
        window (`torch.LongTensor` of shape `(length,)`): 0, 1, 2, ...
        padding (`torch.LongTensor` of shape `(num_rows,)`): slots at the start of each row that hold nothing.
    """
    seen = (window >= padding[:, None, None]) & (window <= slots[:, :, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)
    if slots.shape[1] == 1:
        return mask[:, None]
    return mask.repeat_interleave(group, dim=1)[:, None]


def rotary_table(language_model, length: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine `(length, head_dim)` of 1-D positions; the first half of the sine has its sign turned, see
    `run_layers`. On codes and row ends all axes of M-RoPE agree."""
    positions = torch.arange(length, device=like.device).expand(3, 1, -1)
    cos, sin = (each.reshape(-1, *each.shape[-2:])[0] for each in language_model.rotary_emb(like, positions))
    first, second = sin.chunk(2, dim=-1)
    return cos, torch.cat([-first, second], dim=-1)


def rotary_of(state: "StepState", positions: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and signed sine of positions `(num_rows, new)` for `run_layers`, which turns all heads at once: values by
    nothing."""
    turned, still = heads.query + heads.key_value, heads.key_value
    found = []
    for table, nothing in ((state.cos, 1), (state.sin, 0)):
        each = table[positions][:, :, None]
        unturned = each.new_full((), nothing).expand(*each.shape[:2], still, heads.dim)
        found.append(torch.cat([each.expand(-1, -1, turned, -1), unturned], dim=2))
    return found[0], found[1]


def has_hooks(module: Any) -> bool:
    """Whether anything but the module itself takes part in a call of it. Not counted is what transformers leaves on the
    layers of a model that was asked for hidden states or attentions once, for it does nothing unless asked again."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    others = [hook for hook in hooks if getattr(hook, "__module__", "") != "transformers.utils.output_capturing"]
    return bool(others) or hasattr(module, "_hf_hook")


def why_not_lean(model) -> str | None:
    """What keeps `model` from the lean step, in words; `None` where nothing does."""
    language_model = model.model.language_model
    if any(hasattr(module, "_hf_hook") for module in (model, language_model, language_model.norm)):
        return "its weights are placed by accelerate's hooks"
    activation = model.config.text_config.hidden_act
    if activation != "silu":
        return f"its activation is {activation!r}"
    if torch.is_autocast_enabled(model.execution_device.type):
        return "autocast is on"
    if "sliding_attention" in (getattr(model.config.text_config, "layer_types", None) or ()):
        return "it has sliding attention"
    known = (Qwen2_5_VLDecoderLayer, Qwen2_5_VLAttention, Qwen2MLP, Qwen2_5_VLRMSNorm)
    if has_hooks(language_model.rotary_emb):
        return "its rotary embedding has a hook"
    for layer in language_model.layers:
        parts = (layer, layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm)
        for part in (*parts, language_model.norm):
            if type(part) not in known:
                return f"it has a {type(part).__name__}, which is not Qwen2.5-VL's"
            if has_hooks(part):
                return f"a {type(part).__name__} has a hook"
        if any(hasattr(weight, "device_mesh") for weight in layer.parameters()):
            return "its weights are sharded"
        if layer.input_layernorm.weight.device != model.execution_device:
            return "its layers are on several devices"
    return None


def _is_plain(module: Any) -> bool:
    """Whether a linear layer is its weight and bias and no more. A quantised weight is a tensor of its own class."""
    return type(module).forward is nn.Linear.forward and not has_hooks(module)


def _lean_head(head: Any) -> Any:
    """The head as its weights, or itself where it is more than two linear layers (LoRA, a hook, a linear probe)."""
    layers: list[Any] = [getattr(head, name, None) for name in ("fc1", "fc2")]
    plain = isinstance(getattr(head, "activation", None), nn.GELU) and all(map(_is_plain, layers))
    if not plain or has_hooks(head) or has_hooks(head.activation):
        return head
    return LeanHead(*(_projections((layer,))[0] for layer in layers))


def _qkv(layer: Any) -> tuple[nn.Linear, ...]:
    return layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj


def _gate_up(layer: Any) -> tuple[nn.Linear, ...]:
    return layer.mlp.gate_proj, layer.mlp.up_proj


def _projections(modules: Sequence[nn.Linear]) -> tuple[Projection, ...]:
    """The modules' weights; as one where they lie one after the other in memory, as `fuse` leaves them."""
    if not all(_is_plain(module) for module in modules):
        return tuple((module.weight, module.bias) if _is_plain(module) else module for module in modules)
    fused = [_joined([getattr(module, name) for module in modules]) for name in ("weight", "bias")]
    if len(modules) > 1 and fused[0] is not None and (fused[1] is not None or modules[0].bias is None):
        return ((fused[0], fused[1]),)
    return tuple((module.weight, module.bias) for module in modules)


def _joined(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """One view of tensors that lie one after the other in one piece of memory; `None` where they do not."""
    tensors = [part for part in parts if part is not None]
    if len(tensors) < len(parts) or any(type(part) not in (torch.Tensor, nn.Parameter) for part in tensors):
        return None
    first, offset = tensors[0], tensors[0].storage_offset()
    for part in tensors:
        ours = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not ours or part.storage_offset() != offset or not part.is_contiguous():
            return None
        offset += part.numel()
    length = sum(part.shape[0] for part in tensors)
    return first.detach().as_strided((length, *first.shape[1:]), first.stride())


def fuse(model) -> int:
    """Lays the weights of query, key and value, and of gate and up, one after the other in memory, so that a step
    multiplies by them at once. Names, shapes and values of the weights stay.

    Returns:
        How many groups of projections are fused; quantised ones and those with LoRA stay apart.
    """
    groups = [group(layer) for layer in model.model.language_model.layers for group in (_qkv, _gate_up)]
    done = 0
    for modules in groups:
        weights = [module.weight for module in modules if _is_plain(module)]
        if len(weights) < len(modules) or any(type(weight) is not nn.Parameter for weight in weights):
            continue
        for name in ("weight", "bias"):
            parts = [getattr(module, name) for module in modules]
            if all(part is not None for part in parts) and _joined(parts) is None:
                pieces = torch.cat([part.data for part in parts]).split([len(part) for part in parts])
                for part, piece in zip(parts, pieces, strict=True):
                    part.data = piece
        done += 1
    return done


def _modules_of_a_step(model, tasks: Sequence[ImageTask]) -> list[nn.Module]:
    """The linear layers that a step goes through."""
    found = []
    for layer in model.model.language_model.layers:
        found += [*_qkv(layer), layer.self_attn.o_proj, *_gate_up(layer), layer.mlp.down_proj]
    for task in {task.name: task for task in tasks}.values():
        for part in (getattr(model.model, task.adapter), model.head_of(task)):
            found += [getattr(part, "fc1", part), getattr(part, "fc2", part)]
    return found


def layer_weights(model) -> list[LayerWeights]:
    """What the lean step needs of each decoder layer."""
    return [
        LayerWeights(
            layer.input_layernorm.weight,
            _projections(_qkv(layer)),
            _projections((layer.self_attn.o_proj,))[0],
            layer.post_attention_layernorm.weight,
            _projections(_gate_up(layer)),
            _projections((layer.mlp.down_proj,))[0],
        )
        for layer in model.model.language_model.layers
    ]


class StepState(NamedTuple):
    """Tensors that a step reads and writes in place; their addresses do not change from step to step.

    Attributes:
        next_slot, next_position (`torch.LongTensor` of shape `(num_rows,)`): of each row.
        padding (`torch.LongTensor` of shape `(num_rows,)`): slots at the start of each row that hold nothing.
        cos, sin (`torch.FloatTensor` of shape `(num_positions, head_dim)`): see `rotary_table`.
        row_end (`torch.FloatTensor` of shape `(1, hidden_size)`): embedding of the row end.
        caches: a layer each, `(num_rows, num_slots, 2 * num_key_value_heads, head_dim)`: keys, then values. The last
            slot takes what nothing may see.
    """

    next_slot: torch.Tensor
    next_position: torch.Tensor
    padding: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    row_end: torch.Tensor
    caches: tuple[torch.Tensor, ...]


def decode_step(
    parts: Parts,
    state: StepState,
    codes: torch.Tensor,
    ends: torch.Tensor | None,
    window: torch.Tensor,
    padded: bool,
) -> torch.Tensor:
    """Feeds a code an image, with a row end after it where `ends` says so, and returns the next logits.

    It waits for nothing on the host. A row without a row end, beside one with, has its code in the second place and in
    the first something that goes to the last slot.

    Args:
        codes (`torch.LongTensor` of shape `(num_images,)`): as sampled.
        ends (`torch.BoolTensor` of shape `(num_images,)`, *optional*): `None` where no row ends.
        window (`torch.LongTensor` of shape `(length,)`): 0, 1, 2, ...: the slots that are read.
        padded: whether any slot of the window must not be seen.

    Returns:
        Guided logits, float32, `(num_images, num_embeddings)`.
    """
    branches = parts.guidance.num_branches()
    embeds = embed_codes(parts.model, parts.groups, codes).to(state.row_end.dtype).repeat(branches, 1)[:, None]
    slot, position = state.next_slot, state.next_position
    if ends is None:
        slots, positions = slot[:, None], position[:, None]
        state_moves: torch.Tensor | int = 1
    else:
        ends = ends.repeat(branches)
        both = torch.cat([embeds, state.row_end.expand(len(embeds), 1, -1)], dim=1)
        embeds = torch.where(ends[:, None, None], both, both.flip(1))
        state_moves = 1 + ends.long()
        trash = state.caches[0].shape[1] - 1
        slots = torch.stack([slot.where(ends, trash), slot + ends.long()], dim=1)
        positions = torch.stack([position, position + ends.long()], dim=1)
    mask = None
    if padded or ends is not None:
        mask = attention_mask(window, state.padding, slots, parts.heads.group, embeds.dtype)
    rotary = rotary_of(state, positions, parts.heads)
    hidden = run_layers(parts, state, embeds, rotary, slots, mask, window.shape[0])
    state.next_slot.add_(state_moves)
    state.next_position.add_(state_moves)
    return predict(parts.groups, hidden[:, -1], parts.guidance)


def decode_window(
    parts: Parts,
    state: StepState,
    codes: torch.Tensor,
    first: torch.Tensor,
    widths: torch.Tensor,
    totals: torch.Tensor,
    num_ends: int,
    window: torch.Tensor,
) -> torch.Tensor:
    """Feeds several codes an image at once, with the row ends between them, and returns the logits after each.

    Args:
        codes (`torch.LongTensor` of shape `(num_images, new)`): from the image's code number `first` on. What is
            beyond its last goes to the last slot.
        first, widths, totals (`torch.LongTensor` of shape `(num_images,)`): see above; cells of a row and of the image.
        num_ends: row ends that so many codes may hold; 0 without row ends.

    Returns:
        Guided logits, float32, `(num_images, new, num_embeddings)`.
    """
    branches = parts.guidance.num_branches()
    (num_images, new), device = codes.shape, codes.device
    trash = state.caches[0].shape[1] - 1
    steps = torch.arange(new, device=device)
    numbers = first[:, None] + steps
    fed = numbers < totals[:, None] - 1
    rows = numbers // widths[:, None]
    # The row ends of the window, each after the last code of its row.
    ending = rows[:, :1] + torch.arange(num_ends, device=device)
    last = (ending + 1) * widths[:, None] - 1
    ends_here = (last <= numbers[:, -1:]) & (last < totals[:, None] - 1)
    steps_back = rows if num_ends else torch.zeros_like(rows)
    offsets = torch.cat([numbers + steps_back, last + ending + 1], dim=1).repeat(branches, 1)
    real = torch.cat([fed, ends_here], dim=1).repeat(branches, 1)
    slots = torch.where(real, state.next_slot[:, None] + offsets, trash)
    positions = torch.where(real, state.next_position[:, None] + offsets, 0)
    embeds = embed_codes(parts.model, parts.groups, codes).to(state.row_end.dtype)
    embeds = torch.cat([embeds, state.row_end.expand(num_images, num_ends, -1)], dim=1).repeat(branches, 1, 1)
    mask = attention_mask(window, state.padding, slots, parts.heads.group, embeds.dtype)
    rotary = rotary_of(state, positions, parts.heads)
    hidden = run_layers(parts, state, embeds, rotary, slots, mask, window.shape[0])
    # What follows a code that ends its row is read off the row end.
    after = steps.expand(num_images, -1)
    if num_ends:
        is_last = (numbers + 1) % widths[:, None] == 0
        after = torch.where(is_last & fed, new + rows - rows[:, :1], after)
    hidden = hidden.gather(1, after.repeat(branches, 1)[..., None].expand(-1, -1, hidden.shape[-1]))
    return predict(parts.groups, hidden, parts.guidance)


class StaticDecoder:
    """State of one request that is decoded by the lean step over a static cache.

    Images that are whole leave the batch.

    Args:
        run: `decode_step`, or what runs it faster.
        whole_window: whether each step reads all slots, so that no shape changes from step to step.
    """

    def __init__(
        self,
        model,
        plan: ImagePlan,
        tasks: Sequence[ImageTask],
        guidance: Guidance,
        run: Callable[..., torch.Tensor] = decode_step,
        whole_window: bool = False,
    ):
        self.model, self.plan = model, plan
        self.run, self.whole_window = run, whole_window
        self.tasks = list(tasks)
        self.images = list(range(len(tasks)))  # those in the batch
        self.parts = Parts.of(model, tasks, guidance)
        self.index: torch.Tensor | None = None  # of the images in the batch, once one has left
        self.code = 0  # that was fed last, plus one
        self.used = 0  # slots of the fullest row
        self.state: StepState
        self.window: torch.Tensor
        self.ends: torch.Tensor
        self.padded = True

    def start(self, prompts: Prompts) -> torch.Tensor:
        """Reads the prompts and returns the logits of the first codes, `(num_images, num_embeddings)`."""
        model, rows = self.model, prompts.rows
        cache = DynamicCache(config=model.config.text_config)
        hidden = read(model, prompts.embeds, prompts.mask, prompts.positions, cache)[rows]
        num_rows, length, device = len(rows), prompts.embeds.shape[1], hidden.device
        num_slots = length + self.plan.fed_positions() + 1
        caches: list[torch.Tensor] = []
        for layer in cache.layers:
            filled = torch.cat([layer.keys, layer.values], dim=1)
            layer.keys = layer.values = None
            caches.append(filled.new_zeros(num_rows, num_slots, *filled.shape[1::2]))
            caches[-1][:, :length] = filled.transpose(1, 2)[rows]
        padding = rows.new_zeros(num_rows)
        if prompts.mask is not None:
            padding = (length - prompts.mask.sum(dim=1)).to(rows)[rows]
        self.padded = prompts.mask is not None or self.whole_window
        self.state = StepState(
            rows.new_full((num_rows,), length),
            (prompts.positions.amax(dim=(0, 2)) + 1)[rows],
            padding,
            *rotary_table(model.model.language_model, num_slots, hidden),
            row_end_embedding(model),
            tuple(caches),
        )
        self.used = length
        self.window = torch.arange(num_slots, device=device)
        after = [self.plan.row_end_after(code) for code in range(self.plan.num_codes)]
        self.ends = torch.tensor([[end is True for end in ends] for ends in after], device=device)
        return predict(self.parts.groups, hidden, self.parts.guidance)

    def advance(self, codes: torch.Tensor, row_ends: list[bool | None]) -> torch.Tensor:
        """Feeds the codes just sampled, each with its row end where one follows, and returns the next logits; of
        images that are whole something."""
        staying = [image for image in self.images if row_ends[image] is not None]
        if len(staying) < len(self.images):
            self._keep(staying)
        codes = codes if self.index is None else codes.index_select(0, self.index)
        ends = None
        if any(row_ends[image] for image in self.images):
            ends = self.ends[self.code] if self.index is None else self.ends[self.code].index_select(0, self.index)
        self.code += 1
        self.used += 1 if ends is None else 2
        window = self.window if self.whole_window else self.window[: self.used]
        logits = self.run(self.parts, self.state, codes, ends, window, self.padded)
        if self.index is None:
            return logits
        return logits.new_zeros(len(row_ends), logits.shape[-1]).index_copy_(0, self.index, logits)

    def look_ahead(self, images: list[int], codes: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Feeds several codes at once of some images, the others having left, see `decode_window`. Nothing fed so is
        for good: what is fed again under the same number takes its slot."""
        if len(images) < len(self.images):
            self._keep(images)
        grids, device = [self.plan.grids[image] for image in images], codes.device
        new, row_ends = codes.shape[1], self.plan.row_ends
        longest = max(
            start + new + (start + new) // width * row_ends
            for start, (_, width) in zip(first.tolist(), grids, strict=True)
        )
        return decode_window(
            self.parts,
            self.state,
            codes,
            first,
            torch.tensor([width for _, width in grids], device=device),
            torch.tensor([height * width for height, width in grids], device=device),
            ((new - 1) // min(width for _, width in grids) + 1) * row_ends,
            self.window[: self.used + longest + 1],
        )

    def _keep(self, images: list[int]) -> None:
        """Leaves only these images in the batch."""
        places = [self.images.index(image) for image in images]
        rows = torch.arange(len(self.state.padding), device=self.window.device)
        rows = rows.unflatten(0, (-1, len(self.images)))[:, places].flatten()
        state = self.state
        self.state = StepState(
            state.next_slot[rows],
            state.next_position[rows],
            state.padding[rows],
            state.cos,
            state.sin,
            state.row_end,
            tuple(each[rows] for each in state.caches),
        )
        self.images, self.index = images, torch.tensor(images, device=rows.device)
        self.parts = self.parts.only([self.tasks[image] for image in images])


# What a guard is about, where it is about a layer after the first.
_LATER_LAYER = re.compile(r"\b(?:layers|caches)\[[1-9]\d*\]")


def _step_of_alike_layers(*arguments: Any) -> torch.Tensor:
    """`decode_step` under another name: what is compiled with fewer guards is not to be found for other models."""
    return decode_step(*arguments)


@functools.cache
def _compiled_step(alike: bool) -> Callable[..., torch.Tensor]:
    """The compiled step. Where all layers are alike only the first is guarded: guards of each tensor of each layer took
    a third of a step of 28 small layers."""
    if not alike:
        return torch.compile(decode_step)
    options = {"guard_filter_fn": _not_of_later_layers, "size_asserts": False}
    return torch.compile(_step_of_alike_layers, options=options)


def _not_of_later_layers(guards: Sequence[Any]) -> list[bool]:
    return [_LATER_LAYER.search(guard.name) is None for guard in guards]


def layers_are_alike(layers: Sequence[LayerWeights]) -> bool:
    """Whether the weights of all layers are plain tensors that differ in nothing but their values."""
    looks = set()
    for layer in layers:
        weights: list[torch.Tensor | None] = [layer.input_norm, layer.post_norm]
        for projection in (*layer.qkv, layer.out, *layer.gate_up, layer.down):
            if not isinstance(projection, tuple):
                return False
            weights += projection
        looks.add(
            tuple(
                None if w is None else (type(w), w.shape, w.stride(), w.dtype, w.device, w.requires_grad)
                for w in weights
            )
        )
    return len(looks) == 1


class CompiledStep:
    """`decode_step` for one request, compiled once for all steps, prompts and images of one size; anew for another
    task, for another number of images (twice, then for all numbers) and with guidance for without."""

    def __init__(self) -> None:
        self.marked: StepState | None = None
        self.run: Callable[..., torch.Tensor] | None = None

    def __call__(
        self,
        parts: Parts,
        state: StepState,
        codes: torch.Tensor,
        ends: torch.Tensor | None,
        window: torch.Tensor,
        padded: bool,
    ) -> torch.Tensor:
        torch._dynamo.maybe_mark_dynamic(window, 0)
        if state is not self.marked:
            for each in (state.cos, state.sin):
                torch._dynamo.maybe_mark_dynamic(each, 0)
            for cache in state.caches:
                torch._dynamo.maybe_mark_dynamic(cache, 1)
            self.marked = state
        if self.run is None:
            self.run = _compiled_step(layers_are_alike(parts.layers))
        # torch's own limit is 8 graphs of a function in a process, and beyond it there is no compiling any more.
        with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
            return self.run(parts, state, codes, ends, window, padded)


# torch records one graph at a time.
_recording = threading.Lock()
# How far the logits of a graph may be from those of the step that it was recorded of, of the largest: both run the same
# kernels, whose sums may differ in their order.
GRAPH_TOLERANCE = 0.02


def can_graph(device: torch.device) -> bool:
    """Whether steps on this device can be recorded as graphs."""
    return device.type == "cuda"


class Recording(NamedTuple):
    """What was recorded of a step: `replay` does it again with what is in `codes` and `ends` by then, into `logits`."""

    replay: Callable[[], Any]
    codes: torch.Tensor
    ends: torch.Tensor | None
    logits: torch.Tensor


def record_cuda_graph(
    run: Callable[[], torch.Tensor], put_back: Callable[[], None]
) -> tuple[Callable[[], Any], torch.Tensor, torch.Tensor]:
    """Records `run` as a CUDA graph; `put_back` takes back what a run has moved.

    Returns:
        What plays the graph, the tensor that it writes, and what `run` itself returned.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries choose their kernels, compilers compile
            returned = run()
            put_back()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on with their own work meanwhile.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        written = run()
    return graph.replay, written, returned


class GraphedStep:
    """`decode_step`, or the compiled one, recorded as a CUDA graph and played again at each step of one request.

    There are two graphs, without and with row ends, for each number of images in the batch. Each is played once against
    the step itself before it is used.

    Args:
        run: what to record.
        required: whether to raise where a graph cannot be recorded or computes something else; otherwise the request
            goes on without graphs, with a warning.
    """

    record: Callable[..., Any] = staticmethod(record_cuda_graph)

    def __init__(self, run: Callable[..., torch.Tensor], *, required: bool):
        self.run, self.required = run, required
        self.given_up = False
        self.recordings: dict[tuple[int, bool], Recording] = {}

    def __call__(
        self, parts: Parts, state: StepState, codes: torch.Tensor, ends: torch.Tensor | None, *rest: Any
    ) -> torch.Tensor:
        if self.given_up:
            return self.run(parts, state, codes, ends, *rest)
        key = (len(codes), ends is not None)
        with torch.cuda.device(codes.get_device()):  # streams and graphs belong to the current one
            if key not in self.recordings:
                self.recordings = {other: kept for other, kept in self.recordings.items() if other[0] == key[0]}
                try:
                    with _recording:
                        self.recordings[key] = self._prepare(parts, state, codes, ends, *rest)
                except RuntimeError as error:  # torch's own for whatever goes wrong on a GPU, want of memory too
                    if self.required:
                        raise
                    logger.warning(
                        "This image is drawn without CUDA graphs, which is slower: %s Pass `decoder='static'` to do so "
                        "without this message.",
                        error,
                    )
                    self.given_up, self.recordings = True, {}
                    return self.run(parts, state, codes, ends, *rest)
            recording = self.recordings[key]
            recording.codes.copy_(codes)
            if recording.ends is not None:
                assert ends is not None
                recording.ends.copy_(ends)
            recording.replay()
            return recording.logits.clone()

    def _prepare(
        self, parts: Parts, state: StepState, codes: torch.Tensor, ends: torch.Tensor | None, *rest: Any
    ) -> Recording:
        """A recording that was played once; raises `RuntimeError` where it computes something else."""
        codes, ends = codes.clone(), None if ends is None else ends.clone()
        # What is moved here is put back; the slots that are written are written anew.
        moved = [(each, each.clone()) for each in (state.next_slot, state.next_position)]

        def put_back() -> None:
            for each, before in moved:
                each.copy_(before)

        def run() -> torch.Tensor:
            return self.run(parts, state, codes, ends, *rest)

        try:
            replay, logits, expected = type(self).record(run, put_back)
            replay()
        finally:
            put_back()
        off = float((logits - expected).abs().max() / expected.abs().max())
        if not off <= GRAPH_TOLERANCE:
            raise RuntimeError(f"a graph of the decode step gave logits that are off by {off:.2g} of the largest.")
        return Recording(replay, codes, ends, logits)


def make_decoder(
    model,
    plan: ImagePlan,
    tasks: Sequence[ImageTask],
    guidance: Guidance,
    cache: Cache | None,
    *,
    name: str | None,
    own_cache: bool,
    speculative: bool = False,
) -> PlainDecoder | StaticDecoder:
    """The decoder of a request.

    Args:
        cache: what `PlainDecoder` goes on from; `None` computes everything anew at each step.
        name: `"plain"` is transformers' forward; `"static"` the lean step; `"graphs"` the same as CUDA graphs;
            `"compiled"` the same by torch.compile, on a GPU as CUDA graphs too. By default graphs on a GPU and static
            elsewhere; static where a graph cannot be, and plain where the model or the call wants more than the lean
            step has.
        own_cache: whether the call has asked for a cache of its own kind, or for none.
        speculative: whether guesses are to be taken back, which only the lean step can.
    """
    if name is not None and name not in DECODERS:
        raise ValueError(f"`decoder` must be one of {', '.join(map(repr, DECODERS))}, but got {name!r}.")
    reason = "the call asks for a cache of its own, or for none" if own_cache else why_not_lean(model)
    on_gpu = can_graph(model.execution_device)
    if name == "graphs" and not on_gpu:
        raise ValueError(
            f"`decoder` 'graphs' means CUDA graphs, but the model is on {model.execution_device}. Pass 'static' or "
            "'compiled'."
        )
    if speculative and (name == "plain" or reason is not None):
        raise ValueError(
            "`speculative_window` needs the lean decode step, but "
            f"{reason or 'the `decoder` is plain'}. Leave one of them out."
        )
    if name not in (None, "plain") and reason is not None:
        raise ValueError(f"`decoder` cannot be {name!r} here, since {reason}. Pass 'plain', or leave it out.")
    if name == "plain" or reason is not None:
        return PlainDecoder(model, plan, tasks, guidance, cache)
    run: Callable[..., torch.Tensor] = CompiledStep() if name == "compiled" else decode_step
    if not on_gpu or name == "static" or speculative:
        return StaticDecoder(model, plan, tasks, guidance, run)
    other = next((module for module in _modules_of_a_step(model, tasks) if not _is_plain(module)), None)
    if other is None:
        run = GraphedStep(run, required=name is not None)
        return StaticDecoder(model, plan, tasks, guidance, run, whole_window=True)
    if name is None:
        return StaticDecoder(model, plan, tasks, guidance, run)
    raise ValueError(
        f"`decoder` cannot be {name!r} here: a CUDA graph repeats what a GPU was told and no Python, but there is a "
        f"{type(other).__name__}, or a hook. Pass 'static', or leave it out."
    )
