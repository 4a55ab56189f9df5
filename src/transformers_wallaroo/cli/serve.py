# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo serve`."""

import os
from typing import Annotated

import typer

from .common import Checkpoint, Device, new_group

app = new_group()
MEGABYTE = 10**6
KEY_VARIABLE = "WALLAROO_API_KEY"


@app.command()
def serve(
    checkpoint: Checkpoint = None,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Where to listen; 0.0.0.0 for everybody, with a key then.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar=KEY_VARIABLE,
            help="What clients must send. Rather by the environment: others see the arguments of a command.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What clients call the model; by default the checkpoint's name.")
    ] = None,
    device: Device = None,
    max_batch: Annotated[int, typer.Option(metavar="N", help="Pictures that are made at once.")] = 8,
    batch_wait: Annotated[
        float, typer.Option(metavar="MS", help="Milliseconds that a picture waits for others to go with it.")
    ] = 20,
    max_queue: Annotated[
        int, typer.Option(metavar="N", help="Pictures and answers that may wait; one more gets 429.")
    ] = 64,
    max_requests: Annotated[int, typer.Option(metavar="N", help="Requests at once, those being read included.")] = 96,
    timeout: Annotated[float, typer.Option(metavar="S", help="Seconds for a whole answer; beyond, 504.")] = 300,
    grace: Annotated[float, typer.Option(metavar="S", help="Seconds that running requests get at the end.")] = 30,
    max_upload: Annotated[float, typer.Option(metavar="MB", help="Megabytes of one picture that is sent.")] = 10,
    max_body: Annotated[float, typer.Option(metavar="MB", help="Megabytes of one request.")] = 24,
    max_pixels: Annotated[int, typer.Option(metavar="N", help="Pixels of one picture that is sent.")] = 4096 * 4096,
    max_images: Annotated[int, typer.Option(metavar="N", help="Pictures that one request may ask for.")] = 10,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens of one answer.")] = 4096,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch pictures that are named by URL, from public addresses.")
    ] = False,
) -> None:
    """Serve a checkpoint to OpenAI's clients.

    \b
    wallaroo serve                                                  wallaroo-tiny at http://127.0.0.1:8000/v1
    wallaroo serve --checkpoint checkpoints/wallaroo-7b --max-batch 16
    WALLAROO_API_KEY=... wallaroo serve --host 0.0.0.0              for others, with a key

    Conversations with pictures at /v1/chat/completions, pictures at /v1/images/generations and /v1/images/edits;
    /health, /ready and /metrics. Ctrl-C ends it: what runs is finished first.
    """
    # The library of commands takes a variable that is empty for one that is not set.
    if api_key is None and KEY_VARIABLE in os.environ:
        raise ValueError(f"`{KEY_VARIABLE}` is set, but empty. Give it a key, or unset it to let everybody in.")
    from ..apps import Engine
    from ..apps.server import ServerSettings, is_local, make_server

    settings = ServerSettings(
        name=name,
        api_key=api_key,
        max_batch=max_batch,
        batch_wait=batch_wait / 1000,
        max_queue=max_queue,
        max_requests=max_requests,
        timeout=timeout,
        grace=grace,
        max_upload=int(max_upload * MEGABYTE),
        max_body=int(max_body * MEGABYTE),
        max_pixels=max_pixels,
        max_images=max_images,
        max_new_tokens=max_new_tokens,
        allow_urls=allow_urls,
    )
    engine = Engine.load(checkpoint, device=device)
    if checkpoint is None:
        typer.echo("No --checkpoint was given, so this is the embedded one, wallaroo-tiny.", err=True)
    if api_key is None and not is_local(host):
        typer.echo(f"There is no --api-key: everybody who reaches {host} may use this server.", err=True)
    make_server(engine, settings, host=host, port=port).run()
