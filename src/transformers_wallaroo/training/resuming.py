# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What the output folder of a run tells the next one: its last whole checkpoint, and the recipe that it follows."""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

logger = logging.get_logger(__name__)

RECIPE = "recipe.yaml"
# Tells the file from one that a user has put there.
HEADER = "# Written by transformers-wallaroo: the recipe of the run in this folder, with every key.\n"
# Keys that may change while a run goes on, for they change neither data nor model nor optimizer; and what the keys of
# `trainer` begin with that may.
MAY_CHANGE = (
    "output",
    "evaluation",
    "eval_steps",
    "save_steps",
    "logging_steps",
    "previews",
    "workers",
    "bf16",
    "attention",
    "compile",
    "gradient_checkpointing",
)
MAY_CHANGE_IN_TRAINER = (
    "dataloader_",
    "ddp_",
    "deepspeed",
    "disable_tqdm",
    "eval_",
    "fsdp",
    "hub_",
    "log_",
    "logging_",
    "per_device_eval_",
    "project",
    "push_to_hub",
    "report_to",
    "run_name",
    "save_",
    "torch_compile",
    "use_cpu",
)


def last_whole_checkpoint(output: Path) -> str | None:
    """The last checkpoint of a run that was written to its end; what a kill left half-written is removed.

    `Trainer` writes `trainer_state.json` last.
    """
    while output.is_dir():
        checkpoint = get_last_checkpoint(str(output))
        if checkpoint is None:
            return None
        try:
            json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
            return checkpoint
        except (OSError, json.JSONDecodeError):
            logger.warning(f"{checkpoint} was not written to its end; it is removed.")
            shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def remove_run(output: Path, others: Sequence[Path] = (), **needed: str | None) -> None:
    """Removes the checkpoints of an earlier run, and `others`.

    Args:
        output: folder of the checkpoints.
        others: more folders that the earlier run has made.
        needed: by their names, paths that the new run starts from; a `ValueError` where one of them would be removed.
    """
    old = [path for path in (*others, *sorted(output.glob("checkpoint-*"))) if path.is_dir()]
    for name, value in needed.items():
        if value is not None and any(Path(value).resolve().is_relative_to(path.resolve()) for path in old):
            raise ValueError(
                f"`{name}` is {value!r}, which is of the run in {str(output)!r} that would be removed to train it "
                "anew. Take another `output`."
            )
    for path in old:
        logger.warning(f"{path} is removed: the run starts anew.")
        shutil.rmtree(path)


def keep_recipe(config: Any, output: Path) -> None:
    """Writes a recipe into the folder of its run, unless a user's file of that name is there."""
    path = output / RECIPE
    if path.is_file() and not _is_ours(path):
        logger.warning(f"{path} is not of this run, so that its own recipe is not kept there.")
        return
    output.mkdir(parents=True, exist_ok=True)
    write_whole(path, HEADER + yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))


def write_whole(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def check_recipe(config: Any, output: Path) -> None:
    """Raises a `ValueError` where there is a checkpoint to go on from, but it is of another recipe."""
    changes = recipe_changes(config, output)
    if changes and any(output.glob("checkpoint-*/trainer_state.json")):
        raise ValueError(
            f"The run in `output` {str(output)!r} was begun with another recipe, so that it cannot go on with this "
            f"one: {'; '.join(changes)}. Give `--no-resume` (`resume=False`), which removes that run, or take another "
            "`output`."
        )


def recipe_changes(config: Any, output: Path) -> list[str]:
    """What a recipe changes in data, model or optimizer of the run in `output`, key by key; nothing where that run has
    kept no recipe."""
    path = output / RECIPE
    if not path.is_file() or not _is_ours(path):
        return []
    now = _binding(_plain(config))
    before = _binding(yaml.safe_load(path.read_text(encoding="utf-8")))
    # A run of another version of this package may have had other keys.
    return _differences({name: before.get(name, value) for name, value in now.items()}, now)


def _is_ours(path: Path) -> bool:
    return path.read_text(encoding="utf-8", errors="replace").startswith(HEADER)


def _plain(config: Any) -> dict[str, Any]:
    """A recipe as YAML reads it: lists for tuples, text for paths."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _binding(recipe: dict[str, Any]) -> dict[str, Any]:
    """What must stay while a run goes on."""
    trainer = {k: v for k, v in recipe.get("trainer", {}).items() if not k.startswith(MAY_CHANGE_IN_TRAINER)}
    return {name: value for name, value in recipe.items() if name not in MAY_CHANGE} | {"trainer": trainer}


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = {key: f"{name}.{key}" if name else key for key in (*before, *now)}
        return [entry for key, path in keys.items() for entry in _differences(before.get(key), now.get(key), path)]
    return [] if before == now else [f"`{name}` was {before!r} and is {now!r}"]


__all__ = ["check_recipe", "keep_recipe", "last_whole_checkpoint", "recipe_changes", "remove_run", "write_whole"]
