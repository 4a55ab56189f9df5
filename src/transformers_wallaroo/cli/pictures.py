# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo generate` and `edit`."""

import os
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    INTERRUPTED,
    AsJson,
    Checkpoint,
    Device,
    Dtype,
    DtypeOption,
    load_engine,
    new_group,
    print_json,
    tell,
)

if TYPE_CHECKING:
    from ..apps import Engine

app = new_group()

LARGEST_SEED = 2**31
# What the engine calls an option of one prompt.
NAMES = {
    "`text`": "PROMPT",
    "`negative_prompt`": "`--negative`",
    "`region_mask`": "`--mask`",
    "`keep_source`": "`--keep-source`",
    "`speculative_window`": "`--speculative`",
}
EXAMPLES = {"generate": '"a red circle"', "edit": '"make the circle blue" --image circle.png'}

Size = Annotated[
    str | None,
    typer.Option(metavar="WxH", help="Width x height in pixels: 512x768 is higher than wide."),
]
Aspect = Annotated[
    str | None, typer.Option(metavar="W:H", help="Instead: the usual size nearest to this shape, such as 16:9.")
]
Count = Annotated[int, typer.Option("-n", min=1, metavar="N", help="Pictures to make, with seeds S, S+1, ...")]
Seed = Annotated[
    int | None, typer.Option(min=0, metavar="S", help="The same seed gives the same picture; by default a new one.")
]
Guidance = Annotated[
    float | None, typer.Option(min=0, metavar="X", help="How closely to follow the prompt; 1 is none and the fastest.")
]
ImageGuidance = Annotated[
    float | None,
    typer.Option(min=0, metavar="X", help="How closely to keep to the picture, beside --guidance."),
]
Mask = Annotated[
    Path | None, typer.Option(metavar="FILE", help="White where to draw anew; the rest keeps the picture's codes.")
]
KeepSource = Annotated[bool, typer.Option("--keep-source", help="Outside of --mask, the picture's very pixels.")]
OriginalSize = Annotated[bool, typer.Option("--original-size", help="The result in the picture's own size, uncropped.")]
Negative = Annotated[str | None, typer.Option(metavar="TEXT", help="What guidance leads away from.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, metavar="X", help="Of sampling; 0 takes the likeliest code each time.")
]
TopK = Annotated[int | None, typer.Option(min=1, metavar="N", help="Sample from the N likeliest codes.")]
TopP = Annotated[float | None, typer.Option(min=0.001, max=1, metavar="X", help="Sample from this much probability.")]
Speculative = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Guess N codes at each step, 16 say, 64 at most: faster, the same quality."),
]
Batch = Annotated[
    Path | None,
    typer.Option("--batch", metavar="FILE.jsonl", help="Make a picture a line; goes on where it was stopped."),
]
BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="Pictures made at once; more take more memory.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PATH", help="File that ends in .png, or a folder; by default this one."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="IMAGE", help="Make this picture again, bit for bit, from what its file says."),
]
Preview = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", help="Write this file anew at each finished row, for a viewer to watch."),
]


@dataclass
class Request:
    """What a command was asked for, as given."""

    task: str
    prompt: str | None
    image: Path | None
    size: str | None
    aspect: str | None
    count: int
    seed: int | None
    guidance: float | None
    image_guidance: float | None
    mask: Path | None
    keep_source: bool
    original_size: bool
    negative: str | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    speculative: int | None
    batch: Path | None
    batch_size: int
    output: Path | None
    force: bool
    source: Path | None
    preview: Path | None
    json: bool
    checkpoint: str | None
    device: str | None
    dtype: Dtype | None

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `generate`, as far as they were given."""
        greedy = self.temperature == 0
        given = {
            "guidance_scale": self.guidance,
            "image_guidance_scale": self.image_guidance,
            "do_sample": False if greedy else None,
            "temperature": None if greedy else self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "speculative_window": self.speculative,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def given(self) -> list[str]:
        """The options that say what a picture is to be like."""
        values = {
            "PROMPT": self.prompt,
            "--size": self.size,
            "--aspect": self.aspect,
            "-n": None if self.count == 1 else self.count,
            "--seed": self.seed,
            "--guidance": self.guidance,
            "--image-guidance": self.image_guidance,
            "--mask": self.mask,
            "--keep-source": self.keep_source or None,
            "--original-size": self.original_size or None,
            "--negative": self.negative,
            "--temperature": self.temperature,
            "--top-k": self.top_k,
            "--top-p": self.top_p,
            "--speculative": self.speculative,
            "--batch": self.batch,
        }
        return [name for name, value in values.items() if value is not None]

    def engine(self) -> "Engine":
        return load_engine(self.checkpoint, self.device, self.dtype)


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="What to draw.")] = None,
    size: Size = None,
    aspect: Aspect = None,
    count: Count = 1,
    seed: Seed = None,
    guidance: Guidance = None,
    negative: Negative = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    speculative: Speculative = None,
    batch: Batch = None,
    batch_size: BatchSize = 4,
    output: Output = None,
    force: Force = False,
    source: From = None,
    preview: Preview = None,
    json: AsJson = False,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: DtypeOption = None,
) -> None:
    """Draw pictures from a prompt.

    \b
    wallaroo generate "a red circle on a white background"
    wallaroo generate "two stars" --size 64x48 -n 4 --seed 1      four pictures, 64 wide and 48 high
    wallaroo generate "a blue square" --aspect 2:1 --output square.png
    wallaroo generate --batch prompts.jsonl --output drawn        a picture a line
    wallaroo generate --from square.png --output again.png        the same picture once more

    Prints the file of each picture. Without --output a picture is named after its prompt and seed, and takes no other's
    place. What made it stands in its file: wallaroo info FILE.png.

    \b
    A line of --batch:
    {"prompt": "two stars", "size": "64x48", "seed": 3, "negative": "", "output": "stars.png"}
    All but the prompt may be left out; "image" makes it an edit; options given here are for lines that do not say
    otherwise. The file is checked whole before the first picture. The same command goes on where it was stopped.
    """
    run(
        Request(
            "generate",
            image=None,
            image_guidance=None,
            mask=None,
            keep_source=False,
            original_size=False,
            **locals(),
        )
    )


@app.command()
def edit(
    prompt: Annotated[str | None, typer.Argument(metavar="[PROMPT]", help="What to change.")] = None,
    image: Annotated[Path | None, typer.Option("--image", "-i", metavar="FILE", help="The picture to change.")] = None,
    size: Size = None,
    aspect: Aspect = None,
    count: Count = 1,
    seed: Seed = None,
    guidance: Guidance = None,
    image_guidance: ImageGuidance = None,
    mask: Mask = None,
    keep_source: KeepSource = False,
    original_size: OriginalSize = False,
    negative: Negative = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    speculative: Speculative = None,
    batch: Batch = None,
    batch_size: BatchSize = 4,
    output: Output = None,
    force: Force = False,
    source: From = None,
    preview: Preview = None,
    json: AsJson = False,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: DtypeOption = None,
) -> None:
    """Change a picture as a prompt says; the picture itself stays as it is.

    \b
    wallaroo edit "make the circle blue" --image circle.png
    wallaroo edit "remove the star" -i stars.png -n 2 --seed 1 --output without.png
    wallaroo edit "make it a square" -i stars.png --mask star.png --keep-source     within a region
    wallaroo edit --batch edits.jsonl --output edited             a picture a line
    wallaroo edit --from without-1.png --output again.png         the same picture once more

    Without --size or --aspect the result has the usual size nearest to the picture's shape. Options, names and
    --batch are as for wallaroo generate; a line has the picture as "image", looked for beside the file:

    \b
    {"prompt": "make the circle blue", "image": "circle.png", "seed": 3, "output": "blue.png"}

    A line may also have "mask", "image_guidance", "keep_source": true and "original_size": true.
    """
    run(Request("edit", **locals()))


def run(request: Request) -> None:
    """Does what a command was asked for, once its options are known to go together."""
    if request.size is not None and request.aspect is not None:
        raise ValueError("`--size` and `--aspect` do not go together.")
    if request.preview is not None:
        from ..apps.making import check_preview

        check_preview(request.preview, force=request.force)
    if request.source is not None:
        if request.given:
            raise ValueError(
                f"`--from` makes a picture again as it was: it does not go with {', '.join(request.given)}. To change "
                "something take the command that `wallaroo info` prints for the picture."
            )
        repeat(request)
        return
    if request.batch is not None:
        if request.prompt is not None or request.count != 1:
            raise ValueError("`--batch` has the prompts in its file: it does not go with PROMPT or -n.")
        make_lines(request)
        return
    if request.prompt is None or not request.prompt.strip():
        raise ValueError(f"PROMPT is missing or empty. An example: wallaroo {request.task} {EXAMPLES[request.task]}")
    if request.task == "edit" and request.image is None:
        raise ValueError("`--image` is missing, the picture to change.")
    make_some(request, request.prompt)


def make_some(request: Request, prompt: str) -> None:
    """One prompt, one picture or more."""
    from ..apps import ImageJob
    from ..apps.making import make_in_batches
    from ..apps.outputs import Outputs
    from ..apps.pictures import open_picture
    from ..apps.sizes import parse_aspect

    outputs = Outputs(request.output, request.count, force=request.force)
    picture = None if request.image is None else open_picture(request.image, "--image")
    mask = None if request.mask is None else open_picture(request.mask, "--mask")
    aspect = None if request.aspect is None else parse_aspect(request.aspect, "--aspect")
    seed = random.randrange(LARGEST_SEED) if request.seed is None else request.seed
    engine = request.engine()
    height, width = _size(request, engine)
    try:
        jobs = [
            ImageJob(
                prompt,
                picture,
                None if request.image is None else str(request.image),
                height,
                width,
                aspect,
                seed + index,
                request.negative or "",
                request.sampling,
                mask,
                None if request.mask is None else str(request.mask),
                request.original_size,
                request.keep_source,
            )
            for index in range(request.count)
        ]
        engine.prepare(jobs[:1])
    except ValueError as error:
        raise ValueError(re.sub("|".join(NAMES), lambda found: NAMES[found[0]], str(error))) from error
    with Report(request.json, len(jobs)) as report:
        for index, made in make_in_batches(engine, jobs, batch_size=request.batch_size, preview=request.preview):
            report.add(outputs.save(index, made), made.info)


def _size(request: Request, engine: "Engine") -> tuple[int | None, int | None]:
    """Height and width, if `--size` was given; one that is not usual is told."""
    from ..apps.sizes import parse_size, size_list

    if request.size is None:
        return None, None
    size = parse_size(request.size, engine.cell, engine.usual_sizes, "--size")
    if size not in engine.usual_sizes:
        tell(
            f"{request.size} (width x height) is none of the sizes that the checkpoint was trained in: "
            f"{size_list(engine.usual_sizes)}."
        )
    return size


def make_lines(request: Request) -> None:
    """The lines of a file."""
    from ..apps.batch import Jobs, pending, read_batch
    from ..apps.making import make_in_batches
    from ..apps.pictures import save_picture

    assert request.batch is not None
    folder = Path() if request.output is None else request.output
    if folder.suffix or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"`--output` must be a folder for `--batch`, but got {folder}.")
    defaults = {
        "size": request.size,
        "aspect": request.aspect,
        "seed": request.seed,
        "negative": request.negative,
        "image": None if request.image is None else os.path.relpath(request.image, request.batch.parent),
        "mask": None if request.mask is None else os.path.relpath(request.mask, request.batch.parent),
        "keep_source": request.keep_source or None,
        "original_size": request.original_size or None,
    }
    engine = request.engine()
    lines = read_batch(
        request.batch,
        engine,
        folder,
        defaults={name: value for name, value in defaults.items() if value is not None},
        sampling=request.sampling,
        needs_image=request.task == "edit",
        force=request.force,
    )
    left = pending(lines)
    if len(left) < len(lines):
        tell(f"{len(lines) - len(left)} of {len(lines)} pictures are there already and are kept.")
    jobs = Jobs(left)
    with Report(request.json, len(jobs), " The same command goes on.") as report:
        for index, made in make_in_batches(engine, jobs, batch_size=request.batch_size, preview=request.preview):
            path = save_picture(made.picture, left[index].output, made.info)
            report.add(path, made.info, line=left[index].number)


def repeat(request: Request) -> None:
    """A picture once more."""
    from ..apps.outputs import Outputs
    from ..apps.repeating import differences, read_repeat

    assert request.source is not None
    again = read_repeat(request.source, request.image, task=request.task)
    outputs = Outputs(request.output, 1, force=request.force)
    checkpoint, noted = request.checkpoint, again.info.get("checkpoint")
    if checkpoint is None and isinstance(noted, str) and noted != "wallaroo-tiny" and Path(noted).is_dir():
        checkpoint = noted
        tell(f"The picture was made with the checkpoint {noted}, so this takes it too.")
    dtype = request.dtype
    if dtype is None and again.info.get("dtype") in list(Dtype.__members__):
        dtype = Dtype(again.info["dtype"])
    engine = load_engine(checkpoint, request.device, dtype)
    for text in (differences(again.info, engine), again.note):
        if text:
            tell(text)
    with Report(request.json, 1) as report:
        made = again.make(engine, preview=request.preview)
        same = again.is_same(made)
        report.add(outputs.save(0, made), made.info, same=same)
        tell("It is the same picture, bit for bit." if same else f"It is not the same picture as {request.source}.")


class Report:
    """Prints the files of pictures as they are finished; as JSON when all are, or when Ctrl-C stops the command.

    Args:
        count: how many pictures there will be.
        hint: what to say of going on where the command was stopped.
    """

    def __init__(self, as_json: bool, count: int, hint: str = ""):
        self.as_json, self.count, self.hint = as_json, count, hint
        self.pictures: list[dict[str, Any]] = []

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        interrupted = kind is KeyboardInterrupt
        if self.as_json and (kind is None or interrupted):
            print_json({"pictures": self.pictures})
        if interrupted:
            tell(f"Stopped: {len(self.pictures)} of {self.count} pictures are made and saved.{self.hint}")
            raise typer.Exit(INTERRUPTED) from error

    def add(self, path: Path, info: dict[str, Any], **more: Any) -> None:
        self.pictures.append({"path": str(path), **more, "info": info})
        if not self.as_json:
            typer.echo(str(path))
