# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The lean decode step: the language model and an image head on the last position of each row, over a static cache."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLAttention,
    Qwen2_5_VLDecoderLayer,
    Qwen2_5_VLRMSNorm,
    Qwen2MLP,
)

from .image_grid_wallaroo import ImageTask


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


# Weight and bias of a linear layer.
Weights = tuple[torch.Tensor, torch.Tensor | None]
# The same, or the module where it is more than that (quantised, with LoRA).
Projection = Weights | nn.Module


class LeanHead(NamedTuple):
    """An image head of two layers whose weights are called by the lean step itself."""

    fc1: Weights
    fc2: Weights

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        positions = hidden.flatten(0, -2).to(self.fc1[0].dtype)
        return linear(F.gelu(linear(positions, *self.fc1)), *self.fc2).unflatten(0, hidden.shape[:-1])


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


# From how many positions on a product in float32 has its weights left, see `linear`.
POSITIONS_OF_LEFT = 8


def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`weight @ hidden.T + bias`, transposed, of a few positions `(num_positions, in_features)`.

    With so few of them it is the weights that take the time, and on a CPU the libraries read them faster where they are
    the left factor: in bf16 always, in float32 from eight positions on (docs/decisions.md).
    """
    plain = hidden.device.type == "cpu" and type(weight) in (torch.Tensor, nn.Parameter)
    many = hidden.dtype == torch.float32 and hidden.shape[0] >= POSITIONS_OF_LEFT
    if plain and (many or hidden.dtype == torch.bfloat16):
        return (weight @ hidden.t() if bias is None else torch.addmm(bias[:, None], weight, hidden.t())).t()
    return F.linear(hidden, weight, bias)


def project(projection: Projection, hidden: torch.Tensor, rows: int) -> torch.Tensor:
    """What a projection makes of `hidden`, `(num_positions, in_features)`; a module gets it row by row, as in its own
    model: `(rows, new, in_features)`."""
    if isinstance(projection, tuple):
        return linear(hidden, *projection)
    return projection(hidden.unflatten(0, (rows, -1))).flatten(0, 1)


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
            see `for_all_heads`.
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
        states = F.rms_norm(hidden, (width,), layer.input_norm, heads.eps)
        qkv = [project(each, states, rows) for each in layer.qkv]
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
        hidden = hidden + project(layer.out, states, rows)
        states = F.rms_norm(hidden, (width,), layer.post_norm, heads.eps)
        gate_up = [project(each, states, rows) for each in layer.gate_up]
        gate, up = gate_up if len(gate_up) == 2 else gate_up[0].chunk(2, dim=-1)
        hidden = hidden + project(layer.down, F.silu(gate) * up, rows)
    return F.rms_norm(hidden, (width,), parts.norm, heads.eps).view(rows, new, width)


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


def for_all_heads(cos: torch.Tensor, sin: torch.Tensor, heads: Heads) -> tuple[torch.Tensor, torch.Tensor]:
    """The tables of `rotary_table` as `run_layers` takes them, `(length, num_heads, head_dim)`: queries and keys are
    turned, values by nothing."""
    turned = heads.query + heads.key_value
    tables = []
    for table, nothing in ((cos, 1), (sin, 0)):
        each = table[:, None].repeat(1, turned + heads.key_value, 1)
        each[:, turned:] = nothing
        tables.append(each)
    return tables[0], tables[1]


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


def is_plain_mlp(module: Any) -> bool:
    """Whether an adapter or a head is its two linear layers and no more (LoRA, a hook, one of the user's)."""
    if type(module).__name__ != "WallarooMLP" or has_hooks(module) or has_hooks(module.activation):
        return False
    exact = getattr(module.activation, "approximate", None) == "none"
    return exact and _is_plain(module.fc1) and _is_plain(module.fc2)


def _lean_head(head: Any) -> Any:
    """The head as its weights, or itself where it is more than them."""
    return LeanHead(*((fc.weight, fc.bias) for fc in (head.fc1, head.fc2))) if is_plain_mlp(head) else head


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


def odd_module_of(model, tasks: Sequence[ImageTask]) -> nn.Module | None:
    """A module that a step goes through and that is more than its weights; `None` where there is none."""
    for layer in model.model.language_model.layers:
        for module in (*_qkv(layer), layer.self_attn.o_proj, *_gate_up(layer), layer.mlp.down_proj):
            if not _is_plain(module):
                return module
    for task in {task.name: task for task in tasks}.values():
        for part in (getattr(model.model, task.adapter), model.head_of(task)):
            if not is_plain_mlp(part):
                return part
    vq_model = model.model.vq_model
    return next((module for module in (vq_model, *vq_model.quantize.modules()) if has_hooks(module)), None)


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
        cos, sin (`torch.FloatTensor` of shape `(num_positions, num_heads, head_dim)`): see `for_all_heads`.
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
    rotary = (state.cos[positions], state.sin[positions])
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
    rotary = (state.cos[positions], state.sin[positions])
    hidden = run_layers(parts, state, embeds, rotary, slots, mask, window.shape[0])
    # What follows a code that ends its row is read off the row end.
    after = steps.expand(num_images, -1)
    if num_ends:
        is_last = (numbers + 1) % widths[:, None] == 0
        after = torch.where(is_last & fed, new + rows - rows[:, :1], after)
    hidden = hidden.gather(1, after.repeat(branches, 1)[..., None].expand(-1, -1, hidden.shape[-1]))
    return predict(parts.groups, hidden, parts.guidance)
