# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A conversation with pictures, for the page: the model answers, draws and edits; `/draw` and `/edit` say which."""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from .engine import Engine, ImageJob, MadeImage
from .page import (
    AS_SOURCE,
    TOLD,
    Form,
    Growth,
    Kept,
    Reply,
    Session,
    before_of,
    jobs_of,
    make_pictures,
    open_picture,
    sentence,
    usual_size,
    write_reply,
)

COMMANDS = ("/draw", "/edit")
STOPPED, WAITING, NOTHING = "Stopped.", "…", "The model had nothing to say."


def talk(engine: Engine, session: Session, text: str, files: Sequence[str] = ()) -> Generator[None, None, None]:
    """One turn; after each step `session.bubbles` is what to show.

    `/draw PROMPT` draws, `/edit PROMPT` changes the last picture, and what to do with all else the model chooses. What
    is amiss with the turn is raised before anything changes. A turn that its reader leaves, or that fails, stays with
    what there was of it.
    """
    text = (text or "").strip()
    command, _, prompt = text.partition(" ")
    if text.startswith("/") and command not in COMMANDS:
        raise ValueError(f"There are {' and '.join(COMMANDS)}, but no {command}.")
    pictures = [open_picture(file, "") for file in files]
    if not text and not pictures:
        raise ValueError("Write something, or add a picture.")
    path = Path(files[-1]) if files else session.picture
    jobs: list[ImageJob] = []
    if command == "/draw":
        jobs = jobs_of(engine, _form(engine, prompt))
    elif command == "/edit":
        missing = "There is no picture to change yet: add or /draw one."
        source = pictures[-1] if pictures else open_picture(path, missing)
        jobs = jobs_of(engine, _form(engine, prompt, edit=True), source)
    elif not text:
        raise ValueError("Say what you want to know of the picture, or what to change.")
    session.bubbles += [{"role": "user", "content": {"path": str(file)}} for file in files]
    session.bubbles.append({"role": "user", "content": text})
    shown = [{"type": "image", "image": picture} for picture in pictures]
    turn = {"role": "user", "content": [*shown, {"type": "text", "text": prompt if jobs else text}]}
    with closing(_Answer(engine, session, turn, path).steps(jobs)) as steps:
        yield from steps


def _form(engine: Engine, prompt: str, *, edit: bool = False) -> Form:
    height, width = usual_size(engine)
    return Form(prompt, AS_SOURCE if edit else f"{width}x{height}")


class _Answer:
    """The answer to a turn while it is made; it keeps the session's messages and bubbles up to date."""

    def __init__(self, engine: Engine, session: Session, turn: dict[str, Any], source: Path | None):
        self.engine, self.session = engine, session
        self.messages = [*session.messages, turn]
        self.before = list(session.bubbles)
        self.source = source
        self.parts: list[str | Kept] = []
        self._show(WAITING)

    def steps(self, jobs: Sequence[ImageJob]) -> Generator[None, None, None]:
        """Makes the picture that the user asked for by a command, or what the model chooses."""
        done = False
        try:
            work = make_pictures(self.engine, jobs) if jobs else write_reply(self.engine, self.messages)
            with closing(work) as steps:
                for step in steps:
                    done = step.done
                    self._take(step.value, done)
                    yield
        except TOLD as error:
            self._show(sentence(error))
            raise
        finally:
            content = self.session.bubbles[-1]["content"]
            if not done and isinstance(content, str) and content.endswith(WAITING):
                self._show(STOPPED)

    def _take(self, value: Any, done: bool) -> None:
        reply = value if isinstance(value, Reply) else None
        parts: Sequence[Any] = reply.parts if reply is not None else value if done else ()
        for place, part in enumerate(parts):
            if isinstance(part, MadeImage) and place >= len(self.parts):
                self.parts.append(self._keep(part))
            elif isinstance(part, str):
                self.parts[place : place + 1] = [part]
        growth = reply.growth if reply is not None else value
        note = NOTHING if done and not self.parts else "" if self.parts else WAITING
        self._show(growth.note if isinstance(growth, Growth) else note)
        if self.parts:  # kept at each step: a reader may leave at any, and questions and answers must take turns
            answer = {"role": "assistant", "content": [_as_part(part) for part in self.parts]}
            self.session.messages, self.session.picture = [*self.messages, answer], self.source

    def _keep(self, made: MadeImage) -> Kept:
        source = self.source if made.info["task"] == "edit" else None
        before = None if source is None else before_of(self.engine, open_picture(source, ""), made.picture)
        kept = self.session.keep(made, source, before)
        self.source = kept.path
        return kept

    def _show(self, note: str) -> None:
        bubbles: list[Any] = []
        for part in self.parts:
            bubbles += [part] if isinstance(part, str) else [{"path": str(part.path)}, part.note]
        bubbles += [note] if note else []
        self.session.bubbles = [*self.before, *({"role": "assistant", "content": content} for content in bubbles)]


def _as_part(part: str | Kept) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part.strip()}
    return {"type": "image", "image": open_picture(part.path, ""), "task": part.info["task"]}


__all__ = ["COMMANDS", "talk"]
