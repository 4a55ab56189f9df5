# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo info`, `convert`, `init` and `export`."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import CHECKPOINT_VARIABLE, AsJson, Dtype, new_group, print_json, say_which_checkpoint

app = new_group()


PICTURES = (".png", ".jpg", ".jpeg", ".webp")  # no checkpoint is called so


class Stage(str, Enum):
    """Training stages, for shell completion and errors."""

    one = "1"
    two = "2"
    three_a = "3a"
    three_b = "3b"
    four = "4"


Base = Annotated[Path, typer.Option("--base", metavar="DIR", help="Folder of a Qwen2.5-VL.")]
VqCheckpoint = Annotated[
    Path, typer.Option("--vq-checkpoint", metavar="FILE", help="LlamaGen's VQ tokenizer, vq_ds16_t2i.pt.")
]
OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; it appears whole or not at all.")
]
WeightsDtype = Annotated[Dtype, typer.Option("--dtype", help="Of all weights but the VQ tokenizer's.")]
StageOption = Annotated[
    Stage, typer.Option("--stage", help="Whose prompts to make: 1, 2 and 3a have squares, no row ends, no size tokens.")
]
ShardSize = Annotated[
    str, typer.Option("--max-shard-size", metavar="SIZE", help="Largest file of weights; bounds the memory used too.")
]


# ------------------------------------------------------------------ info


@app.command()
def info(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[CHECKPOINT|IMAGE]",
            envvar=CHECKPOINT_VARIABLE,
            help="Folder or Hub name of a checkpoint, or a picture that wallaroo has made.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Tell what a checkpoint is, or how a picture was made.

    \b
    wallaroo info                      the embedded checkpoint, wallaroo-tiny
    wallaroo info wallaroo-7b --json
    wallaroo info a-red-circle-7.png   prompt, seed, settings, and the command that repeats it

    Of a checkpoint: its parts and their parameters, its options and sizes, and the memory that it needs. No weights are
    read, so it is quick for a large one too.
    """
    if target is not None and Path(target).is_file():
        _picture_info(Path(target), json)
        return
    if target is not None and Path(target).suffix.lower() in PICTURES:
        raise ValueError(f"There is no file {target}.")
    from ..apps.summary import summarize

    say_which_checkpoint(target)
    facts = summarize(target)
    if json:
        print_json(facts)
        return
    for line in _checkpoint_lines(facts):
        typer.echo(line)


def _picture_info(path: Path, as_json: bool) -> None:
    from ..apps.pictures import open_picture, read_picture_info
    from ..apps.repeating import command_line

    open_picture(path, "IMAGE")
    facts = read_picture_info(path)
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items() if not isinstance(each, list))
        typer.echo(f"{name:<16} {value}")
    if facts.get("task") in ("generate", "edit"):
        typer.echo(f"\nThe same once more:  wallaroo {facts['task']} --from {path}")
        typer.echo(f"One like it:         {command_line(facts)}")


def _checkpoint_lines(facts: dict[str, Any]) -> list[str]:
    """The facts of a checkpoint as a page."""
    options, memory = facts["options"], facts["memory"]
    width = max(map(len, facts["parameters"]))
    lines = [f"{facts['checkpoint']}  ({facts['hash']})"]
    if facts["path"]:
        size = sum(facts["files"].values())
        lines.append(f"{facts['path']}, {len(facts['files'])} file(s) of weights, {_size(size)}, {facts['dtype']}")
    lines += ["", "Parameters"]
    lines += [f"  {part:<{width}}  {count:>14,}" for part, count in facts["parameters"].items()]
    lines += ["", "Options"]
    lines += [f"  {name:<{width}}  {value}" for name, value in options.items()]
    defaults = ", ".join(f"{name} {value}" for name, value in facts["image_defaults"].items())
    lines += ["", f"Sizes, width x height in pixels: {', '.join(facts['sizes'])}", f"Images by default: {defaults}"]
    lines += [
        "",
        "Memory to run it, at least",
        f"  {'':<10}{'weights':>10}{'codes':>10}{'a picture':>11}{'in all':>10}",
    ]
    for dtype, needs in memory.items():
        columns = [_size(needs[name]) for name in ("weights", "code_tables", "a_picture", "total")]
        lines.append(f"  {dtype:<10}{columns[0]:>10}{columns[1]:>10}{columns[2]:>11}{columns[3]:>10}")
    lines.append("  (a picture: keys and values of the longest sequence, with guidance; activations come on top)")
    device, versions = facts["device"], facts["versions"]
    about = device.get("name") or f"{device['threads']} threads"
    room = f", {_size(device['memory'])} of memory" if device["memory"] else ""
    lines += ["", f"Runs here on {device['type']}: {about}{room}"]
    lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return lines


def _size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


# ------------------------------------------------------------------ from and to other formats


@app.command()
def convert(
    base: Base,
    checkpoint: Annotated[Path, typer.Option("--checkpoint", metavar="FILE", help="Released training checkpoint.")],
    vq_checkpoint: VqCheckpoint,
    output: OutputFolder,
    dtype: WeightsDtype = Dtype.bfloat16,
    stage: StageOption = Stage.four,
    max_shard_size: ShardSize = "5GB",
    json: AsJson = False,
) -> None:
    """Convert released weights to a folder that this command and AutoModel load.

    \b
    wallaroo convert --base Qwen2.5-VL-7B-Instruct --checkpoint wallaroo.ckpt \\
        --vq-checkpoint vq_ds16_t2i.pt --output wallaroo-7b

    Every weight is accounted for: an unknown, missing or misshaped one stops the conversion with its name.
    """
    from ..conversion import DTYPES, convert

    report = convert(base, checkpoint, vq_checkpoint, output, DTYPES[dtype.value], max_shard_size, stage.value)
    _tell_result(report, output, json)


@app.command("init")
def initialise(
    base: Base,
    vq_checkpoint: VqCheckpoint,
    output: OutputFolder,
    dtype: WeightsDtype = Dtype.bfloat16,
    stage: StageOption = Stage.four,
    max_shard_size: ShardSize = "5GB",
    json: AsJson = False,
) -> None:
    """Make a Wallaroo that is ready for stage 1 out of a Qwen2.5-VL.

    \b
    wallaroo init --base Qwen2.5-VL-3B-Instruct --vq-checkpoint vq_ds16_t2i.pt --stage 1 --output wallaroo-3b-stage0

    Adapters and image heads are newly initialised, the same each time.
    """
    from ..conversion import DTYPES, init_from_qwen

    report = init_from_qwen(base, vq_checkpoint, output, DTYPES[dtype.value], max_shard_size, stage.value)
    _tell_result(report, output, json)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", metavar="DIR", help="Folder of a Wallaroo.")],
    output: OutputFolder,
    max_shard_size: ShardSize = "5GB",
    json: AsJson = False,
) -> None:
    """Write the understanding half as a plain Qwen2.5-VL, for stock transformers and vLLM.

    \b
    wallaroo export --checkpoint wallaroo-7b --output wallaroo-7b-understanding
    """
    from ..conversion import export_qwen

    _tell_result(export_qwen(checkpoint, output, max_shard_size), output, json)


def _tell_result(report: list[str], output: Path, as_json: bool) -> None:
    if as_json:
        print_json({"output": str(output), "report": report})
        return
    for line in (*report, f"wrote {output}"):
        typer.echo(line)
