# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the conversion scripts share: their options, how they end, and the upload."""

import argparse
import sys
from collections.abc import Callable

from huggingface_hub import HfApi

from transformers_wallaroo.conversion import DTYPES, STAGES, CheckpointError


def add_arguments(parser: argparse.ArgumentParser, writes_wallaroo: bool = True) -> None:
    """The options that every command has."""
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="folder to write; it appears whole or not at all"
    )
    if writes_wallaroo:
        parser.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of all but the VQ tokenizer")
        parser.add_argument(
            "--stage",
            default="4",
            choices=STAGES,
            help="training stage whose prompts the processor makes: 1, 2 and 3a have square images, no row ends and no "
            "size tokens (weights do not tell; default: %(default)s)",
        )
    parser.add_argument("--max-shard-size", default="5GB", help="largest file of weights; also bounds the memory used")
    parser.add_argument("--push-to-hub", metavar="REPO", help="also upload to this Hub repository")


def run(command: Callable[..., list[str]], options: argparse.Namespace) -> int:
    """Runs a command with the options of its parameters' names, prints what it reports, uploads where asked to.
    Returns the exit status."""
    arguments = {name: value for name, value in vars(options).items() if name != "push_to_hub"}
    if "dtype" in arguments:
        arguments["dtype"] = DTYPES[options.dtype]
    try:
        report = command(**arguments)
    except CheckpointError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("\n".join([*report, f"wrote {options.output}"]) + "\n")
    if options.push_to_hub:
        return upload(options.output, options.push_to_hub)
    return 0


def upload(folder: str, repo_id: str) -> int:
    """Uploads a folder to the Hub. Returns the exit status."""
    try:
        api = HfApi()
        api.create_repo(repo_id, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload checkpoint")
    except Exception as error:  # noqa: BLE001, a network fails in many ways
        sys.stderr.write(f"error: {folder} is complete, but its upload to {repo_id} failed: {error}\n")
        return 1
    sys.stdout.write(f"pushed to {repo_id}\n")
    return 0
