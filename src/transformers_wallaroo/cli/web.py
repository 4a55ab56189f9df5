# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo app`."""

import os
from typing import Annotated

import typer

from .common import INTERRUPTED, Checkpoint, Device, new_group, say_which_checkpoint

app = new_group()


@app.command("app")
def show_page(
    checkpoint: Checkpoint = None,
    device: Device = None,
    host: Annotated[str, typer.Option(metavar="NAME", help="0.0.0.0 serves other machines as well.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="The first free one from 7860 on by default.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share/--no-share", help="Open a public address by way of gradio's servers.")
    ] = False,
) -> None:
    """Show the web page: ask, draw, edit and chat in a browser, until Ctrl-C.

    \b
    wallaroo app
    wallaroo app --checkpoint wallaroo-7b --port 8000
    wallaroo app --host 0.0.0.0         for other machines, without a password: in a network you trust

    It needs the extra app (pip install 'transformers-wallaroo[app]') and no network.
    """
    # Before gradio is imported: it asks about its newest version, and tells of its use, unless told not to.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from ..apps import Engine
    from ..apps.web import Page

    say_which_checkpoint(checkpoint)
    page = Page(Engine.load(checkpoint, device=device))
    address = page.launch(host=host, port=port, share=share)
    typer.echo(f"The page is at {address} until Ctrl-C.")
    try:
        page.blocks.block_thread()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
