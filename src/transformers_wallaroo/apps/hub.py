# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pushing a checkpoint or a LoRA adapter to the Hub, with a card whose snippets name the commit of the code they run.

A commit has no name before it is made, so there are two: the files first, then the card, which names the first.
"""

import contextlib
import glob
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from .hub_folder import ADAPTER_CONFIG, CARD
from .hub_plan import UNKNOWN, PushPlan, plan_push

# Files of an earlier push of a checkpoint, with other shards or older code. An adapter's have one name each, and beside
# them may lie the checkpoint that it belongs to.
STALE = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|\w*_wallaroo\w*\.py")


@dataclass(frozen=True)
class Pushed:
    """Where a push went: `revision` is the commit that the card's snippets name."""

    repo_id: str
    revision: str
    url: str


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
        there = [entry.rfilename for entry in before.siblings or []]
        revision = _send_files(api, plan, base_revision, branch, message, _stale(plan, there))
        if revision == before.sha and (pinned := _pinned_by_card(api, plan, revision, base_revision)):
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


def _open_repository(api: HfApi, repo_id: str, *, private: bool, branch: str | None, update: bool) -> ModelInfo:
    """Makes repository and branch where they are missing. Returns the branch as it is."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private or None)
    else:
        files = [entry.rfilename for entry in info.siblings or [] if entry.rfilename != ".gitattributes"]
        if files and not update:
            raise ValueError(
                f"{repo_id} is on the Hub already, with {len(files)} files. `update` (--update) adds a commit to it, "
                "and goes on with a push that was stopped."
            )
        if private and not info.private:
            raise ValueError(f"{repo_id} is on the Hub already and is public. Make it private there first.")
    if branch is not None:
        api.create_branch(repo_id, branch=branch, exist_ok=True)
    return api.model_info(repo_id, revision=branch)


def _stale(plan: PushPlan, there: Sequence[str]) -> list[str]:
    """Files on the Hub that this push puts others in the place of."""
    if plan.folder.is_adapter:
        return []
    return [name for name in there if STALE.fullmatch(name) and not plan.folder.has(name)]


def _send_files(
    api: HfApi, plan: PushPlan, base_revision: str, branch: str | None, message: str | None, stale: Sequence[str]
) -> str:
    """Everything but the card. Returns the commit that has all of it."""
    message = message or f"Upload {plan.repo_id.split('/')[1]}"
    changed = plan.changed_files(base_revision)
    commit = api.upload_folder(
        repo_id=plan.repo_id,
        folder_path=plan.folder.path,
        allow_patterns=[glob.escape(file.name) for file in plan.folder.sent if file.name not in changed],
        delete_patterns=[glob.escape(name) for name in stale] or None,
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
    pinned = next((commit for commit in named if str(plan.card(commit, base_revision)) == text), None)
    # Where a push was stopped before its card, the card is that of the push before, and names older files.
    return pinned if pinned is not None and _is_same(api, plan, pinned, head) else None


def _is_same(api: HfApi, plan: PushPlan, commit: str, head: str) -> bool:
    """Whether two commits have the same of everything that a plan sends but the card."""
    try:
        one, other = (
            {
                entry.path: entry.blob_id
                for entry in api.list_repo_tree(plan.repo_id, recursive=True, revision=revision)
                if isinstance(entry, RepoFile)
            }
            for revision in (commit, head)
        )
    except RevisionNotFoundError:
        return False
    names = [file.name for file in plan.folder.sent if file.name != CARD]
    return all(one.get(name) == other.get(name) for name in names)


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
            403: "the token may not write there. It needs the right to write, and its owner a place in an organisation",
        }
        raise OSError(f"{repo_id} was not pushed: {reasons.get(status, f'the Hub said {status}')} ({said}).") from error
    except HTTPError as error:
        raise OSError(
            f"{repo_id} was not pushed whole: the Hub does not answer ({error}). The same with --update goes on."
        ) from error


__all__ = ["PushPlan", "Pushed", "plan_push", "push", "push_to_hub"]
