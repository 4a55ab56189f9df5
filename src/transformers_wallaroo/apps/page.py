# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the web page does, without gradio: forms become jobs, work goes on beside its reader, pictures are kept."""

import hashlib
import queue
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .. import wording
from ..image_processing_wallaroo import to_rgb
from .engine import Engine, ImageJob, MadeImage
from .pictures import MAX_PIXELS, check_picture, save_picture
from .sizes import parse_size, write_size

# What a visitor may do wrong, or what the machine may lack; it is told in a sentence. All else is a defect.
TOLD = (ValueError, OSError, RuntimeError)
CUSTOM, AS_SOURCE = "custom", "source"
MAX_COUNT = 8
# Largest side of a picture, in largest usual sides.
MAX_SIDES = 4
# A seed is shown, typed and sent as a number of JavaScript.
MAX_SEED = 2**53 - 1
# Pictures of a session that its history keeps.
MAX_KEPT = 60
# Of a picture that comes in; no PNG within the limit of pixels, such as a result that is edited further, is larger.
MAX_BYTES = 4 * MAX_PIXELS
# Seconds between two signs of life of work that has nothing to tell. The page cannot stop what gives none.
PULSE = 0.25


# ---------------------------------------------------------------------- forms


@dataclass(frozen=True)
class Form:
    """What stands beside a prompt on the page.

    Attributes:
        size: `"WIDTHxHEIGHT"`, `CUSTOM` for `width` and `height`, or `AS_SOURCE`, the nearest to the source's shape.
        random_seed: whether `seed` is to be drawn.
        by_picture: of an edit, whether `image_guidance` counts; without it there is one guidance for both.
        original_size, keep_source: of an edit, as for [`ImageJob`].
    """

    prompt: str
    size: str
    width: int | float | None = None
    height: int | float | None = None
    count: int = 1
    negative_prompt: str = ""
    guidance: float | None = None
    seed: int | float | None = 0
    random_seed: bool = True
    by_picture: bool = False
    image_guidance: float | None = None
    original_size: bool = False
    keep_source: bool = False


def size_choices(engine: Engine, *, edit: bool) -> list[tuple[str, str]]:
    """(label, value) of the sizes to choose from, width first, as one says them."""
    choices = [("as the picture", AS_SOURCE)] if edit else []
    for height, width in engine.usual_sizes:
        divisor = gcd(width, height)
        label = f"{width} × {height}  ({width // divisor}:{height // divisor})"
        choices.append((label, write_size(height, width)))
    return [*choices, ("custom …", CUSTOM)]


def usual_size(engine: Engine) -> tuple[int, int]:
    """Height and width of the usual size that is nearest to a square."""
    return min(engine.usual_sizes, key=lambda size: max(size) / min(size))


def max_side(engine: Engine) -> int:
    """In pixels, of a custom size."""
    return MAX_SIDES * max(max(size) for size in engine.usual_sizes)


def jobs_of(
    engine: Engine, form: Form, source: Image.Image | None = None, region: Image.Image | None = None
) -> list[ImageJob]:
    """The pictures that a form asks for, with seeds that follow each other; a `ValueError` says what is amiss in it.

    Args:
        source: the picture to edit.
        region: of an edit, white where to draw anew.
    """
    prompt = (form.prompt or "").strip()
    if not prompt:
        raise ValueError("Say what to draw." if source is None else "Say what to change.")
    if not isinstance(form.count, (int, float)) or not 1 <= form.count <= MAX_COUNT:
        raise ValueError(f"The number of pictures must be from 1 to {MAX_COUNT}, but is {form.count}.")
    height, width = _size(engine, form)
    if form.random_seed:
        seed = random.SystemRandom().randrange(2**31)
    elif form.seed is None or form.seed != int(form.seed) or not 0 <= form.seed <= MAX_SEED - MAX_COUNT:
        raise ValueError(f"The seed must be a whole number from 0 on, but is {_shown(form.seed)}.")
    else:
        seed = int(form.seed)
    sampling = {} if form.guidance is None else {"guidance_scale": float(form.guidance)}
    common: dict[str, Any] = {"source": source, "height": height, "width": width, "sampling": sampling}
    if source is not None:
        if form.keep_source and region is None:
            raise ValueError("To keep the picture's own pixels outside of a region, add a region mask.")
        if form.by_picture and form.image_guidance is not None:
            sampling["image_guidance_scale"] = float(form.image_guidance)
        common |= {"region_mask": region, "original_size": form.original_size, "keep_source": form.keep_source}
    return [
        ImageJob(prompt, seed=seed + index, negative_prompt=(form.negative_prompt or "").strip(), **common)
        for index in range(int(form.count))
    ]


def _size(engine: Engine, form: Form) -> tuple[int | None, int | None]:
    if form.size == AS_SOURCE:
        return None, None
    if form.size != CUSTOM:
        return parse_size(form.size, engine.cell, engine.usual_sizes)
    most = max_side(engine)
    for side in (form.width, form.height):
        if side is None or side != int(side) or side % engine.cell or not engine.cell <= side <= most:
            raise ValueError(
                f"Width and height must be multiples of {engine.cell} from {engine.cell} to {most} pixels, but are "
                f"{_shown(form.width)} and {_shown(form.height)}."
            )
    assert form.height is not None and form.width is not None
    return int(form.height), int(form.width)


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    return str(int(value)) if value == int(value) else str(value)


def form_of(engine: Engine, info: dict[str, Any]) -> Form:
    """The form that makes a picture once more, from what its file says."""
    known = (info["height"], info["width"]) in engine.usual_sizes
    return Form(
        prompt=info["prompt"],
        size=write_size(info["height"], info["width"]) if known else CUSTOM,
        width=info["width"],
        height=info["height"],
        negative_prompt=info["negative_prompt"],
        guidance=info["sampling"]["guidance_scale"],
        seed=info["seed"],
        random_seed=False,
        by_picture="image_guidance_scale" in info["sampling"],
        image_guidance=info["sampling"].get("image_guidance_scale", info["sampling"]["guidance_scale"]),
        original_size=info.get("original_size", False),
        keep_source=info.get("keep_source", False),
    )


def open_picture(path: str | Path | None, missing: str) -> Image.Image:
    """The picture of an upload, upright and RGB; a `ValueError` that says `missing` where there is none."""
    if path is None:
        raise ValueError(missing)
    path = Path(path)
    return to_rgb(check_picture(path, path.name, max_bytes=MAX_BYTES)(), path.name)


def sentence(error: BaseException) -> str:
    """What went wrong, for someone who looks at the page."""
    if isinstance(error, torch.OutOfMemoryError):
        return "There is not enough memory for this. Take a smaller size or fewer pictures."
    return wording.sentence(error).replace("`", "")


# ---------------------------------------------------------------------- what a visitor has


@dataclass
class Kept:
    """A picture of the history: its file and what that says; of an edit, the source as it came and as it was seen, and
    the region mask as it came."""

    path: Path
    info: dict[str, Any]
    source: Path | None = None
    before: Path | None = None
    mask: Path | None = None

    @property
    def files(self) -> set[Path | None]:
        return {self.path, self.source, self.before, self.mask}

    @property
    def note(self) -> str:
        """One line on how to get it again."""
        guidance = self.info["sampling"]["guidance_scale"]
        note = f"Seed {self.info['seed']} · {self.info['width']} × {self.info['height']} · guidance {guidance:g}"
        by_picture = self.info["sampling"].get("image_guidance_scale")
        return note if by_picture is None else f"{note}, by the picture {by_picture:g}"


@dataclass
class Session:
    """What one visitor made: pictures, newest first, and a conversation. Files live as long as the session does.

    Attributes:
        messages: the conversation as the engine takes it.
        bubbles: the same as the page shows it.
        picture: file of the last picture of the conversation.
        shown, chosen: pictures that a tab shows, and the one its buttons are about, by the tab's name.
    """

    pictures: list[Kept] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    bubbles: list[dict[str, Any]] = field(default_factory=list)
    picture: Path | None = None
    shown: dict[str, list[Kept]] = field(default_factory=dict)
    chosen: dict[str, Kept] = field(default_factory=dict)
    _folder: tempfile.TemporaryDirectory | None = None  # goes with the session, or with the process
    _number: int = 0

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="wallaroo-page-")
        return Path(self._folder.name)

    def keep(
        self,
        made: MadeImage,
        source: Path | None = None,
        before: Image.Image | None = None,
        mask: Path | None = None,
    ) -> Kept:
        """Writes a picture with its settings, and its source and its region mask beside it."""
        self._number += 1
        shutil.rmtree(self.folder / "growing", ignore_errors=True)
        name = f"{made.info['task']}-{self._number:03d}-seed-{made.info['seed']}"
        kept = Kept(save_picture(made.picture, self.folder / f"{name}.png", made.info), made.info)
        if source is not None and before is not None:
            kept.source = self._copy(source)
            kept.before = save_picture(before, self.folder / f"{name}-before.png")
            kept.mask = None if mask is None else self._copy(mask)
        self.pictures.insert(0, kept)
        self._trim()
        return kept

    def _trim(self) -> None:
        """Removes the oldest pictures, and their files where nothing else needs them."""
        old = self.pictures[MAX_KEPT:]
        del self.pictures[MAX_KEPT:]
        seen = [*self.pictures, *self.chosen.values(), *(kept for tab in self.shown.values() for kept in tab)]
        needed = {self.picture, *(path for kept in seen for path in kept.files)}
        contents = [bubble["content"] for bubble in self.bubbles]
        needed |= {Path(content["path"]) for content in contents if isinstance(content, dict)}
        for path in {path for kept in old for path in kept.files} - needed:
            if path is not None:
                path.unlink(missing_ok=True)

    def passing(self, picture: Image.Image) -> Path:
        """A file of a picture that is still growing, gone with the next one that is kept. Each has a name of its own:
        a file that is written again while the page reads it comes out broken."""
        self._number += 1
        return save_picture(picture, self.folder / "growing" / f"{self._number}.png")

    def _copy(self, source: Path) -> Path:
        """The source under a name made of what is in it: the page's own copy of an upload does not last."""
        name = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
        path = self.folder / f"source-{name}{source.suffix.lower()}"
        if not path.exists():
            shutil.copyfile(source, path)
        return path

    def forget_conversation(self) -> None:
        self.messages, self.bubbles, self.picture = [], [], None

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


# ---------------------------------------------------------------------- work beside its reader


@dataclass(frozen=True)
class Step:
    """A sign of work: what it told last (`None`: nothing yet), or with `done` what it gives."""

    value: Any
    done: bool = False


def watch(
    work: Callable[[Callable[[Any], None], Callable[[], bool]], Any], pulse: float = PULSE
) -> Generator[Step, None, None]:
    """Runs `work(tell, left)` in a thread and yields what it tells, the newest alone where the reader is slower.

    What it raises is raised here. A reader that goes away makes `left()` true and does not wait for the end.
    """
    news: queue.Queue[tuple[str, Any]] = queue.Queue()
    left = threading.Event()

    def run() -> None:
        try:
            news.put(("done", work(lambda value: news.put(("told", value)), left.is_set)))
        except BaseException as error:  # noqa: BLE001 (raised again by the reader)
            news.put(("failed", error))

    threading.Thread(target=run, daemon=True).start()
    told = None
    try:
        while True:
            kind = "told"
            try:
                kind, value = news.get(timeout=pulse)
                while kind == "told":
                    told = value
                    kind, value = news.get_nowait()
            except queue.Empty:
                yield Step(told)
                continue
            if kind == "failed":
                raise value
            yield Step(value, done=True)
            return
    finally:
        left.set()


@dataclass(frozen=True)
class Growth:
    """Pictures while they grow: what there is of each, and codes known of how many."""

    pictures: tuple[Image.Image, ...]
    known: int
    total: int

    @property
    def note(self) -> str:
        return f"{self.known} of {self.total} codes …"


def make_pictures(engine: Engine, jobs: Sequence[ImageJob]) -> Generator[Step, None, None]:
    """Steps with a `Growth`, the last one with the list of [`MadeImage`]."""

    return watch(lambda tell, left: _grow(engine, jobs, tell, left))


def _grow(
    engine: Engine, jobs: Sequence[ImageJob], tell: Callable[[Growth], None], left: Callable[[], bool]
) -> list[MadeImage]:
    growth = Growth((), 0, 0)

    def count(known: int, total: int) -> None:
        nonlocal growth
        growth = replace(growth, known=known, total=total)
        tell(growth)

    def show(pictures: list[Image.Image | None]) -> None:
        nonlocal growth
        growth = replace(growth, pictures=tuple(picture for picture in pictures if picture is not None))
        tell(growth)

    return engine.make(jobs, on_code=count, on_rows=show, stop=left)


def before_of(engine: Engine, source: Image.Image, picture: Image.Image, *, stretch: bool = False) -> Image.Image:
    """The source of an edit as the model sees it: resized and cut to the size of the result, or stretched to it."""
    return engine.processor.image_processor.fit(source, picture.height, picture.width, stretch)


def write_answer(engine: Engine, messages: Sequence[dict[str, Any]]) -> Generator[Step, None, None]:
    """Steps with the answer so far, the last one with the whole."""

    def work(tell: Callable[[Any], None], left: Callable[[], bool]) -> str:
        text = ""
        for piece in engine.stream_answer(messages, stop=left):
            text += piece
            tell(text)
        return text.strip()

    return watch(work)


@dataclass(frozen=True)
class Reply:
    """An answer in which the model draws and edits as it sees fit: its parts so far, and a picture that grows."""

    parts: tuple[str | MadeImage, ...]
    growth: Growth | None = None


def write_reply(engine: Engine, messages: Sequence[dict[str, Any]]) -> Generator[Step, None, None]:
    """Steps with a [`Reply`]; each has all of it, for a reader that is slow sees the newest alone."""

    def work(tell: Callable[[Any], None], left: Callable[[], bool]) -> Reply:
        parts: list[str | MadeImage] = []

        def make(job: ImageJob) -> MadeImage:
            return _grow(engine, [job], lambda growth: tell(Reply(tuple(parts), growth)), left)[0]

        picture = {"seed": random.SystemRandom().randrange(2**31)}
        for piece in engine.reply(messages, picture=picture, make=make, stop=left):
            if isinstance(piece, str) and parts and isinstance(parts[-1], str):
                parts[-1] += piece
            else:
                parts.append(piece)
            tell(Reply(tuple(parts)))
        return Reply(tuple(part.strip() if isinstance(part, str) else part for part in parts))

    return watch(work)


__all__ = [
    "AS_SOURCE",
    "CUSTOM",
    "MAX_COUNT",
    "MAX_SEED",
    "TOLD",
    "Form",
    "Growth",
    "Kept",
    "Reply",
    "Session",
    "Step",
    "before_of",
    "form_of",
    "jobs_of",
    "make_pictures",
    "max_side",
    "open_picture",
    "sentence",
    "size_choices",
    "usual_size",
    "watch",
    "write_answer",
    "write_reply",
]
