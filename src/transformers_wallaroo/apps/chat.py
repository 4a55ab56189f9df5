# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A conversation in which the model answers, draws and edits: what `wallaroo chat` does with a line."""

import json
import os
import random
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .engine import Engine, ImageJob, MadeImage
from .making import make_in_batches
from .outputs import save_under_free_name, slug
from .pictures import open_picture, save_picture
from .sizes import parse_aspect, parse_size, size_list, write_size

LARGEST_SEED = 2**31
# Command -> (what it takes, what it does); the method is `do_` and its name.
COMMANDS: dict[str, tuple[str, str]] = {
    "image": ("PATH...", "show pictures with what you say next; an edit changes the last one"),
    "draw": ("PROMPT", "draw a picture and save it, whatever the model would choose"),
    "edit": ("PROMPT", "change the last picture and save the result, whatever the model would choose"),
    "save": ("FILE", "save the last picture as FILE.png, or the conversation as FILE.json"),
    "size": ("WIDTHxHEIGHT", "size of pictures, or WIDTH:HEIGHT for a shape; without one: as usual"),
    "seed": ("N", "seed of pictures; without one: a new one each time"),
    "guidance": ("X", "guidance scale of pictures; without one: as usual"),
    "negative": ("TEXT", "what guidance leads away from; without one: nothing"),
    "settings": ("", "show these settings"),
    "reset": ("", "forget the conversation and the pictures"),
    "help": ("", "show this list"),
    "quit": ("", "end; so does Ctrl-D"),
}


class Quit(Exception):
    """Raised where a user wants to end."""


@dataclass(frozen=True)
class Said:
    """A piece of output: of an answer of the model, or a note about what was done."""

    text: str
    is_answer: bool = False


class Chat:
    """The state of a conversation.

    Args:
        engine: answers, draws and edits.
        folder: where pictures go.
        answering: arguments of `Engine.reply`.
        show_progress: a bar while a picture is made; by default where stderr is a terminal.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path = Path(),
        *,
        answering: dict[str, Any] | None = None,
        show_progress: bool | None = None,
    ):
        self.engine, self.folder = engine, folder
        self.answering, self.show_progress = dict(answering or {}), show_progress
        self.messages: list[dict[str, Any]] = []
        self.waiting: list[tuple[str, Image.Image]] = []  # pictures for what is said next, and their names
        self.last: tuple[str, Image.Image, dict[str, Any] | None] | None = None  # name, picture, how it was made
        self.size: dict[str, Any] = {}
        self.seed: int | None = None
        self.guidance: float | None = None
        self.negative = ""

    def handle(self, line: str) -> Iterator[Said]:
        """Does what a line says: a command that begins with a slash, or words for the model.

        Raises:
            ValueError, OSError: where it cannot be done; the conversation is then as before.
            Quit: at `/quit`.
        """
        line = line.strip()
        if not line.startswith("/"):
            if line:
                yield from self.ask(line)
            return
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise ValueError(f"There is no command /{name}. /help lists them.")
        rest = rest.strip()
        needed = COMMANDS[name][0]
        if name in ("image", "draw", "edit", "save") and not rest:
            raise ValueError(f"/{name} needs {needed}.")
        yield from getattr(self, f"do_{name}")(rest)

    # ------------------------------------------------------------------ what the model chooses

    def ask(self, text: str) -> Iterator[Said]:
        """The answer, as it comes, with the pictures that the model makes for it. Where its reader leaves early, the
        answer so far stays in the conversation."""
        turn = self._turn(text)
        answer: list[dict[str, Any]] = []
        options = {"picture": self._picture(), "make": self._make_one, **self.answering}
        stream = self.engine.reply([*self.messages, turn], **options)
        new_line = False
        try:
            for piece in stream:
                if isinstance(piece, str):
                    _add_text(answer, piece)
                    new_line = True
                    yield Said(piece, is_answer=True)
                else:
                    if new_line:
                        yield Said("\n", is_answer=True)
                    new_line = False
                    yield self._keep(text, piece, answer)
        except Exception:
            answer.clear()  # the conversation is as before
            raise
        finally:
            stream.close()  # type: ignore[attr-defined]
            if answer:
                self._remember(turn, answer)
        if new_line or not answer:
            yield Said("\n", is_answer=True)

    def _turn(self, text: str) -> dict[str, Any]:
        """What is said next, with the pictures that wait for it."""
        shown = [{"type": "image", "image": picture, "name": name} for name, picture in self.waiting]
        return {"role": "user", "content": [*shown, {"type": "text", "text": text}]}

    def _remember(self, turn: dict[str, Any], answer: list[dict[str, Any]]) -> None:
        for part in answer:
            if part["type"] == "text":
                part["text"] = part["text"].strip()
        self.messages += [turn, {"role": "assistant", "content": answer}]
        self.waiting = []

    def do_image(self, rest: str) -> Iterator[Said]:
        try:
            paths = [rest] if Path(rest).is_file() else shlex.split(rest)
        except ValueError as error:
            raise ValueError(f"/image cannot be read: {error}. Put names with spaces between quotes.") from error
        opened = [(path, open_picture(os.path.expanduser(path), "/image")) for path in paths]
        self.waiting += opened
        self.last = (*opened[-1], None)
        for path, picture in opened:
            yield Said(f"{path}, {write_size(picture.height, picture.width)}, goes with what you say next.\n")

    # ------------------------------------------------------------------ what the user chooses

    def do_draw(self, rest: str) -> Iterator[Said]:
        yield from self._make(rest)

    def do_edit(self, rest: str) -> Iterator[Said]:
        if self.last is None:
            raise ValueError("There is no picture to edit yet: /draw one, or show one by /image PATH.")
        name, picture, _ = self.last
        yield from self._make(rest, source=picture, source_path=name)

    def _make(self, prompt: str, **source: Any) -> Iterator[Said]:
        turn = self._turn(prompt)
        answer: list[dict[str, Any]] = []
        made = self._make_one(ImageJob(prompt, **self._picture(), **source))
        yield self._keep(prompt, made, answer)
        self._remember(turn, answer)

    def _picture(self) -> dict[str, Any]:
        """What the settings say of a picture."""
        seed = random.randrange(LARGEST_SEED) if self.seed is None else self.seed
        sampling = {} if self.guidance is None else {"guidance_scale": self.guidance}
        return {"seed": seed, "negative_prompt": self.negative, "sampling": sampling, **self.size}

    def _make_one(self, job: ImageJob) -> MadeImage:
        [(_, made)] = make_in_batches(self.engine, [job], show_progress=self.show_progress)
        return made

    def _keep(self, prompt: str, made: MadeImage, answer: list[dict[str, Any]]) -> Said:
        """Saves a picture, adds it to the answer, and says where it is."""
        seed, task = made.info["seed"], made.info["task"]
        path = save_under_free_name(made, self.folder / f"{slug(prompt)}-{seed}.png")
        answer.append({"type": "image", "image": made.picture, "task": task, "name": str(path)})
        self.last = (str(path), made.picture, made.info)
        size = write_size(made.picture.height, made.picture.width)
        return Said(f"{path}, {size}, seed {seed}.\n")

    def do_save(self, rest: str) -> Iterator[Said]:
        path = Path(os.path.expanduser(rest))
        if path.exists():
            raise ValueError(f"{path} is there already. Take another name.")
        if path.suffix.lower() == ".json":
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.part")
            temporary.write_text(json.dumps(self.transcript(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(path)
        elif path.suffix.lower() == ".png":
            if self.last is None:
                raise ValueError("There is no picture to save yet: /draw one.")
            save_picture(self.last[1], path, self.last[2], replace=False)
        else:
            raise ValueError(f"/save needs a name that ends in .png (the last picture) or .json, but got {rest}.")
        yield Said(f"Saved {path}.\n")

    def transcript(self) -> list[dict[str, Any]]:
        """The turns of the conversation, pictures by name."""
        turns = []
        for message in self.messages:
            names = [part["name"] for part in message["content"] if part["type"] == "image"]
            text = " ".join(part["text"] for part in message["content"] if part["type"] == "text")
            turns.append({"role": message["role"], **({"images": names} if names else {}), "text": text})
        return turns

    # ------------------------------------------------------------------ settings

    def do_size(self, rest: str) -> Iterator[Said]:
        if not rest:
            self.size = {}
            yield Said(f"Sizes are as usual; there are {size_list(self.engine.usual_sizes)} (width x height).\n")
        elif ":" in rest:
            self.size = {"aspect_ratio": parse_aspect(rest, "/size")}
            yield Said(f"Pictures have the usual size nearest to {rest} (width : height).\n")
        else:
            height, width = parse_size(rest, self.engine.cell, self.engine.usual_sizes, "/size")
            self.size = {"height": height, "width": width}
            yield Said(f"Pictures are {width} wide and {height} high.\n")

    def do_seed(self, rest: str) -> Iterator[Said]:
        if rest and not rest.isdecimal():
            raise ValueError(f"/seed needs a whole number, but got {rest}.")
        self.seed = int(rest) if rest else None
        yield Said(f"The seed is {rest}.\n" if rest else "Each picture has a new seed.\n")

    def do_guidance(self, rest: str) -> Iterator[Said]:
        scale: float | None = None
        if rest:
            with suppress(ValueError):
                scale = float(rest)
            if scale is None or not 0 <= scale <= 1000:
                raise ValueError(f"/guidance needs a number from 0 on, but got {rest}.")
        self.guidance = scale
        yield Said("Guidance is as usual.\n" if scale is None else f"The guidance scale is {scale:g}.\n")

    def do_negative(self, rest: str) -> Iterator[Said]:
        self.negative = rest
        yield Said(f"Guidance leads away from: {rest}\n" if rest else "Guidance leads away from nothing.\n")

    def do_settings(self, _: str) -> Iterator[Said]:
        size = self.size.get("aspect_ratio") or (
            write_size(self.size["height"], self.size["width"]) if self.size else "as usual"
        )
        yield Said(
            f"checkpoint  {self.engine.name}\nsize        {size}\n"
            f"seed        {'a new one each time' if self.seed is None else self.seed}\n"
            f"guidance    {'as usual' if self.guidance is None else format(self.guidance, 'g')}\n"
            f"negative    {self.negative or 'nothing'}\n"
            f"next to it  {', '.join(name for name, _ in self.waiting) or 'no pictures'}\n"
            f"turns       {len(self.messages) // 2}\n"
        )

    def do_reset(self, _: str) -> Iterator[Said]:
        self.messages, self.waiting, self.last = [], [], None
        yield Said("The conversation begins anew. Pictures that were saved stay where they are.\n")

    def do_help(self, _: str) -> Iterator[Said]:
        yield Said("Ask a question, say what to draw or to change, or type a command:\n")
        for name, (takes, does) in COMMANDS.items():
            yield Said(f"  {f'/{name} {takes}':<22} {does}\n")

    def do_quit(self, _: str) -> Iterator[Said]:
        raise Quit


def _add_text(answer: list[dict[str, Any]], piece: str) -> None:
    """Adds a piece to the last part of an answer, or begins a part."""
    if answer and answer[-1]["type"] == "text":
        answer[-1]["text"] += piece
    else:
        answer.append({"type": "text", "text": piece})


__all__ = ["COMMANDS", "Chat", "Quit", "Said"]
