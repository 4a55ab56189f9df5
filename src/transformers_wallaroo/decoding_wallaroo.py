# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""How a decode step is computed: by transformers' own forward and cache, or by a leaner one over a static cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache, DynamicCache

from .decode_step_wallaroo import (
    Guidance,
    Parts,
    StepState,
    TaskGroups,
    decode_step,
    decode_window,
    embed_codes,
    for_all_heads,
    odd_module_of,
    predict,
    rotary_table,
    why_not_lean,
)
from .image_grid_wallaroo import ImageTask
from .step_runners_wallaroo import CompiledStep, GraphedStep, can_graph, graphs_by_default

# How a step may be computed, see `make_decoder`.
DECODERS = ("plain", "static", "graphs", "compiled")
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
            *for_all_heads(*rotary_table(model.model.language_model, num_slots, hidden), self.parts.heads),
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
        self.state = state._replace(
            next_slot=state.next_slot[rows],
            next_position=state.next_position[rows],
            padding=state.padding[rows],
            caches=tuple(each[rows] for each in state.caches),
        )
        self.images, self.index = images, torch.tensor(images, device=rows.device)
        self.parts = self.parts.only([self.tasks[image] for image in images])


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
            `"compiled"` the same by torch.compile, on a GPU as CUDA graphs too. By default graphs on a GPU (from torch
            2.12 on) and static elsewhere; static where a graph cannot be, as with LoRA and quantised layers, and plain
            where the model or the call wants more than the lean step has.
        own_cache: whether the call has asked for a cache of its own kind, or for none.
        speculative: whether guesses are to be taken back, which only the lean step can.
    """
    if name is not None and name not in DECODERS:
        raise ValueError(f"`decoder` must be one of {', '.join(map(repr, DECODERS))}, but got {name!r}.")
    reason = "the call asks for a cache of its own, or for none" if own_cache else why_not_lean(model)
    device = model.execution_device
    if name == "graphs" and not can_graph(device):
        raise ValueError(
            f"`decoder` 'graphs' means CUDA graphs, but the model is on {device}. Pass 'static' or 'compiled'."
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
    graphed = name == "graphs" or (name == "compiled" and can_graph(device))
    if name is None and not speculative:
        graphed = graphs_by_default(device)
    other = odd_module_of(model, tasks) if graphed else None
    if other is not None and name == "graphs":
        raise ValueError(
            "`decoder` cannot be 'graphs' here: a CUDA graph repeats what a GPU was told and no Python, but there is a "
            f"{type(other).__name__}, or a hook. Pass 'static', or leave it out."
        )
    if not graphed or other is not None:
        return StaticDecoder(model, plan, tasks, guidance, run)
    run = GraphedStep(run, required=name is not None)
    return StaticDecoder(model, plan, tasks, guidance, run, whole_window=True)
