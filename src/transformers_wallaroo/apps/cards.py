# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Model cards: templates in the package, filled in with what a checkpoint is and what it scores."""

import ast
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCard

FOLDER = Path(__file__).parent.parent / "model_cards"
CHECKPOINT, LORA = "checkpoint", "lora"
PIPELINE_TAG = "any-to-any"
# What the Hub calls the three tasks, and what we do.
HUB_TASKS = {
    "understand": ("visual-question-answering", "understanding"),
    "generate": ("text-to-image", "drawing"),
    "edit": ("image-to-image", "editing"),
}
SHAPES = ("shapes-world", "Shapes world (`wallaroo eval shapes`)")
# Sentences of the cards that libraries write of themselves, which say nothing of a checkpoint.
WRITTEN_BY_A_LIBRARY = ("[More Information Needed]", "This model card has been automatically generated")


def card_names() -> list[str]:
    """The cards that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def render_card(card: str, /, **facts: Any) -> str:
    """The text of one of the package's cards. A fact that the card asks for and that is not given is an error."""
    if card not in card_names():
        raise ValueError(f"`card` must be a file or one of {', '.join(card_names())}, but got {card!r}.")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return environment.get_template(f"{card}.md").render(facts)


def package_card(name: str = "wallaroo-tiny") -> str:
    """A card as it lies beside a checkpoint inside the package, which has no name on the Hub."""
    return render_card(name, repo_id=None, results=[])


def own_card(path: Path, *, repo_id: str, revision: str) -> str | None:
    """A README of the checkpoint's author, with `{{ repo_id }}` and `{{ revision }}` in it filled in and nothing else
    changed; `None` where there is none, or one that a library wrote."""
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    if any(sentence in text for sentence in WRITTEN_BY_A_LIBRARY):
        return None
    return text.replace("{{ repo_id }}", repo_id).replace("{{ revision }}", revision)


def fill_metadata(
    text: str,
    *,
    name: str,
    base_model: str | None = None,
    license: str | None = None,
    results: Sequence[EvalResult] = (),
    widget: Sequence[Mapping[str, Any]] = (),
    adapter: bool = False,
) -> ModelCard:
    """A card whose metadata say what the Hub asks for; what the text says itself stays, but for what is given here."""
    card = ModelCard(text)
    data: Any = card.data  # a `ModelCardData`, declared as its parent
    data.language = data.language or ["en", "zh"]
    data.pipeline_tag = data.pipeline_tag or PIPELINE_TAG
    data.library_name = data.library_name or ("peft" if adapter else "transformers")
    tags = list(data.tags or [])
    data.tags = tags + [tag for tag in ("wallaroo", "custom_code") if tag not in tags]
    if license is not None:
        data.license = license
        data.license_name = data.license_link = None
    if base_model is not None:
        data.base_model = base_model
        data["base_model_relation"] = "adapter" if adapter else "finetune"
    if results:
        data.model_name, data.eval_results = name, [*(data.eval_results or []), *results]
    if widget:
        data["widget"] = list(widget)
    return card


# ------------------------------------------------------------------ scores


def read_scores(path: str | Path) -> list[EvalResult]:
    """Results for a card, out of a JSON file.

    It is the report of `wallaroo eval shapes --json`, or an object whose `results` is a list of objects with the fields
    of huggingface_hub's `EvalResult`.
    """
    path = Path(path)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"`scores` names {path}, which is not there.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`scores` must be JSON files, but {path} is none: {error}.") from error
    if isinstance(report, dict) and isinstance(report.get("overall"), dict) and "kinds" in report:
        return list(_shapes_results(report))
    if isinstance(report, dict) and isinstance(report.get("results"), list):
        return [_result(entry, path) for entry in report["results"]]
    raise ValueError(
        f"`scores` must be reports of `wallaroo eval shapes --json`, or have a list `results` of objects with "
        f"{', '.join(_fields(required=True))}, but {path} is neither."
    )


def scored_checkpoint(path: str | Path) -> str | None:
    """What a report says it was measured on; `None` where it does not say."""
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    settings = report.get("settings")
    name = settings.get("checkpoint") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def _shapes_results(report: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Each task's score, and that on combinations that training never shows."""
    for task, score in report["overall"].items():
        held_out = report.get("held_out", {}).get(task)
        for split, value in (("seen", score), ("held out", held_out and held_out["score"])):
            if value is not None:
                hub_task, our_task = HUB_TASKS[task]
                yield EvalResult(
                    task_type=hub_task,
                    task_name=our_task,
                    dataset_type=SHAPES[0],
                    dataset_name=SHAPES[1],
                    dataset_split=split,
                    metric_type="accuracy",
                    metric_name="share that is right",
                    metric_value=round(float(value), 4),
                )


def _fields(*, required: bool = False) -> list[str]:
    entries = dataclasses.fields(EvalResult)
    return [entry.name for entry in entries if not required or entry.default is dataclasses.MISSING]


def _result(entry: Any, path: Path) -> EvalResult:
    if not isinstance(entry, dict) or set(_fields(required=True)) - set(entry) or set(entry) - set(_fields()):
        raise ValueError(
            f"Each of the `results` in {path} must have {', '.join(_fields(required=True))}, and may have the other "
            f"fields of huggingface_hub's `EvalResult`, but one is {entry!r}."
        )
    return EvalResult(**entry)


# ------------------------------------------------------------------ pinning


def unpinned_calls(text: str) -> list[str]:
    """Calls in the Python blocks of a card that trust remote code without a `revision`."""
    found = []
    for block in re.findall(r"^```(?:python|py)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        try:
            tree = ast.parse(block)
        except SyntaxError:
            # Not a program, such as a line with dots in it: judged line by line.
            lines = [line.strip() for line in block.splitlines() if "trust_remote_code=True" in line]
            found += [line for line in lines if "revision=" not in line]
            continue
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        for call in calls:
            given = {keyword.arg for keyword in call.keywords}
            if "trust_remote_code" in given and not given & {"revision", "code_revision", None}:
                found.append(ast.unparse(call))
    return found


__all__ = [
    "CHECKPOINT",
    "LORA",
    "card_names",
    "fill_metadata",
    "own_card",
    "package_card",
    "read_scores",
    "render_card",
    "scored_checkpoint",
    "unpinned_calls",
]
