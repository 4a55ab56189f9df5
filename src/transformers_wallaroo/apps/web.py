# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The web page, `wallaroo app`. It needs the extra `app`.

What it does is in `page.py` and `conversation.py`, without gradio; its tabs are in `web_tabs.py`, put together from
`web_parts.py`, and look as `web_style.py` says.
"""

import tempfile
from pathlib import Path
from typing import Any

try:
    import gradio as gr
except ImportError as error:
    raise ImportError("The web page needs gradio: pip install 'transformers-wallaroo[app]'.") from error

from .engine import Engine
from .page import Session
from .page_examples import knows_shapes, make_examples
from .web_parts import AT_ONCE, heading, picked_from
from .web_style import css, masthead, theme
from .web_tabs import AskTab, ChatTab, DrawTab, EditTab

MAX_WAITING = 32
MAX_UPLOAD = "20mb"
HOUR = 60 * 60  # seconds


class Page:
    """The page of an engine.

    Attributes:
        blocks: what gradio serves.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self._folder = tempfile.TemporaryDirectory(prefix="wallaroo-examples-")
        examples = make_examples(engine, Path(self._folder.name))
        note = " · knows coloured shapes, nothing else" if knows_shapes(engine) else ""
        with gr.Blocks(title="Wallaroo", analytics_enabled=False, delete_cache=(HOUR, 24 * HOUR)) as self.blocks:
            session = gr.State(Session(), delete_callback=Session.close)
            gr.HTML(masthead(engine, note), padding=False)
            self.history = picked_from("History", "history", 8, visible=False, render=False)
            with gr.Tabs(elem_id="tabs") as self.tabs:
                with gr.Tab("Ask", id="ask"):
                    self.ask = AskTab(engine, examples)
                with gr.Tab("Draw", id="draw"):
                    self.draw = DrawTab(engine, examples, session, self.history)
                with gr.Tab("Edit", id="edit", visible=engine.processor.row_ends):
                    self.edit = EditTab(engine, examples, session, self.history)
                with gr.Tab("Chat", id="chat"):
                    self.chat = ChatTab(engine, examples, session, self.history)
            heading("History: a click brings a picture back, with its prompt and settings", elem_id="history-heading")
            self.history.render()
            self._connect(session)

    def _connect(self, session: gr.State) -> None:
        """What goes from one tab to another."""
        draw, edit = self.draw, self.edit
        drawn = [draw.prompt, *draw.settings.fields, draw.result, draw.status, draw.download, draw.pass_on]
        edited = [
            edit.source,
            edit.settings.mask,
            edit.prompt,
            *edit.settings.fields,
            edit.result,
            edit.variants,
            edit.status,
        ]
        edited += [edit.download, edit.pass_on]
        self.history.select(self.again, session, [self.tabs, *drawn, *edited], **AT_ONCE)
        draw.pass_on.click(self.pass_on, session, [self.tabs, edit.source], **AT_ONCE)

    def again(self, session: Session, event: gr.SelectData) -> dict[Any, Any]:
        """A picture of the history, in the tab where it was made, with its prompt and settings."""
        if not 0 <= event.index < len(session.pictures):
            return {self.tabs: gr.skip()}
        kept = session.pictures[event.index]
        tab: DrawTab | EditTab = self.draw if kept.before is None else self.edit
        return {self.tabs: gr.Tabs(selected=tab.name), **tab.again(session, kept)}

    def pass_on(self, session: Session) -> dict[Any, Any]:
        """The picture that was drawn as the one to edit."""
        if self.draw.name not in session.chosen:
            return {self.tabs: gr.skip()}
        return {self.tabs: gr.Tabs(selected="edit"), self.edit.source: str(session.chosen[self.draw.name].path)}

    def launch(self, *, host: str = "127.0.0.1", port: int | None = None, share: bool = False) -> str:
        """Serves the page from threads of its own and returns its address; `blocks.block_thread()` waits for its end.

        Args:
            port: by default the first that is free from 7860 on.
            share: whether to open a public address by way of gradio's servers.
        """
        self.blocks.queue(max_size=MAX_WAITING)
        _, local, public = self.blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            max_file_size=MAX_UPLOAD,
            theme=theme(),
            css=css(self.engine),
        )
        return public or local


__all__ = ["Page"]
