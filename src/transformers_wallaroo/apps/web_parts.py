# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the tabs of the web page are put together from."""

from dataclasses import astuple
from typing import Any

import gradio as gr

from .engine import Engine
from .page import (
    AS_SOURCE,
    CUSTOM,
    MAX_COUNT,
    Session,
    form_of,
    sentence,
    size_choices,
    usual_size,
)

Values = dict[Any, Any]
STOPPED = "Stopped."
# One at a time has the model; the others see their place in the queue.
QUEUED: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def picture_input(label: str, name: str, height: int) -> gr.Image:
    """A picture that is handed over as the file that came. Our own code reads it, which says what is wrong with one."""
    picture = gr.Image(
        label=label, type="filepath", sources=["upload", "clipboard"], height=height, elem_id=name, buttons=[]
    )
    # A subclass would do as well, but gradio writes a file beside the code for each one.
    picture.preprocess = lambda payload: None if payload is None else payload.path
    return picture


def warned(error: Exception) -> str:
    """Shows a notice, and gives its words for a status line."""
    text = sentence(error)
    gr.Warning(text, title="This did not work")
    return text


def buttons(name: str) -> tuple[gr.Button, gr.Button]:
    """The button that starts and the one that stops."""
    with gr.Row():
        start = gr.Button(name, variant="primary", elem_id=f"{name.lower()}-start", scale=3, min_width=160)
        stop = gr.Button("Stop", elem_id=f"{name.lower()}-stop", scale=1, min_width=80)
    return start, stop


def follow_ups(name: str, onward: str) -> tuple[gr.DownloadButton, gr.Button]:
    """What may be done with a result."""
    with gr.Row():
        download = gr.DownloadButton("Download PNG", interactive=False, elem_id=f"{name}-download", size="md")
        further = gr.Button(onward, interactive=False, elem_id=f"{name}-onward", size="md")
    return download, further


def status_line(name: str) -> gr.Markdown:
    return gr.Markdown("", elem_id=f"{name}-status", elem_classes="status", container=False)


def heading(text: str, **options: Any) -> gr.HTML:
    return gr.HTML(f'<p class="heading">{text}</p>', padding=False, **options)


def picked_from(label: str, name: str, columns: int, **options: Any) -> gr.Gallery:
    """Small pictures, of which one is chosen by a click."""
    return gr.Gallery(
        label=label,
        show_label=False,
        container=False,
        elem_id=name,
        elem_classes=["result", "pick"],
        columns=columns,
        height="auto",
        format="png",
        object_fit="contain",
        interactive=False,
        allow_preview=False,
        buttons=[],
        **options,
    )


def examples_row(name: str, pairs: list[tuple[str, str]], picture: gr.Image, text: gr.Textbox) -> None:
    """Pictures with what may be said of them; a click fills in both."""
    if not pairs:
        return
    heading("Try one")
    row = picked_from("Examples", f"{name}-examples", len(pairs), value=pairs)

    def choose(event: gr.SelectData) -> tuple[str, str]:
        return pairs[event.index]

    row.select(choose, None, [picture, text], **AT_ONCE)


class Settings:
    """The fields of a `Form` below its prompt."""

    def __init__(self, engine: Engine, *, edit: bool):
        height, width = usual_size(engine)
        with gr.Row():
            size = gr.Dropdown(
                size_choices(engine, edit=edit),
                value=AS_SOURCE if edit else f"{width}x{height}",
                label="Size (width × height)",
                filterable=False,
                min_width=150,
            )
            count = gr.Slider(1, MAX_COUNT, value=1, step=1, label="Pictures", min_width=150)
        with gr.Row(visible=False) as custom:
            wide = gr.Number(width, label="Width", precision=0, step=engine.cell, min_width=100)
            high = gr.Number(height, label="Height", precision=0, step=engine.cell, min_width=100)
        with gr.Row():
            seed = gr.Number(0, label="Seed", precision=0, min_width=150)
            random_seed = gr.Checkbox(True, label="New seed each time", min_width=150, container=True)
        with gr.Accordion("Guidance and negative prompt", open=False):
            default = engine.model.image_defaults["guidance_scale"]
            guidance = gr.Slider(1, 10, default, step=0.1, label="Guidance", info="How closely to follow the words")
            negative = gr.Textbox(label="Negative prompt", placeholder="What should not be there", max_lines=3)
        # In the order of `Form`, after the prompt.
        self.fields = [size, wide, high, count, negative, guidance, seed, random_seed]
        if edit:
            self.fields += self._kept(default)
        self.seed, self.custom = seed, custom
        size.change(lambda value: gr.Row(visible=value == CUSTOM), size, custom, **AT_ONCE)

    def _kept(self, guidance: float) -> list[Any]:
        """What an edit keeps of its picture."""
        with gr.Accordion("What stays as it is", open=False, elem_id="edit-kept"):
            original = gr.Checkbox(False, label="Keep the source's size", info="Nothing is cropped")
            by_picture = gr.Checkbox(False, label="Guidance by the picture", info="Apart from that by the words")
            scale = gr.Slider(
                0, 10, guidance, step=0.1, label="Image guidance", info="How closely to keep to it", visible=False
            )
            self.mask = picture_input("Region mask: white is drawn anew", "edit-mask", 160)
            keep = gr.Checkbox(False, label="Keep its pixels outside of the mask")
        by_picture.change(lambda own: gr.Slider(visible=own), by_picture, scale, **AT_ONCE)
        return [by_picture, scale, original, keep]

    def of(self, engine: Engine, info: dict[str, Any]) -> Values:
        """What makes a picture once more."""
        _, *values = astuple(form_of(engine, info))
        return dict(zip(self.fields, values[: len(self.fields)], strict=True))


def history_of(session: Session) -> Any:
    captioned = [(kept.path, kept.info["prompt"]) for kept in session.pictures]
    return gr.Gallery(value=captioned, visible=bool(captioned))


def gallery_of(pictures: Any) -> Any:
    """Some results, side by side."""
    return gr.Gallery(value=list(pictures), columns=1 if len(pictures) == 1 else 2 if len(pictures) < 5 else 3)


__all__ = [
    "AT_ONCE",
    "QUEUED",
    "STOPPED",
    "Settings",
    "Values",
    "buttons",
    "examples_row",
    "follow_ups",
    "gallery_of",
    "heading",
    "history_of",
    "picked_from",
    "picture_input",
    "status_line",
    "warned",
]
