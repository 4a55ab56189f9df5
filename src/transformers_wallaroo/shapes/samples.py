# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples of the three tasks, made from a seed when they are asked for. No torch, no files.

Training and evaluation take different seeds: sample `index` of seed 1 has nothing to do with that of seed 2. The world
is small, though: there are fewer than 2 700 pictures of a single thing, and training comes to see nearly all of them
that are not held out. What a model has not learned by heart is told by the held-out combinations of shape, colour and
place (`HELD_OUT`), which no training sample shows or asks for:

- `held_out=False` (training, and scores on what is seen): no scene holds one, before or after an edit.
- `held_out=True`: the sample is about one. A prompt to draw names its shape, colour and place (kinds `position` and
  `color_attribution` only); an edit changes it, keeps it alone or brings it about; a question is asked about it.
- `held_out=None`: whatever comes.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..prompts_wallaroo import IMAGE_PLACEHOLDER, PICTURE_MARKS
from . import dialogue, editing, generation, understanding
from .draw import Draw
from .language import LANGUAGES, as_typed, get_language
from .world import BUCKETS, CELL, GRID, MAX_THINGS, Scene, render

TASKS = ("understand", "generate", "edit")
KINDS: dict[str, tuple[str, ...]] = {
    "understand": understanding.KINDS,
    "generate": generation.KINDS,
    "edit": editing.KINDS,
}
SIZES: tuple[tuple[int, int], ...] = tuple((height, width) for _, height, width in BUCKETS)
# Kinds that are made when they are asked for, and never scored.
TRAINING_KINDS: dict[str, tuple[str, ...]] = {
    "understand": (understanding.CONVERSATION, GRID, understanding.LIST, dialogue.DIALOGUE),
    "generate": (GRID,),
    "edit": (editing.COPY, editing.CHANGES),
}
MAX_ATTEMPTS = 10_000


def make_sample(
    task: str,
    index: int,
    seed: int,
    *,
    kind: str | Sequence[str] | None = None,
    language: str | None = None,
    held_out: bool | None = False,
    bucket: tuple[int, int] | None = None,
    max_things: int = MAX_THINGS,
    typed: bool = False,
) -> dict[str, Any]:
    """One sample for `WallarooDataCollator`, the same for the same arguments on every machine.

    Args:
        task: `"understand"`, `"generate"` or `"edit"`.
        index, seed: together they name the sample.
        kind: one of `KINDS[task]` or `TRAINING_KINDS[task]`, or several, of which one is drawn (a kind that is named
            twice twice as often); a random one of `KINDS[task]` by default.
        language: `"en"` or `"zh"`; a random one by default.
        held_out: see the module.
        bucket: (height, width) in pixels, such as one of `SIZES`; a random one of these by default.
        max_things: things in a scene, beyond those that the kind itself asks for: 1 makes an easy start.
        typed: what a user says is as people type it, with a capital or without, and with one end or another.

    Returns:
        A dict with what the collator takes (`task`; `prompt`, `image`, `height`, `width`; `source_image` of an edit;
        or `messages` and `images`), and `kind`, `language`, `seed` (for the collator's own random choices), and `meta`:
        `scene` and `ask` (generate), `source` and `target` (edit), `scene` and `answer` (understand), or
        `turns` (its kind `dialogue`).
    """
    _check(task, kind, held_out, bucket)
    rng = random.Random(f"{task}/{seed}/{index}")
    kinds: Sequence[str] = generation.HELD_OUT_KINDS if task == "generate" and held_out is True else KINDS[task]
    if kind is not None:
        kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    # All are drawn whether given or not, so that giving one changes no other: a sample in the other language, say,
    # shows the same scene.
    own_seed, plan_seed, wording_seed = (rng.getrandbits(63) for _ in range(3))
    drawn_kind, drawn_language, drawn_size = rng.choice(kinds), rng.choice(tuple(LANGUAGES)), rng.choice(SIZES)
    spoken = get_language(language or drawn_language)
    height, width = bucket or drawn_size
    wording, size = random.Random(wording_seed), (height // CELL, width // CELL)
    for _ in range(MAX_ATTEMPTS):
        draw = Draw(rng, random.Random(plan_seed), wording, spoken, size, held_out, max_things)
        fields = _BUILDERS[task](drawn_kind, draw)
        if fields is not None:
            if typed:
                _type(fields, random.Random(f"typed/{task}/{seed}/{index}"), spoken.code)
            return {"task": task, **fields, "kind": drawn_kind, "language": spoken.code, "seed": own_seed}
    raise RuntimeError(
        f"No {drawn_kind!r} sample for {task!r} of {height}x{width} was found in {MAX_ATTEMPTS} attempts."
    )


def _type(fields: dict[str, Any], rng: random.Random, code: str) -> None:
    """Changes what a user says in a sample."""
    if "prompt" in fields:
        fields["prompt"] = as_typed(rng, fields["prompt"], code)
    for message in fields.get("messages", ()):
        if message["role"] == "user":
            before, placeholder, said = message["content"].rpartition(IMAGE_PLACEHOLDER)
            message["content"] = before + placeholder + as_typed(rng, said, code)


def _check(task: str, kind: str | Sequence[str] | None, held_out: bool | None, bucket: tuple[int, int] | None) -> None:
    if task not in KINDS:
        raise ValueError(f"`task` must be one of {', '.join(map(repr, KINDS))}, but got {task!r}.")
    known = (*KINDS[task], *TRAINING_KINDS.get(task, ()))
    for entry in (kind,) if kind is None or isinstance(kind, str) else kind:
        if entry is not None and entry not in known:
            raise ValueError(f"`kind` of {task!r} must be one of {', '.join(map(repr, known))}, but got {entry!r}.")
        if held_out is True and entry in TRAINING_KINDS.get(task, ()):
            raise ValueError(f"`kind` {entry!r} is for training alone, so that it does not go with `held_out=True`.")
        if task == "generate" and held_out is True and entry not in (None, *generation.HELD_OUT_KINDS):
            raise ValueError(
                f"`kind` must be one of {', '.join(map(repr, generation.HELD_OUT_KINDS))} with `held_out=True`, but "
                f"got {entry!r}, whose prompts do not name shape, colour and place together."
            )
    # In a single row or column nothing is at the top left, say; two of each hold `MAX_THINGS` as well.
    if bucket is not None and (len(bucket) != 2 or any(side % CELL or side < 2 * CELL for side in bucket)):
        raise ValueError(
            f"`bucket` must be (height, width) in pixels, multiples of {CELL} from {2 * CELL} on so that there are "
            f"two rows and two columns of cells at least, such as one of {SIZES}, but got {bucket!r}."
        )


def _generate(kind: str, draw: Draw) -> dict[str, Any] | None:
    built = generation.build(kind, draw)
    if built is None:
        return None
    scene, ask, prompt = built
    return {
        "prompt": prompt,
        "image": render(scene),
        "height": scene.height,
        "width": scene.width,
        "meta": {"scene": scene, "ask": ask},
    }


def _edit(kind: str, draw: Draw) -> dict[str, Any] | None:
    built = editing.build(kind, draw)
    if built is None:
        return None
    source, target, prompt = built
    return {
        "prompt": prompt,
        "source_image": render(source),
        "image": render(target),
        "height": target.height,
        "width": target.width,
        "meta": {"source": source, "target": target},
    }


def _understand(kind: str, draw: Draw) -> dict[str, Any] | None:
    if kind == dialogue.DIALOGUE:
        return _dialogue(draw)
    if kind == understanding.CONVERSATION:
        exchanges = understanding.converse(draw)
    else:
        exchange = understanding.build(kind, draw)
        if exchange is None:
            return None
        exchanges = [exchange]
    messages = []
    for exchange in exchanges:
        messages.append({"role": "user", "content": exchange.question})
        messages.append({"role": "assistant", "content": exchange.answer})
    scene = exchanges[0].scene
    return {"messages": messages, "images": [render(scene)], "meta": {"scene": scene, "answer": exchanges[-1].answer}}


def _dialogue(draw: Draw) -> dict[str, Any] | None:
    """A conversation as the collator takes it: before a picture in an answer stand the marks of its task."""
    turns = dialogue.build(draw)
    if turns is None:
        return None
    messages, images = [], []
    for turn in turns:
        images += [render(scene) for scene in (turn.shown, turn.answer) if isinstance(scene, Scene)]
        messages.append({"role": "user", "content": IMAGE_PLACEHOLDER * (turn.shown is not None) + turn.text})
        answer = f"{PICTURE_MARKS[turn.task]}{IMAGE_PLACEHOLDER}" if isinstance(turn.answer, Scene) else turn.answer
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages, "images": images, "meta": {"turns": turns}}


_BUILDERS = {"understand": _understand, "generate": _generate, "edit": _edit}


@dataclass(frozen=True)
class ShapesDataset(Sequence[dict[str, Any]]):
    """`length` samples of a task, made when they are asked for; a map-style data set for any loader.

    Args:
        task, seed: see `make_sample`; sample `i` is `make_sample(task, start + i, seed, ...)`.
        length: how many samples there are.
        start: index of the first.
        kind, language, held_out, bucket, max_things, typed: see `make_sample`.
    """

    task: str
    seed: int
    length: int
    start: int = 0
    kind: str | Sequence[str] | None = None
    language: str | None = None
    held_out: bool | None = False
    bucket: tuple[int, int] | None = None
    max_things: int = MAX_THINGS
    typed: bool = False

    def __post_init__(self) -> None:
        _check(self.task, self.kind, self.held_out, self.bucket)
        if self.language is not None:
            get_language(self.language)
        if self.length < 0:
            raise ValueError(f"`length` must be 0 or more, but got {self.length!r}.")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        if not -self.length <= index < self.length:
            raise IndexError(f"`index` must be in [{-self.length}, {self.length}), but got {index}.")
        return make_sample(
            self.task,
            self.start + index % self.length,
            self.seed,
            kind=self.kind,
            language=self.language,
            held_out=self.held_out,
            bucket=self.bucket,
            max_things=self.max_things,
            typed=self.typed,
        )
