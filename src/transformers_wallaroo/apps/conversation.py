# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A conversation with pictures, for the page: questions, `/draw` and `/edit`."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from .engine import Engine, ImageJob
from .page import (
    AS_SOURCE,
    TOLD,
    Form,
    Growth,
    Session,
    Step,
    before_of,
    jobs_of,
    make_pictures,
    open_picture,
    sentence,
    usual_size,
    write_answer,
)

COMMANDS = ("/draw", "/edit")
STOPPED, WAITING = "Stopped.", "…"


def talk(engine: Engine, session: Session, text: str, files: Sequence[str] = ()) -> Generator[None, None, None]:
    """One turn; after each step `session.bubbles` is what to show.

    `/draw PROMPT` draws, `/edit PROMPT` changes the last picture, all else is a question. What is amiss with the turn
    is raised before anything changes. A turn that its reader leaves, or that fails, stays with what there was of it.
    """
    text = (text or "").strip()
    command, _, prompt = text.partition(" ")
    if text.startswith("/") and command not in COMMANDS:
        raise ValueError(f"There are {' and '.join(COMMANDS)}, but no {command}.")
    pictures = [open_picture(file, "") for file in files]
    if not text and not pictures:
        raise ValueError("Write something, or add a picture.")
    path = Path(files[-1]) if files else session.picture
    if command == "/draw":
        [job] = jobs_of(engine, _form(engine, prompt))
    elif command == "/edit":
        missing = "There is no picture to change yet: add or /draw one."
        source = pictures[-1] if pictures else open_picture(path, missing)
        [job] = jobs_of(engine, _form(engine, prompt, edit=True), source)
    elif not text:
        raise ValueError("Say what you want to know of the picture.")
    session.bubbles += [{"role": "user", "content": {"path": str(file)}} for file in files]
    session.bubbles.append({"role": "user", "content": text})
    if files:
        session.picture, session.unseen = path, True
    if command in COMMANDS:
        yield from _make(engine, session, job, path if command == "/edit" else None)
    else:
        yield from _answer(engine, session, text, pictures)


def _form(engine: Engine, prompt: str, *, edit: bool = False) -> Form:
    height, width = usual_size(engine)
    return Form(prompt, AS_SOURCE if edit else f"{width}x{height}")


def _answer(engine: Engine, session: Session, text: str, pictures: Sequence[Any]) -> Iterator[None]:
    if session.unseen and not pictures:
        pictures = [open_picture(session.picture, "")]
    content = [{"type": "image", "image": picture} for picture in pictures] + [{"type": "text", "text": text}]
    messages = [*session.messages, {"role": "user", "content": content}]
    bubble = _bubble(session)
    with closing(write_answer(engine, messages)) as steps:
        for step in _told(bubble, steps):
            bubble["content"] = step.value or WAITING
            if step.value is not None:
                # Kept at each step: a reader may leave at any, and questions and answers must take turns.
                session.messages = [*messages, {"role": "assistant", "content": step.value}]
                session.unseen = False
            yield


def _make(engine: Engine, session: Session, job: ImageJob, source: Path | None) -> Iterator[None]:
    bubble = _bubble(session)
    with closing(make_pictures(engine, [job])) as steps:
        for step in _told(bubble, steps):
            if step.done:
                [made] = step.value
                before = None if job.source is None else before_of(engine, job.source, made.picture)
                kept = session.keep(made, source, before)
                session.picture, session.unseen = kept.path, True
                session.bubbles.insert(-1, {"role": "assistant", "content": {"path": str(kept.path)}})
                bubble["content"] = kept.note
            elif isinstance(step.value, Growth):
                bubble["content"] = step.value.note
            yield


def _bubble(session: Session) -> dict[str, Any]:
    session.bubbles.append({"role": "assistant", "content": WAITING})
    return session.bubbles[-1]


def _told(bubble: dict[str, Any], steps: Iterator[Step]) -> Iterator[Step]:
    """The steps; where they end early, the bubble says why."""
    done = False
    try:
        for step in steps:
            done = step.done
            yield step
    except TOLD as error:
        bubble["content"] = sentence(error)
        raise
    finally:
        if not done and bubble["content"].endswith(WAITING):
            bubble["content"] = STOPPED


__all__ = ["COMMANDS", "talk"]
