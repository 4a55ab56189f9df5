# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Speculative Jacobi decoding: several codes of an image a forward, with the distribution of the images unchanged.

A window of codes that follow the known ones is guessed and fed at once (arXiv 2410.01699). Each guess `x` was drawn from
some `q`; the forward gives the distribution `p` of its place, if the guesses before it are right. Each is then drawn
anew, but coupled to what it was (arXiv 2510.24211): it stays with the probability `min(1, p(x) / q(x))` and else comes
from `max(0, p - q)`. That is a draw from `p`, and the likeliest to stay. The guesses that stayed before the first that
changed had been right, so that their successors' `p` was that of plain decoding: they are known now, and so is the
first that changed. The others are the next guesses.

That the images are those of plain decoding: given the guesses of all earlier places in all rounds, each `p` of a place
is settled, and so is the round in which it counts. In each round its guess is a draw from the round's `p`, by the
coupling; thus in that round too.
"""

from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from .decoding_wallaroo import StaticDecoder, draw

# Logits processors that look at the scores of one place alone.
WARPERS = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
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
    left = torch.cat([(wanted[:, :window] - guessed).clamp_(min=0), wanted[:, window:]], dim=1)
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
    plan, device = decoder.plan, logits.device
    totals = torch.tensor([height * width for height, width in plan.grids], device=device)
    widths = torch.tensor([width for _, width in plan.grids], device=device)
    codes = torch.zeros(len(plan.grids), plan.num_codes + window + 1, dtype=torch.long, device=device)
    forwards = torch.ones_like(totals)
    no_codes = codes[:, :0]

    def probabilities(scores: torch.Tensor) -> torch.Tensor:
        flat = scores.flatten(0, 1)
        return warp(no_codes[:1].expand(len(flat), -1), flat).softmax(dim=-1).view_as(scores)

    def best(scores: torch.Tensor) -> torch.Tensor:
        flat = scores.flatten(0, 1)
        return warp(no_codes[:1].expand(len(flat), -1), flat).argmax(dim=-1).view(scores.shape[:2])

    first = logits[:, None]
    codes[:, 0] = (best(first) if generators is None else draw(probabilities(first), generators))[:, 0]
    images = torch.arange(len(totals), device=device)  # those that are not whole
    known = torch.ones_like(totals)
    steps = torch.arange(window + 1, device=device)
    guesses = neighbours(codes, known[:, None] + steps[:window], widths, known)
    guessed = None
    if generators is not None:
        guessed = torch.nn.functional.one_hot(guesses, logits.shape[-1]).float()
    while True:
        unfinished = (known < totals[images]).tolist()
        if not all(unfinished):
            stay = torch.tensor([at for at, more in enumerate(unfinished) if more], device=device, dtype=torch.long)
            images, known, guesses = images[stay], known[stay], guesses[stay]
            guessed = None if guessed is None else guessed[stay]
            if not len(images):
                return codes[:, : plan.num_codes], forwards
        fed = torch.cat([codes[images].gather(1, known[:, None] - 1), guesses], dim=1)
        scores = decoder.look_ahead(images.tolist(), fed, known - 1)
        forwards[images] += 1
        if generators is None:
            drawn = best(scores)
            stays, wanted = drawn[:, :window] == guesses, None
        else:
            wanted = probabilities(scores)
            drawn, stays = couple(guesses, guessed, wanted, [generators[image] for image in images.tolist()])
        # What stayed before the first change is right, and so is the first change, or the draw after all of them.
        right = stays.long().cumprod(dim=1).sum(dim=1) + 1
        places = known[:, None] + steps
        mine = codes[images]
        mine.scatter_(1, places, torch.where(steps < right[:, None], drawn, mine.gather(1, places)))
        codes[images] = mine
        known = known + right
        on_progress(codes, int(known.min()))
        # The window moves on: what is left of the draws, then first guesses.
        shifted = right[:, None] + steps[:window]
        old = shifted <= window
        index = shifted.clamp(max=window)
        places = known[:, None] + steps[:window]
        guesses = torch.where(old, drawn.gather(1, index), neighbours(mine, places, widths[images], known))
        if wanted is not None:
            kept = wanted.gather(1, index[..., None].expand(-1, -1, wanted.shape[-1]))
            fresh = torch.nn.functional.one_hot(guesses, wanted.shape[-1]).to(kept)
            guessed = torch.where(old[..., None], kept, fresh)
