# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""What a push to the Hub would do: its files, its card, and what is wrong with either. No network."""

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from PIL import Image

from ..generation_wallaroo import IMAGE_DEFAULTS
from .cards import (
    CHECKPOINT,
    LORA,
    card_names,
    fill_metadata,
    own_card,
    read_scores,
    render_card,
    scored_checkpoint,
    unpinned_calls,
)
from .hub_folder import ADAPTER_CONFIG, CARD, CONFIG, CheckpointFolder, read_folder
from .pictures import read_picture_info, write_png

# Stands in a card until the commit is known.
UNKNOWN = "0" * 40
SAMPLES = "samples"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
PROMPTS = {"draw": "a red kangaroo", "edit": "make it night"}


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Attributes:
        folder: what there is, and what of it is sent.
        repo_id: where it goes, `owner/name`.
        card_source: a file, or one of the package's cards.
        problems: sentences; with any of them nothing is sent.
        notes: what one might want to know before.
    """

    folder: CheckpointFolder
    repo_id: str
    card_source: str | Path
    scores: Sequence[Path] = ()
    base_model: str | None = None
    license: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def card(self, revision: str = UNKNOWN, base_revision: str = UNKNOWN) -> ModelCard:
        """The card, whose snippets name these commits."""
        results = [result for path in self.scores for result in read_scores(path)]
        if isinstance(self.card_source, Path):
            text = own_card(self.card_source, repo_id=self.repo_id, revision=revision)
            assert text is not None
        else:
            facts = _adapter_facts(self.folder) if self.folder.is_adapter else _checkpoint_facts(self.folder)
            text = render_card(
                self.card_source,
                repo_id=self.repo_id,
                name=self.repo_id.split("/")[1],
                revision=revision,
                base_model=self.base_model,
                base_revision=base_revision,
                results=results,
                **PROMPTS,
                **facts,
            )
        return fill_metadata(
            text,
            name=self.repo_id.split("/")[1],
            base_model=self.base_model,
            license=self.license,
            results=results,
            widget=_widget(self.folder),
            adapter=self.folder.is_adapter,
        )

    @cached_property
    def cleaned(self) -> dict[str, bytes]:
        """Pictures that say how they were made, without what they say of this machine's folders."""
        found = {}
        for name, info in _made_pictures(self.folder):
            told = _without_paths(info)
            if told != info:
                file = io.BytesIO()
                with Image.open(self.folder.path / name) as picture:
                    write_png(picture, file, told)
                found[name] = file.getvalue()
        return found

    def changed_files(self, base_revision: str) -> dict[str, bytes]:
        """Files that are sent otherwise than they lie in the folder: an adapter names its base by name and commit, and
        pictures name no paths."""
        if not self.folder.is_adapter:
            return self.cleaned
        config = self.folder.read_json(ADAPTER_CONFIG)
        config.update(base_model_name_or_path=self.base_model, revision=base_revision)
        return {**self.cleaned, ADAPTER_CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()}

    def __str__(self) -> str:
        """Every file with its size and what becomes of it, and the card."""
        width = max((len(file.name) for file in self.folder.files), default=0)
        lines = [f"{self.folder.path} -> {self.repo_id}"]
        for file in self.folder.files:
            why = f" ({file.why})" if file.why else " (without local paths)" if file.name in self.cleaned else ""
            lines.append(f"  {file.name:<{width}}  {readable_size(file.size):>9}  {file.fate}{why}")
        sent = self.folder.sent
        lines.append(f"{len(sent)} files, {readable_size(sum(file.size for file in sent))}, and the card:")
        lines.append("" if self.folder.problems else f"\n{self.card()}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "folder": str(self.folder.path),
            "repo_id": self.repo_id,
            "files": [asdict(file) for file in self.folder.files],
            "cleaned": sorted(self.cleaned),
            "card": None if self.folder.problems else str(self.card()),
            "problems": self.problems,
            "notes": self.notes,
        }


def readable_size(size: int) -> str:
    """Of bytes, in thousands as the Hub counts them."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


# ------------------------------------------------------------------ planning


def plan_push(
    folder: str | Path,
    repo_id: str,
    *,
    card: str | Path | None = None,
    scores: Sequence[str | Path] = (),
    base_model: str | None = None,
    license: str | None = None,
) -> PushPlan:
    """Looks at everything that a push needs, without the network.

    Args:
        folder: of a checkpoint (model and processor), or of a LoRA adapter.
        repo_id: `owner/name`.
        card: a Markdown file, or the name of one of the package's cards. By default the folder's own README.md, else
            `checkpoint` or `lora`.
        scores: files for the card's results, see [`read_scores`].
        base_model: what it was trained from, `owner/name`. An adapter must have one.
        license: as the Hub names it, such as `apache-2.0`. The card must have one.
    """
    _check_names(repo_id, base_model)
    found = read_folder(folder)
    source = _card_source(found, card)
    problems, notes = list(found.problems), list[str]()
    if found.is_adapter:
        base_model = base_model or _named_base(found)
        if base_model is None:
            own = found.read_json(ADAPTER_CONFIG).get("base_model_name_or_path")
            problems.append(
                f"The adapter says it belongs to {own!r}, which is no name on the Hub: nobody else could load it. Push "
                "that checkpoint first, and give its name as `base_model` (--base-model OWNER/NAME)."
            )
    plan = PushPlan(
        found,
        repo_id,
        source,
        [Path(path) for path in scores],
        base_model,
        license,
        problems,
        notes,
    )
    written = plan.card() if found.shapes or isinstance(source, Path) else None
    if written is not None:
        _judge_card(written, problems, notes)
    for path in plan.scores:
        name = scored_checkpoint(path)
        if name is not None and Path(name).resolve() != found.path.resolve():
            notes.append(f"{path} was measured on {name}.")
    return plan


def _check_names(repo_id: str, base_model: str | None) -> None:
    for argument, name in (("repo_id", repo_id), ("base_model", base_model)):
        if name is not None:
            if name.count("/") != 1:
                raise ValueError(f"`{argument}` must be OWNER/NAME, as on the Hub, but got {name!r}.")
            validate_repo_id(name)


def _card_source(folder: CheckpointFolder, card: str | Path | None) -> str | Path:
    if card is not None:
        if str(card) in card_names():
            return str(card)
        path = Path(card)
    else:
        path = folder.path / CARD
        if own_card(path, repo_id="", revision="") is None:
            return LORA if folder.is_adapter else CHECKPOINT
    if own_card(path, repo_id="", revision="") is None:
        raise ValueError(
            f"`card` must be one of {', '.join(card_names())}, or a Markdown file that somebody has written, but got "
            f"{str(card)!r}."
        )
    return path


def _named_base(folder: CheckpointFolder) -> str | None:
    """The name on the Hub of an adapter's base, if it is one."""
    name = folder.read_json(ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or name.count("/") != 1 or name.startswith((".", "/", "~")) or Path(name).exists():
        return None
    return name


def _judge_card(card: ModelCard, problems: list[str], notes: list[str]) -> None:
    if not card.data.get("license"):
        problems.append("The card has no licence: give one as `license` (--license apache-2.0, or other).")
    elif card.data.get("license") == "other" and not card.data.get("license_link"):
        notes.append("The card says `license: other` without a `license_name` and `license_link`.")
    unpinned = unpinned_calls(card.content)
    if unpinned:
        problems.append(
            f'The card runs remote code of no fixed commit: {unpinned[0]}. Write revision="{{{{ revision }}}}" into '
            "it, which the push fills in."
        )


def _checkpoint_facts(folder: CheckpointFolder) -> dict[str, Any]:
    config, processor = folder.read_json(CONFIG), folder.read_json("processor_config.json")
    images = processor.get("image_processor", {})
    own = folder.read_json("generation_config.json").get("image_defaults") or {}
    defaults = {**IMAGE_DEFAULTS, **own}
    return {
        "dtype": config.get("dtype") or "float32",
        "edits": config.get("row_ends", True),
        "parameters": folder.parameters,
        "sizes": [f"{height}x{width}" for _, height, width in images.get("buckets", [])],
        "cell": images.get("downsample_factor", 16),
        "image_defaults": ", ".join(
            f"{name.replace('_', ' ')} {defaults[name]}" for name in ("guidance_scale", "temperature", "top_k", "top_p")
        ),
    }


def _adapter_facts(folder: CheckpointFolder) -> dict[str, Any]:
    config = folder.read_json(ADAPTER_CONFIG)
    return {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "whole": config.get("modules_to_save") or [],
        "has_processor": folder.has("processor_config.json"),
    }


def _widget(folder: CheckpointFolder) -> list[dict[str, Any]]:
    """Examples out of the pictures in `samples/` that know how they were made."""
    pictures = [(name, info) for name, info in _made_pictures(folder) if name.startswith(f"{SAMPLES}/")]
    return [{"text": info["prompt"], "output": {"url": name}} for name, info in pictures if "prompt" in info]


def _made_pictures(folder: CheckpointFolder) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pictures that are sent and know how they were made, with what they say."""
    for file in folder.sent:
        if file.name.endswith(".png"):
            with contextlib.suppress(ValueError, OSError):
                yield file.name, read_picture_info(folder.path / file.name)


def _without_paths(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a picture says of its making, but for where things lay: its source and mask, those of its neighbours in the
    batch, and a checkpoint that was a folder, of which the last name stays."""
    told = dict(info)
    for name in ("source", "region_mask"):
        if isinstance(told.get(name), Mapping):
            told[name] = {key: value for key, value in told[name].items() if key != "path"}
    batch = told.get("batch")
    if isinstance(batch, Mapping) and isinstance(batch.get("others"), list):
        others = [_without_paths(other) if isinstance(other, Mapping) else other for other in batch["others"]]
        told["batch"] = {**batch, "others": others}
    checkpoint = told.get("checkpoint")
    if isinstance(checkpoint, str) and (not HUB_NAME.fullmatch(checkpoint) or Path(checkpoint).exists()):
        told["checkpoint"] = re.split(r"[/\\]", checkpoint.rstrip("/\\"))[-1]
    return told


__all__ = ["UNKNOWN", "PushPlan", "plan_push", "readable_size"]
