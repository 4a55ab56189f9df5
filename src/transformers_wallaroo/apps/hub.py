# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pushing a checkpoint or a LoRA adapter to the Hub, with a card whose snippets name the commit of the code they run.

A commit has no name before it is made, so there are two: the files first, then the card, which names the first.
"""

import contextlib
import glob
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

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
from .pictures import read_picture_info

# Stands in a card until the commit is known.
UNKNOWN = "0" * 40
# Of an earlier push with other shards or older code; what is sent again is not deleted.
STALE = ["*.safetensors", "*.safetensors.index.json", "*_wallaroo*.py"]
SAMPLES = "samples"
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

    def changed_files(self, base_revision: str) -> dict[str, bytes]:
        """Files that are sent otherwise than they lie in the folder: an adapter names its base by name and commit."""
        if not self.folder.is_adapter:
            return {}
        config = self.folder.read_json(ADAPTER_CONFIG)
        config.update(base_model_name_or_path=self.base_model, revision=base_revision)
        return {ADAPTER_CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()}


    def __str__(self) -> str:
        """Every file with its size and what becomes of it, and the card."""
        width = max((len(file.name) for file in self.folder.files), default=0)
        lines = [f"{self.folder.path} -> {self.repo_id}"]
        for file in self.folder.files:
            why = f" ({file.why})" if file.why else ""
            lines.append(f"  {file.name:<{width}}  {readable_size(file.size):>9}  {file.fate}{why}")
        sent = self.folder.sent
        lines.append(f"{len(sent)} files, {readable_size(sum(file.size for file in sent))}, and the card:")
        lines.append("" if self.folder.problems else f"\n{self.card()}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Pushed:
    """Where a push went: `revision` is the commit that the card's snippets name."""

    repo_id: str
    revision: str
    url: str


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
    problems, notes = list(found.problems), []
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
    if not card.data.license:
        problems.append("The card has no licence: give one as `license` (--license apache-2.0, or other).")
    elif card.data.license == "other" and not card.data.license_link:
        notes.append("The card says `license: other` without a `license_name` and `license_link`.")
    unpinned = unpinned_calls(card.content)
    if unpinned:
        problems.append(
            f"The card runs remote code of no fixed commit: {unpinned[0]}. Write revision=\"{{{{ revision }}}}\" into "
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
    examples = []
    for file in folder.sent:
        if file.name.startswith(f"{SAMPLES}/") and file.name.endswith(".png"):
            with contextlib.suppress(ValueError):
                prompt = read_picture_info(folder.path / file.name)["prompt"]
                examples.append({"text": prompt, "output": {"url": file.name}})
    return examples


# ------------------------------------------------------------------ pushing


def push(
    plan: PushPlan,
    *,
    private: bool = False,
    branch: str | None = None,
    message: str | None = None,
    update: bool = False,
    token: str | None = None,
) -> Pushed:
    """Sends what a plan says. Where it was stopped, the same call with `update` goes on: what has arrived stays.

    Args:
        private: makes a new repository private.
        branch: by default the main one. It is made where it is not there.
        message: of the first commit.
        update: adds a commit to a repository that has files already.
        token: by default the one of `hf auth login`, or of `HF_TOKEN`.
    """
    if plan.problems:
        raise ValueError(f"{plan.folder.path} cannot be pushed. {' '.join(plan.problems)}")
    if not (token or get_token()):
        raise ValueError("There is no token for the Hub. Log in by `hf auth login`, or set HF_TOKEN.")
    api = HfApi(token=token)
    with _in_sentences(plan.repo_id):
        base_revision = _base_revision(api, plan) if plan.folder.is_adapter else UNKNOWN
        before = _open_repository(api, plan.repo_id, private=private, branch=branch, update=update)
        revision = _send_files(api, plan, base_revision, branch, message)
        if revision == before and (pinned := _pinned_by_card(api, plan, before, base_revision)):
            revision = pinned
        else:
            card = plan.card(revision, base_revision)
            api.create_commit(
                plan.repo_id,
                [CommitOperationAdd(CARD, str(card).encode())],
                commit_message=f"Write the card of {revision[:8]}",
                revision=branch,
            )
    return Pushed(plan.repo_id, revision, f"{api.endpoint}/{plan.repo_id}")


def push_to_hub(
    model: Any,
    processor: Any,
    repo_id: str,
    *,
    private: bool = False,
    branch: str | None = None,
    message: str | None = None,
    update: bool = False,
    token: str | None = None,
    **options: Any,
) -> Pushed:
    """Pushes a model, or a peft model's adapter, with its processor and a card.

    Arguments are those of [`push`]; `options` those of [`plan_push`], such as `license` and `scores`.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        plan = plan_push(folder, repo_id, **options)
        return push(plan, private=private, branch=branch, message=message, update=update, token=token)


def _base_revision(api: HfApi, plan: PushPlan) -> str:
    """The commit of an adapter's base: the one it was trained on, where it says so, else today's."""
    assert plan.base_model is not None
    wanted = plan.folder.read_json(ADAPTER_CONFIG).get("revision")
    try:
        return api.model_info(plan.base_model, revision=wanted).sha or UNKNOWN
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at {wanted}" if wanted else ""
        raise ValueError(
            f"The adapter's base, {plan.base_model}{at}, is not on the Hub, or your token may not see it. Push it "
            "first, or give its name as `base_model` (--base-model OWNER/NAME)."
        ) from error


def _open_repository(api: HfApi, repo_id: str, *, private: bool, branch: str | None, update: bool) -> str | None:
    """Makes repository and branch where they are missing. Returns the last commit of the branch."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private or None)
    else:
        files = [entry.rfilename for entry in info.siblings or [] if entry.rfilename != ".gitattributes"]
        if files and not update:
            raise ValueError(
                f"{repo_id} is on the Hub already, with {len(files)} files. `update` (--update) adds a commit to it; it "
                "also goes on with a push that was stopped."
            )
        if private and not info.private:
            raise ValueError(f"{repo_id} is on the Hub already and is public. Make it private there first.")
    if branch is not None:
        api.create_branch(repo_id, branch=branch, exist_ok=True)
    return api.model_info(repo_id, revision=branch).sha


def _send_files(api: HfApi, plan: PushPlan, base_revision: str, branch: str | None, message: str | None) -> str:
    """Everything but the card. Returns the commit that has all of it."""
    message = message or f"Upload {plan.repo_id.split('/')[1]}"
    changed = plan.changed_files(base_revision)
    commit = api.upload_folder(
        repo_id=plan.repo_id,
        folder_path=plan.folder.path,
        allow_patterns=[glob.escape(file.name) for file in plan.folder.sent if file.name not in changed],
        delete_patterns=STALE,
        commit_message=message,
        revision=branch,
    )
    if changed:
        operations = [CommitOperationAdd(name, content) for name, content in changed.items()]
        commit = api.create_commit(plan.repo_id, operations, commit_message=message, revision=branch)
    return commit.oid


def _pinned_by_card(api: HfApi, plan: PushPlan, head: str, base_revision: str) -> str | None:
    """The commit that the card on the Hub names, where the rest of that card is what would be written again."""
    try:
        path = hf_hub_download(plan.repo_id, CARD, revision=head, token=api.token)
    except EntryNotFoundError:
        return None
    text = Path(path).read_text(encoding="utf-8")
    named = dict.fromkeys(re.findall(r"\b[0-9a-f]{40}\b", text))
    return next((commit for commit in named if str(plan.card(commit, base_revision)) == text), None)


@contextlib.contextmanager
def _in_sentences(repo_id: str) -> Iterator[None]:
    """Says in a sentence what the Hub, or the way to it, did not allow."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise OSError(f"{repo_id} was not pushed: HF_HUB_OFFLINE forbids the network. Unset it.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or str(error).splitlines()[0]
        reasons = {
            401: "the token is not valid. Log in anew by `hf auth login`",
            403: "the token may not write there. It needs the right to write, and its owner a place in that organisation",
        }
        raise OSError(f"{repo_id} was not pushed: {reasons.get(status, f'the Hub said {status}')} ({said}).") from error
    except HTTPError as error:
        raise OSError(
            f"{repo_id} was not pushed whole: the Hub does not answer ({error}). The same command with --update goes on."
        ) from error


__all__ = ["PushPlan", "Pushed", "plan_push", "push", "push_to_hub"]
