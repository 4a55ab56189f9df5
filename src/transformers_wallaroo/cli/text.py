# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo ask` and `chat`."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    INTERRUPTED,
    AsJson,
    Checkpoint,
    Device,
    DtypeOption,
    load_engine,
    new_group,
    print_json,
    sentence,
    tell,
)

app = new_group()

Tokens = Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, metavar="X", help="Sample the answer; 0, as without it, is the likeliest one.")
]
TopK = Annotated[int | None, typer.Option(min=1, metavar="N", help="Sample from the N likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(min=0.001, max=1, metavar="X", help="Sample from this much probability.")]
Seed = Annotated[int | None, typer.Option(min=0, metavar="S", help="Of sampling.")]


def _answering(
    max_new_tokens: int, temperature: float | None, top_k: int | None, top_p: float | None, seed: int | None
) -> dict[str, Any]:
    """Arguments of `Engine.stream_answer`."""
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": bool(temperature)}
    if temperature:
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        options |= {name: value for name, value in given.items() if value is not None}
    elif top_k is not None or top_p is not None or seed is not None:
        raise ValueError("`--top-k`, `--top-p` and `--seed` are of sampling: give a `--temperature`, such as 0.7, too.")
    return options


@app.command()
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.")],
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", "-i", metavar="FILE", help="A picture that it is about. May be given again."),
    ] = None,
    max_new_tokens: Tokens = 512,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    json: AsJson = False,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: DtypeOption = None,
) -> None:
    """Ask a question, about pictures or none.

    \b
    wallaroo ask "what color is the circle ?" --image circle.png
    wallaroo ask "describe the picture" -i circle.png --json
    wallaroo ask "Which of them is larger?" -i a.png -i b.png --checkpoint wallaroo-7b

    Prints the answer as it comes.
    """
    from ..apps.pictures import open_picture

    if not question.strip():
        raise ValueError("QUESTION is empty.")
    answering = _answering(max_new_tokens, temperature, top_k, top_p, seed)
    pictures = [open_picture(path, "--image") for path in image or ()]
    engine = load_engine(checkpoint, device, dtype)
    parts = [{"type": "image", "image": picture} for picture in pictures]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
    if json:
        answer = engine.answer(messages, **answering)
        images = [str(path) for path in image or ()]
        about = {"checkpoint": engine.name, "checkpoint_hash": engine.checkpoint_hash, "settings": answering}
        print_json({"question": question, "images": images, "answer": answer, **about})
        return
    for piece in engine.stream_answer(messages, **answering):
        _write(piece)
    _write("\n")


@app.command()
def chat(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the pictures that are made.")
    ] = Path(),
    max_new_tokens: Tokens = 512,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="S", help="Of sampled answers; /seed is of pictures.")
    ] = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    dtype: DtypeOption = None,
) -> None:
    """Talk about pictures, draw new ones and edit them, turn by turn: the model chooses what to do.

    \b
    wallaroo chat
    wallaroo chat --checkpoint wallaroo-7b --output pictures
    printf 'a red circle\\nwhat color is the circle ?\\nmake the circle blue\\n' | wallaroo chat

    Ask a question, say what to draw, or what to change in the last picture. Or type a command: /image PATH shows a
    picture, /draw PROMPT makes one and /edit PROMPT changes the last one whatever the model would choose, /save FILE
    keeps it under another name, /help lists the others. Pictures are saved as they are made. Ctrl-C stops an answer or
    a picture; at the prompt it ends, as /quit and Ctrl-D do.
    """
    from ..apps.chat import Chat

    answering = _answering(max_new_tokens, temperature, top_k, top_p, seed)
    if output.exists() and not output.is_dir():
        raise ValueError(f"`--output` must be a folder, but {output} is a file.")
    talk = Chat(load_engine(checkpoint, device, dtype), output, answering=answering)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # there is none on Windows
            import readline  # noqa: F401 (gives `input` its history and its keys)
        tell("A question, something to draw or to change, or a command: /help lists them, /quit ends.")
    _talk(talk)


def _talk(talk: Any) -> None:
    """Reads lines until there are no more. What cannot be done is told, and the conversation goes on; where nobody is
    there to read it, the command ends."""
    from ..apps.chat import Quit

    alone = not sys.stdin.isatty()
    while (line := _read_line(alone)) is not None:
        try:
            for said in talk.handle(line):
                if said.is_answer:
                    _write(said.text)
                else:
                    typer.echo(said.text, nl=False, err=True)
        except Quit:
            return
        except KeyboardInterrupt as error:
            tell("\nStopped.")
            if alone:
                raise typer.Exit(INTERRUPTED) from error
        except (ValueError, OSError) as error:
            if alone:
                raise
            tell(sentence(error))


def _read_line(alone: bool) -> str | None:
    """The next line, or `None` after the last."""
    try:
        return (sys.stdin.readline() or None) if alone else input("> ")
    except EOFError:
        tell("")
        return None


def _write(piece: str) -> None:
    """Part of an answer, shown at once."""
    typer.echo(piece, nl=False)
    sys.stdout.flush()
