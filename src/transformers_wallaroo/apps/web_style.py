# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""How the page looks. Fonts are those that gradio brings along: nothing is fetched from elsewhere."""

from html import escape

import gradio as gr

from .engine import Engine

# Pictures up to this side are shown enlarged with their pixels as squares, not blurred.
CRISP_SIDE = 128

CSS = """
.gradio-container { width: 100% !important; max-width: 1184px !important; margin: 0 auto !important; }
.gradio-container > .main { padding: 8px 12px 32px !important; max-width: none !important; }
#masthead { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 14px; padding: 8px 2px; }
#masthead h1 { margin: 0; font-size: 1.7rem; font-weight: 700; letter-spacing: -0.02em; }
#masthead p { margin: 0; opacity: 0.75; }
#masthead .about { margin-left: auto; font-size: 0.85rem; }
.status, .status p { min-height: 1.5em; font-size: 0.92rem; opacity: 0.85; }
.html-container:has(> .prose > .heading) { padding: 0 !important; }
.heading { margin: 0; color: var(--block-title-text-color); font-size: var(--block-title-text-size); }
.result img { object-fit: contain !important; }
.result .grid-wrap { max-height: none !important; overflow: visible !important; padding: 0 !important; }
.result .thumbnail-item { background: transparent; }
#draw-result { min-height: 320px; }
#draw-result .grid-container { max-width: 520px; margin: 0 auto; height: auto !important; }
.pick .grid-container { grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)) !important; }
.pick .grid-container { height: auto !important; }
.pick .thumbnail-item { display: flex; flex-direction: column; height: auto; aspect-ratio: auto; max-width: 160px; }
.pick .thumbnail-item img { aspect-ratio: 1; height: auto; }
.pick .caption-label {
  position: static; max-width: 100%; width: 100%; border: 0; box-shadow: none; padding: 4px 6px; font-size: 0.75rem;
  background: transparent; white-space: normal; text-align: left;
}
#history-heading:not(:has(+ #history)) { display: none; }
#ask-answer textarea { font-size: 1.15rem; }
#chat-conversation button[title="Share"], #chat-conversation button[title="Clear"] { display: none; }
#chat-examples img { max-height: 40px; }
@media (max-width: 640px) {
  #masthead .about { margin-left: 0; }
}
"""
CRISP = """
img { image-rendering: pixelated; }
.image-frame, .image-frame img { width: 100% !important; height: 100% !important; object-fit: contain !important; }
#chat-conversation .message img { width: 160px !important; height: auto !important; }
"""


def theme() -> gr.themes.Base:
    # Of the two weights of bold that come along, the lighter one lacks most letters.
    sans, mono = (gr.themes.LocalFont(name, weights=(400, 700)) for name in ("IBM Plex Sans", "IBM Plex Mono"))
    looks = gr.themes.Soft(
        primary_hue=gr.themes.colors.orange,
        secondary_hue=gr.themes.colors.amber,
        neutral_hue=gr.themes.colors.stone,
        font=(sans, "system-ui", "sans-serif"),
        font_mono=(mono, "monospace"),
    )
    plain = {"background_fill": "transparent", "text_color": "*neutral_500", "text_color_dark": "*neutral_400"}
    return looks.set(
        **{f"block_title_{name}": value for name, value in plain.items()},
        **{f"block_label_{name}": value for name, value in plain.items()},
        block_title_background_fill_dark="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="400",
        block_label_text_weight="400",
        block_title_padding="0",
        block_label_border_width="0px",
        block_label_shadow="none",
        block_border_width="1px",
        button_large_text_weight="700",
        button_medium_text_weight="400",
    )


def css(engine: Engine) -> str:
    small = max(max(size) for size in engine.usual_sizes) <= CRISP_SIDE
    return CSS + CRISP if small else CSS


def masthead(engine: Engine, knows: str) -> str:
    """HTML of the title, with the checkpoint and what is worth knowing of it."""
    name = engine.name.rstrip("/").rpartition("/")[2]
    return (
        '<div id="masthead"><h1>Wallaroo</h1>'
        "<p>Ask about pictures, draw them, change them. 中文也可以。</p>"
        f'<p class="about">{escape(name)} · {escape(engine.model.device.type)}{escape(knows)}</p></div>'
    )


__all__ = ["css", "masthead", "theme"]
