# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Speculative Jacobi decoding: several codes of an image a forward, with the distribution of the images unchanged.

A window of codes that follow the known ones is guessed and fed at once (arXiv 2410.01699). Each guess `x` was drawn
from some `q`; the forward gives the distribution `p` of its place, if the guesses before it are right. Each is then
drawn anew, but coupled to what it was (arXiv 2510.24211): it stays with the probability `min(1, p(x) / q(x))` and else
comes from `max(0, p - q)`. That is a draw from `p`, and the likeliest to stay. The guesses that stayed before the first
that changed had been right, so that their successors' `p` was that of plain decoding: they are known now, and so is the
first that changed. The others are the next guesses. A code that is given is its own guess and stays.

That the images are those of plain decoding: given the guesses of all earlier places in all rounds, each `p` of a place
is settled, and so is the round in which it counts. In each round its guess is a draw from the round's `p`, by the
coupling; thus in that round too.
"""

from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessorList
from transformers.generation import logits_process

from .decoding_wallaroo import TO_DRAW, ImagePlan, StaticDecoder, draw, sample_codes

# Logits processors that look at the scores of one place alone.
WARPERS = (
    logits_process.EpsilonLogitsWarper,
    logits_process.EtaLogitsWarper,
    logits_process.InfNanRemoveLogitsProcessor,
    logits_process.LogitNormalization,
    logits_process.MinPLogitsWarper,
    logits_process.TemperatureLogitsWarper,
    logits_process.TopKLogitsWarper,
    logits_process.TopPLogitsWarper,
    logits_process.TypicalLogitsWarper,
)


def couple(
    guesses: torch.Tensor, guessed: torch.Tensor, wanted: torch.Tensor, generators: Sequence[torch.Generator]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws from `wanted` that are as often as can be the `guesses`, which are draws from `guessed`.

    Args:
        guesses (`torch.LongTensor` of shape `(num_images, window)`).
        guessed (`torch.FloatTensor` of shape `(num_images, window, num_embeddings)`): probabilities.
        wanted (`torch.FloatTensor` of shape `(num_images, window + 1, num_embeddings)`): probabilities; those of the
            last place, which has no guess yet, are drawn from as they are.
        generators: one an image.

    Returns:
        Draws `(num_images, window + 1)`, and which guesses stayed, bools `(num_images, window)`.
    """
    window = guesses.shape[1]
    chosen = guesses[..., None]
    ratio = (wanted[:, :window].gather(2, chosen) / guessed.gather(2, chosen))[..., 0]
    chance = torch.stack([torch.rand(window, generator=each, device=ratio.device) for each in generators])
    stays = chance < ratio
    left = (wanted[:, :window] - guessed).clamp_(min=0)
    # Nothing may be left but by rounding, where the two are all but the same.
    left = torch.where(left.sum(dim=-1, keepdim=True) > 0, left, wanted[:, :window])
    left = torch.cat([left, wanted[:, window:]], dim=1)
    fresh = draw(left, generators)
    return torch.cat([torch.where(stays, guesses, fresh[:, :window]), fresh[:, window:]], dim=1), stays


def neighbours(codes: torch.Tensor, places: torch.Tensor, widths: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """First guesses of some places: the code above, or the last known one in the first row and beyond what is known.

    Args:
        codes (`torch.LongTensor` of shape `(num_images, num_codes)`).
        places (`torch.LongTensor` of shape `(num_images, window)`): in raster order.
        widths, known (`torch.LongTensor` of shape `(num_images,)`): cells of a row, and how many codes are known.
    """
    above = places - widths[:, None]
    last = known[:, None] - 1
    return codes.gather(1, torch.where((above >= 0) & (above <= last), above, last))


def unless_given(codes: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """`codes`, and where a code is `given` that one."""
    return torch.where(given == TO_DRAW, codes, given)


class Guesses:
    """What is known and what is guessed of the images of a request.

    Attributes:
        codes (`torch.LongTensor` of shape `(num_images, num_codes + window + 1)`): those that are known.
        images (`torch.LongTensor`): the images that are not whole. What follows has a row for each of these:
        known (`torch.LongTensor`): how many codes are known.
        guesses (`torch.LongTensor` of shape `(len(images), window)`): of the codes after these.
        guessed (`torch.FloatTensor` of shape `(len(images), window, num_embeddings)`, *optional*): what each guess was
            drawn from; `None` where the best code is taken.
        given (`torch.LongTensor` of shape `(num_images, places)`): see `ImagePlan`; the last column, `TO_DRAW`, stands
            for all places from there on.
    """

    def __init__(
        self,
        plan: ImagePlan,
        logits: torch.Tensor,
        warp: LogitsProcessorList,
        generators: Sequence[torch.Generator] | None,
        window: int,
    ):
        device = logits.device
        self.warp, self.generators, self.window = warp, generators, window
        self.totals = torch.tensor([height * width for height, width in plan.grids], device=device)
        self.widths = torch.tensor([width for _, width in plan.grids], device=device)
        self.codes = torch.zeros(len(plan.grids), plan.num_codes + window + 1, dtype=torch.long, device=device)
        given = torch.zeros(len(plan.grids), 0, dtype=torch.long) if plan.given is None else plan.given
        self.given = torch.nn.functional.pad(given, (0, 1), value=TO_DRAW).to(device)
        self.images = torch.arange(len(plan.grids), device=device)
        self.known = torch.zeros_like(self.totals)
        self.steps = torch.arange(window + 1, device=device)
        first = sample_codes(self._warped(logits[:, None]), generators)
        self.codes[:, :1] = unless_given(first, self._given(1))
        self.known = self.known + 1
        places = self.known[:, None] + self.steps[:window]
        self.guesses = unless_given(neighbours(self.codes, places, self.widths, self.known), self._given(window))
        self.guessed = None if generators is None else _certain(self.guesses, logits.shape[-1])

    def _warped(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores `(num_images, places, num_embeddings)` after the logits processors, which look at no codes."""
        flat = scores.flatten(0, 1)
        return self.warp(self.codes.new_zeros(len(flat), 0), flat).view_as(scores)

    def _given(self, count: int) -> torch.Tensor:
        """What is given of so many places after the known ones, `(len(images), count)`."""
        places = self.known[:, None] + self.steps[:count]
        return self.given[self.images].gather(1, places.clamp(max=self.given.shape[1] - 1))

    def drop_whole(self) -> bool:
        """Leaves out the images that are whole; whether there are others."""
        stay = (self.known < self.totals[self.images]).nonzero().flatten()
        self.images, self.known, self.guesses = self.images[stay], self.known[stay], self.guesses[stay]
        self.guessed = None if self.guessed is None else self.guessed[stay]
        return len(self.images) > 0

    def to_feed(self) -> torch.Tensor:
        """The last known code of each image and the guesses, `(len(images), window + 1)`."""
        return torch.cat([self.codes[self.images].gather(1, self.known[:, None] - 1), self.guesses], dim=1)

    def learn(self, logits: torch.Tensor) -> None:
        """Takes in the logits after each code of `to_feed`."""
        scores = self._warped(logits)
        if self.generators is None:
            wanted, drawn = None, scores.argmax(dim=-1)
            stays = drawn[:, : self.window] == self.guesses
        else:
            wanted = scores.softmax(dim=-1)
            generators = [self.generators[image] for image in self.images.tolist()]
            assert self.guessed is not None
            drawn, stays = couple(self.guesses, self.guessed, wanted, generators)
        given = self._given(self.window + 1)
        drawn, stays = unless_given(drawn, given), stays | (given[:, : self.window] != TO_DRAW)
        # What stayed before the first change is right, and so is the first change, or the draw after all of them.
        right = stays.long().cumprod(dim=1).sum(dim=1) + 1
        places, mine = self.known[:, None] + self.steps, self.codes[self.images]
        mine.scatter_(1, places, torch.where(self.steps < right[:, None], drawn, mine.gather(1, places)))
        self.codes[self.images] = mine
        self.known = self.known + right
        # The window moves on: what is left of the draws, then first guesses.
        shifted = right[:, None] + self.steps[: self.window]
        old, index = shifted <= self.window, shifted.clamp(max=self.window)
        places = self.known[:, None] + self.steps[: self.window]
        first = neighbours(mine, places, self.widths[self.images], self.known)
        given = self._given(self.window)
        self.guesses = unless_given(torch.where(old, drawn.gather(1, index), first), given)
        if wanted is not None:
            kept = wanted.gather(1, index[..., None].expand(-1, -1, wanted.shape[-1]))
            old = old & (given == TO_DRAW)
            self.guessed = torch.where(old[..., None], kept, _certain(self.guesses, wanted.shape[-1]))


def _certain(codes: torch.Tensor, num_embeddings: int) -> torch.Tensor:
    """The distribution of what is not drawn but given."""
    return torch.nn.functional.one_hot(codes, num_embeddings).float()


def decode_speculatively(
    decoder: StaticDecoder,
    logits: torch.Tensor,
    warp: LogitsProcessorList,
    generators: Sequence[torch.Generator] | None,
    window: int,
    on_progress: Callable[[torch.Tensor, int], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """All codes of a request.

    Args:
        decoder: after `start`, which gave the `logits` of the first codes.
        warp: logits processors, all of `WARPERS`.
        generators: one an image; `None` takes the best code of each place, as plain greedy decoding does.
        window: how many codes are guessed.
        on_progress: gets the codes so far, and how many are known of every image that is not whole.

    Returns:
        Codes `(num_images, num_codes)`, and how many forwards each image took, the prompt's among them.
    """
    other = next((processor for processor in warp if type(processor) not in WARPERS), None)
    if other is not None:
        raise ValueError(
            f"`speculative_window` goes with temperature, top-k, top-p and their like alone, but there is a "
            f"{type(other).__name__}, which may look at the codes so far. Leave out `speculative_window`, or that."
        )
    state = Guesses(decoder.plan, logits, warp, generators, window)
    forwards = torch.ones_like(state.totals)
    while state.drop_whole():
        state.learn(decoder.look_ahead(state.images.tolist(), state.to_feed(), state.known - 1))
        forwards[state.images] += 1
        on_progress(state.codes, int(state.known.min()))
    return state.codes[:, : decoder.plan.num_codes], forwards
