# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The tabs of the web page. A tab holds its components; its methods give what a click changes, as values by component.

Errors of a visitor become a sentence, in a notice and in the tab's status line; nothing else changes then.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from .conversation import COMMANDS, talk
from .engine import Engine
from .page import TOLD, Form, Kept, Session, before_of, jobs_of, make_pictures, open_picture, write_answer
from .page_examples import Examples
from .web_parts import (
    AT_ONCE,
    QUEUED,
    STOPPED,
    Settings,
    Values,
    buttons,
    examples_row,
    follow_ups,
    gallery_of,
    history_of,
    picked_from,
    picture_input,
    status_line,
    warned,
)


class AskTab:
    def __init__(self, engine: Engine, examples: Examples):
        self.engine = engine
        with gr.Row():
            with gr.Column(min_width=300):
                self.picture = picture_input("Picture", "ask-picture", 300)
            with gr.Column(min_width=300):
                self.question = gr.Textbox(
                    label="Question", placeholder="What is in the picture?", lines=2, elem_id="ask-question"
                )
                start, stop = buttons("Ask")
                self.answer = gr.Textbox(
                    label="Answer", lines=3, interactive=False, elem_id="ask-answer", buttons=["copy"]
                )
                self.status = status_line("ask")
        examples_row("ask", examples.ask, self.picture, self.question)
        event = gr.on(
            [start.click, self.question.submit],
            self.run,
            [self.picture, self.question],
            [self.answer, self.status],
            show_progress_on=self.status,
            show_progress="minimal",
            **QUEUED,
        )
        stop.click(None, cancels=event, **AT_ONCE).then(lambda: STOPPED, None, self.status, **AT_ONCE)

    def run(self, picture: str | None, question: str) -> Iterator[Values]:
        try:
            image = open_picture(picture, "Add a picture to ask about.")
            if not (question or "").strip():
                raise ValueError("Write a question.")
            content = [{"type": "image", "image": image}, {"type": "text", "text": question.strip()}]
            with closing(write_answer(self.engine, [{"role": "user", "content": content}])) as steps:
                for step in steps:
                    yield {self.answer: step.value or "", self.status: "" if step.done else "Answering …"}
        except TOLD as error:
            yield {self.status: warned(error)}


class DrawTab:
    name = "draw"

    def __init__(self, engine: Engine, examples: Examples, session: gr.State, history: gr.Gallery):
        self.engine, self.history = engine, history
        with gr.Row(elem_id="draw-panel"):
            with gr.Column(min_width=300):
                self.prompt = gr.Textbox(
                    label="Prompt", placeholder="What to draw", lines=2, elem_id="draw-prompt", value=examples.draw[0]
                )
                lines = [[prompt] for prompt in examples.draw]
                gr.Examples(lines, self.prompt, label="Try one", elem_id="draw-examples")
                self.settings = Settings(engine, edit=False)
                start, stop = buttons("Draw")
            with gr.Column(min_width=300):
                self.result = gr.Gallery(
                    label="Pictures",
                    show_label=False,
                    elem_id="draw-result",
                    elem_classes="result",
                    columns=1,
                    height="auto",
                    format="png",
                    object_fit="contain",
                    interactive=False,
                    allow_preview=False,
                    buttons=[],
                )
                self.status = status_line("draw")
                self.download, self.pass_on = follow_ups("draw", "Edit this picture")
        event = gr.on(
            [start.click, self.prompt.submit],
            self.run,
            [session, self.prompt, *self.settings.fields],
            [self.result, self.status, self.settings.seed, self.download, self.pass_on, history],
            show_progress_on=self.status,
            show_progress="minimal",
            **QUEUED,
        )
        stop.click(None, cancels=event, **AT_ONCE).then(lambda: STOPPED, None, self.status, **AT_ONCE)
        self.result.select(self.choose, session, [self.status, self.download], **AT_ONCE)

    def run(self, session: Session, *values: Any) -> Iterator[Values]:
        try:
            jobs = jobs_of(self.engine, Form(*values))
            yield {self.status: "Starting …", self.settings.seed: jobs[0].seed}
            grown: tuple[Any, ...] = ()
            with closing(make_pictures(self.engine, jobs)) as steps:
                for step in steps:
                    if step.done:
                        kept = [session.keep(made) for made in step.value]
                        yield {**self.show(session, kept), self.history: history_of(session)}
                    elif step.value is None:
                        yield {self.status: gr.skip()}
                    elif step.value.pictures is grown:
                        yield {self.status: step.value.note}
                    else:
                        grown = step.value.pictures
                        files = [session.passing(picture) for picture in grown]
                        yield {self.result: gallery_of(files), self.status: step.value.note}
        except TOLD as error:
            yield {self.status: warned(error)}

    def show(self, session: Session, kept: list[Kept]) -> Values:
        session.shown[self.name], session.chosen[self.name] = kept, kept[0]
        return {
            self.result: gallery_of([picture.path for picture in kept]),
            self.status: kept[0].note,
            self.download: gr.DownloadButton(value=kept[0].path, interactive=True),
            self.pass_on: gr.Button(interactive=True),
        }

    def choose(self, session: Session, event: gr.SelectData) -> Values:
        """One of several results."""
        kept = _chosen(session, self.name, event.index)
        return {self.status: gr.skip()} if kept is None else {self.status: kept.note, self.download: kept.path}

    def again(self, session: Session, kept: Kept) -> Values:
        """A picture of the history."""
        settings = self.settings.of(self.engine, kept.info)
        return {self.prompt: kept.info["prompt"], **settings, **self.show(session, [kept])}


class EditTab:
    name = "edit"

    def __init__(self, engine: Engine, examples: Examples, session: gr.State, history: gr.Gallery):
        self.engine, self.history = engine, history
        with gr.Row(elem_id="edit-panel"):
            with gr.Column(min_width=300):
                self.source = picture_input("Picture to change", "edit-source", 240)
                self.prompt = gr.Textbox(
                    label="Change", placeholder="What to change in it", lines=2, elem_id="edit-prompt"
                )
                self.settings = Settings(engine, edit=True)
                start, stop = buttons("Edit")
            with gr.Column(min_width=300):
                self.result = gr.ImageSlider(
                    label="Before and after",
                    show_label=False,
                    elem_id="edit-result",
                    elem_classes="result",
                    type="filepath",
                    format="png",
                    max_height=520,
                    interactive=False,
                    buttons=[],
                )
                self.variants = picked_from("All of them", "edit-variants", 4, visible=False)
                self.status = status_line("edit")
                self.download, self.pass_on = follow_ups("edit", "Change it further")
        examples_row("edit", examples.edit, self.source, self.prompt)
        event = gr.on(
            [start.click, self.prompt.submit],
            self.run,
            [session, self.source, self.settings.mask, self.prompt, *self.settings.fields],
            [self.result, self.variants, self.status, self.settings.seed, self.download, self.pass_on, history],
            show_progress_on=self.status,
            show_progress="minimal",
            **QUEUED,
        )
        stop.click(None, cancels=event, **AT_ONCE).then(lambda: STOPPED, None, self.status, **AT_ONCE)
        self.variants.select(self.choose, session, [self.result, self.status, self.download], **AT_ONCE)
        self.pass_on.click(self.take, session, self.source, **AT_ONCE)

    def run(self, session: Session, source: str | None, mask: str | None, *values: Any) -> Iterator[Values]:
        try:
            picture = open_picture(source, "Add the picture that is to be changed.")
            assert source is not None
            form = Form(*values)
            jobs = jobs_of(self.engine, form, picture, None if mask is None else open_picture(mask, ""))
            yield {self.status: "Starting …", self.settings.seed: jobs[0].seed}
            grown: tuple[Any, ...] = ()
            before: Path | None = None
            with closing(make_pictures(self.engine, jobs)) as steps:
                for step in steps:
                    if step.done:
                        region = None if mask is None else Path(mask)
                        kept = [
                            session.keep(made, Path(source), before_of(self.engine, picture, made.picture), region)
                            for made in step.value
                        ]
                        yield {**self.show(session, kept), self.history: history_of(session)}
                    elif step.value is None:
                        yield {self.status: gr.skip()}
                    elif step.value.pictures is grown:
                        yield {self.status: step.value.note}
                    else:
                        grown = step.value.pictures
                        if before is None:
                            seen = before_of(self.engine, picture, grown[0], stretch=form.original_size)
                            before = session.passing(seen)
                        yield {self.result: (before, session.passing(grown[0])), self.status: step.value.note}
        except TOLD as error:
            yield {self.status: warned(error)}

    def show(self, session: Session, kept: list[Kept]) -> Values:
        session.shown[self.name] = kept
        return {
            **self._show_one(session, kept[0]),
            self.variants: gr.Gallery(value=[picture.path for picture in kept], visible=len(kept) > 1),
            self.pass_on: gr.Button(interactive=True),
        }

    def _show_one(self, session: Session, kept: Kept) -> Values:
        session.chosen[self.name] = kept
        return {
            self.result: (kept.before, kept.path),
            self.status: kept.note,
            self.download: gr.DownloadButton(value=kept.path, interactive=True),
        }

    def choose(self, session: Session, event: gr.SelectData) -> Values:
        """One of several results."""
        kept = _chosen(session, self.name, event.index)
        return {self.status: gr.skip()} if kept is None else self._show_one(session, kept)

    def take(self, session: Session) -> Any:
        """The result as the source of the next edit."""
        return str(session.chosen[self.name].path) if self.name in session.chosen else gr.skip()

    def again(self, session: Session, kept: Kept) -> Values:
        """A picture of the history."""
        settings = self.settings.of(self.engine, kept.info)
        words = {self.source: str(kept.source), self.prompt: kept.info["prompt"]}
        words[self.settings.mask] = None if kept.mask is None else str(kept.mask)
        return {**words, **settings, **self.show(session, [kept])}


class ChatTab:
    def __init__(self, engine: Engine, examples: Examples, session: gr.State, history: gr.Gallery):
        self.engine, self.history = engine, history
        draw, edit = COMMANDS
        self.conversation = gr.Chatbot(
            label="Conversation",
            show_label=False,
            height=500,
            elem_id="chat-conversation",
            elem_classes="result",
            placeholder="Ask about a picture, say what to draw, or what to change in the last picture. "
            f"**{draw}** and **{edit}** before it leave the model no choice.",
            buttons=["copy"],
            feedback_options=None,
        )
        self.turn = gr.MultimodalTextbox(
            show_label=False,
            placeholder="Ask, draw or change …",
            file_types=["image"],
            file_count="multiple",
            sources=["upload"],
            elem_id="chat-turn",
        )
        with gr.Row():
            stop = gr.Button("Stop", elem_id="chat-stop", size="md", min_width=80)
            anew = gr.Button("New conversation", elem_id="chat-anew", size="md", min_width=120)
        lines = [[{"text": examples.draw[0], "files": []}]]
        lines += [[{"text": question, "files": [picture]}] for picture, question in examples.ask[:1]]
        gr.Examples(lines, self.turn, label="Try one", elem_id="chat-examples")
        outputs = [self.conversation, self.turn, history]
        event = self.turn.submit(
            self.run, [session, self.turn], outputs, show_progress_on=self.turn, show_progress="minimal", **QUEUED
        )
        # What the work left behind is known when it has been told to stop.
        stop.click(None, cancels=event, **AT_ONCE).then(self.show, session, self.conversation, **AT_ONCE)
        anew.click(None, cancels=event, **AT_ONCE).then(self.forget, session, self.conversation, **AT_ONCE)

    def run(self, session: Session, turn: dict[str, Any]) -> Iterator[Values]:
        before = len(session.bubbles)
        try:
            with closing(talk(self.engine, session, turn.get("text") or "", turn.get("files") or [])) as steps:
                for _ in steps:
                    yield {self.conversation: self.show(session), self.turn: None}
            yield {self.conversation: self.show(session), self.history: history_of(session)}
        except TOLD as error:
            warned(error)
            yield {self.conversation: self.show(session), self.turn: None}
            # The browser has emptied the box without telling; a turn that was refused goes back into it.
            if len(session.bubbles) == before:
                yield {self.turn: turn}

    def show(self, session: Session) -> list[dict[str, Any]]:
        return [dict(bubble) for bubble in session.bubbles]

    def forget(self, session: Session) -> list[dict[str, Any]]:
        session.forget_conversation()
        return []


def _chosen(session: Session, tab: str, index: int) -> Kept | None:
    """The picture at a place of a tab's results, which is then the one that its buttons are about."""
    shown = session.shown.get(tab, [])
    if not 0 <= index < len(shown):
        return None
    session.chosen[tab] = shown[index]
    return shown[index]


__all__ = ["AskTab", "ChatTab", "DrawTab", "EditTab"]
