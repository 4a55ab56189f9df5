# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pushing to a Hub in this process: what arrives, what its card says, and that it loads from there as what it was."""

import copy
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

import transformers_wallaroo
from transformers_wallaroo.apps import hub as hub_module
from transformers_wallaroo.apps.hub import plan_push, push, push_to_hub
from transformers_wallaroo.apps.hub_plan import readable_size
from transformers_wallaroo.apps.pictures import picture_hash, read_picture_info, save_picture
from transformers_wallaroo.embedded import load_checkpoint

from fake_hub import READ_ONLY, hub_of_this_process
from killing import killed_at

ROOT = Path(__file__).parents[2]
LICENSE = {"license": "apache-2.0"}
PROMPT = {"text": "a red circle and a blue star", "task": "generate", "height": 32, "width": 64, "return_tensors": "pt"}

# In a process that has not this package: the card's own program, and the codes that each way of pushing gives.
SCRIPT = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers_wallaroo":
            raise ImportError("the package is not here")
sys.meta_path.insert(0, Blocked())
blocks, prompt = json.load(open("blocks.json")), json.load(open("prompt.json"))
codes = {}
for name, block in blocks.items():
    scope = {}
    exec(block, scope)
    model, processor = scope["model"], scope["processor"]
    assert type(processor).__module__.startswith("transformers_modules."), type(processor)
    codes[name] = model.generate(**processor(**prompt), seed=3, show_progress=False).tolist()
json.dump(codes, open("codes.json", "w"))
"""
LOAD = """
from transformers import AutoModel, AutoProcessor
path, revision = "{path}", "main"
model = AutoModel.from_pretrained(path, revision=revision, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=True)
"""
LOAD_ADAPTER = (
    LOAD
    + """
from peft import PeftModel
model = PeftModel.from_pretrained(model, "{adapter}")
"""
)


def codes_of(model, processor) -> list:
    return model.generate(**processor(**PROMPT), seed=3, show_progress=False).tolist()


def program_of(text: str) -> str:
    """The last Python block of a card."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)[-1]


@pytest.fixture(scope="module")
def loaded():
    return load_checkpoint()


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory) -> Path:
    """The embedded checkpoint with its code, in several shards, and a picture it has made."""
    path = tmp_path_factory.mktemp("saved") / "tiny"
    model, processor = loaded
    model.save_pretrained(path, max_shard_size="8MB")
    processor.save_pretrained(path)
    save_picture(Image.new("RGB", (64, 32)), path / "samples" / "one.png", {"prompt": "a red star"})
    (path / ".cache").mkdir()
    (path / ".cache" / "old.bin").write_text("hidden")
    return path


@pytest.fixture(scope="module")
def adapted(loaded):
    """The same model with a LoRA adapter that changes what it draws."""
    model, _ = load_checkpoint()
    torch.manual_seed(0)
    targets = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    tuned = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=64, target_modules=targets, init_lora_weights=False)
    ).eval()
    assert codes_of(tuned, loaded[1]) != codes_of(*loaded)
    return tuned


@pytest.fixture(scope="module")
def pushed(folder, loaded, adapted, tmp_path_factory):
    """Everything pushed in every way, then loaded in a process without the package: the Hub, what `push` returned, and
    the codes of each way."""
    work = tmp_path_factory.mktemp("hub")
    model, processor = loaded
    with hub_of_this_process(work) as server:
        results = {"card": push(plan_push(folder, "me/card", card="wallaroo-tiny"))}
        results["lora"] = push_to_hub(adapted, processor, "me/lora", base_model="me/card", private=True, **LICENSE)
        model.push_to_hub("me/methods")
        processor.push_to_hub("me/methods")
        adapted.push_to_hub("me/peft")
        blocks = {name: program_of(server.repositories[f"me/{name}"].files()["README.md"].decode()) for name in results}
        blocks["methods"] = LOAD.format(path="me/methods")
        blocks["peft"] = LOAD_ADAPTER.format(path="me/methods", adapter="me/peft")
        (work / "blocks.json").write_text(json.dumps(blocks))
        (work / "prompt.json").write_text(json.dumps(PROMPT))
        Image.open(ROOT / "examples" / "pictures" / "cat.png").resize((48, 64)).save(work / "cat.png")
        environment = {**os.environ, **server.environment(work / "home"), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        command = [sys.executable, "-c", SCRIPT]
        result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        yield server, results, json.loads((work / "codes.json").read_text()), work


# ------------------------------------------------------------------ what arrives, and what it gives


def test_what_is_pushed_gives_the_same_pictures(pushed, loaded, adapted):
    _, _, codes, work = pushed
    assert codes["card"] == codes["methods"] == codes_of(*loaded)
    assert codes["lora"] == codes["peft"] == codes_of(adapted, loaded[1])
    for name in ("drawn.png", "edited.png"):
        assert Image.open(work / name).size[0] > 0


def test_every_file_arrives_as_it_is_and_nothing_else(pushed, folder):
    server, *_ = pushed
    arrived = server.repositories["me/card"].files()
    sent = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(arrived) == set(sent) - {".cache/old.bin"} | {"README.md", ".gitattributes"}
    assert all(arrived[name] == sent[name].read_bytes() for name in arrived.keys() & sent.keys() - {"README.md"})
    assert len([name for name in arrived if name.endswith(".safetensors")]) > 2


def test_the_card_is_a_second_commit_that_names_the_first(pushed):
    server, results, *_ = pushed
    (_, _, files), (card, message, after) = server.repositories["me/card"].commits[1:]
    first = server.repositories["me/card"].commits[1][0]
    assert results["card"].revision == first and first[:8] in message and card != first
    assert "README.md" not in files and "modeling_wallaroo.py" in files
    text = after["README.md"].decode()
    assert f'path, revision = "me/card", "{first}"' in text
    data = ModelCard(text).data.to_dict()
    assert data["pipeline_tag"] == "any-to-any" and data["license"] == "apache-2.0"
    assert data["widget"] == [{"text": "a red star", "output": {"url": "samples/one.png"}}]
    assert results["card"].url == f"{server.url}/me/card"


def test_an_adapter_names_the_commit_of_its_base(pushed):
    server, results, *_ = pushed
    head = server.repositories["me/card"].branches["main"]
    files = server.repositories["me/lora"].files()
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/card", head)
    text = files["README.md"].decode()
    assert f'"me/card", "{head}"' in text and f'"me/lora", "{results["lora"].revision}"' in text
    data = ModelCard(text).data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["library_name"]) == ("me/card", "adapter", "peft")
    assert server.repositories["me/lora"].private and not server.repositories["me/card"].private
    assert "More Information Needed" not in text
    at = {oid: files for oid, _, files in server.repositories["me/lora"].commits}[results["lora"].revision]
    assert json.loads(at["adapter_config.json"])["revision"] == head


# ------------------------------------------------------------------ pushing again

# What no push of ours has made, or will.
MINE = {
    "notes.txt": b"my",
    "older/model.safetensors": b"my",
    "older/modeling_wallaroo.py": b"my",
    "adapter_extra.safetensors": b"my",
    "model-best.safetensors": b"my",
}


@pytest.fixture
def server(tmp_path):
    with hub_of_this_process(tmp_path) as hub:
        yield hub


@pytest.fixture
def small(converted, tmp_path) -> Path:
    """A small checkpoint that a test may spoil."""
    return Path(shutil.copytree(converted, tmp_path / "small"))


@pytest.fixture
def adapter_of(tmp_path):
    """A LoRA adapter in a folder, of a base on the Hub."""

    def save(base: str) -> Path:
        path = tmp_path / "adapter"
        path.mkdir()
        config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 1, "lora_alpha": 1}
        (path / "adapter_config.json").write_text(json.dumps(config))
        save_file({"lora_A.weight": torch.zeros(1, 2)}, path / "adapter_model.safetensors")
        return path

    return save


def test_pushing_the_same_again_changes_nothing(server, small):
    first = push(plan_push(small, "me/a", **LICENSE))
    commits = list(server.repositories["me/a"].commits)
    again = push(plan_push(small, "me/a", **LICENSE), update=True)
    assert again == first and server.repositories["me/a"].commits == commits
    push(plan_push(small, "me/a", license="mit"), update=True)
    [(_, message, files)] = server.repositories["me/a"].commits[3:]
    assert message.startswith("Write the card") and b"license: mit" in files["README.md"]


def test_what_an_older_push_left_is_gone(server, small):
    push(plan_push(small, "me/a", **LICENSE))
    head = server.repositories["me/a"].files()
    server.repositories["me/a"].commit(
        "main",
        "old",
        {
            **head,
            "model-00001-of-00002.safetensors": b"old",
            "model.safetensors.index.json": b"old",
            "old_wallaroo.py": b"old",
            **MINE,
        },
    )
    push(plan_push(small, "me/a", **LICENSE), update=True)
    files = server.repositories["me/a"].files()
    assert files.keys() - head.keys() == MINE.keys() and head.keys() <= files.keys()


def test_an_adapter_takes_nothing_of_a_checkpoint_away(server, small, adapter_of):
    push(plan_push(small, "me/a", **LICENSE))
    push(plan_push(small, "me/b", **LICENSE))
    shards = {"model-00001-of-00002.safetensors": b"one", "model-00002-of-00002.safetensors": b"two", **MINE}
    repository = server.repositories["me/b"]
    repository.commit("main", "shards", {**repository.files(), **shards})
    before = repository.files()
    push(plan_push(adapter_of("me/a"), "me/b", **LICENSE), update=True)
    after = repository.files()
    assert after.keys() - before.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert all(after[name] == content for name, content in before.items() if name != "README.md")


def test_pictures_go_without_paths(server, small):
    private = "/home/ann/secret"
    source, other = ({"path": f"{private}/{name}.png", "sha256": name * 8} for name in "ab")
    info = {
        "prompt": "make it red",
        "source": source,
        "region_mask": {"path": "mask.png", "sha256": "c"},
        "checkpoint": f"{private}/final/",
        "batch": {"index": 0, "size": 2, "others": [{"prompt": "x", "source": other}]},
    }
    picture = Image.effect_noise((20, 12), 80).convert("RGB")
    save_picture(picture, small / "samples" / "edit.png", info)
    save_picture(picture, small / "samples" / "draw.png", {"prompt": "a red star", "checkpoint": "me/tiny"})
    (small / "samples" / "broken.png").write_bytes(b"broken")
    plan = plan_push(small, "me/a", **LICENSE)
    assert re.search(r"samples/edit.png .* sent \(without local paths\)\n", str(plan))
    assert plan.as_json()["cleaned"] == ["samples/edit.png"]
    first = push(plan)
    files = server.repositories["me/a"].files()
    told = read_picture_info(io.BytesIO(files["samples/edit.png"]))
    assert told == {
        "prompt": "make it red",
        "source": {"sha256": "aaaaaaaa"},
        "region_mask": {"sha256": "c"},
        "checkpoint": "final",
        "batch": {"index": 0, "size": 2, "others": [{"prompt": "x", "source": {"sha256": "bbbbbbbb"}}]},
    }
    assert picture_hash(Image.open(io.BytesIO(files["samples/edit.png"]))) == picture_hash(picture)
    assert not [name for name, content in files.items() if b"secret" in content]
    assert files["samples/draw.png"] == (small / "samples" / "draw.png").read_bytes()
    assert read_picture_info(small / "samples" / "edit.png") == info, "the folder stays as it is"
    commits = list(server.repositories["me/a"].commits)
    assert push(plan_push(small, "me/a", **LICENSE), update=True) == first
    assert server.repositories["me/a"].commits == commits


def test_a_branch_of_its_own(server, small):
    push(plan_push(small, "me/a", **LICENSE), branch="next", message="Try it")
    repository = server.repositories["me/a"]
    assert set(repository.files("main")) == {".gitattributes"}
    assert "config.json" in repository.files("next") and [m for _, m, _ in repository.commits][1] == "Try it"


def test_a_push_that_was_stopped_goes_on(server, small):
    server.lose = "/commit/"
    with pytest.raises(OSError, match=r"me/a was not pushed whole: the Hub does not answer .* --update goes on"):
        push(plan_push(small, "me/a", **LICENSE))
    sent = [path for method, path in server.requests if method == "PUT"]
    assert len(sent) == 1, "the weights have arrived"
    push(plan_push(small, "me/a", **LICENSE))
    assert [path for method, path in server.requests if method == "PUT"] == sent, "and are not sent again"
    assert {"model.safetensors", "README.md"} <= set(server.repositories["me/a"].files())


@pytest.mark.parametrize(
    ("name", "call", "after", "made", "sent"),
    [
        ("preupload_lfs_files", 1, False, 0, 0),
        ("preupload_lfs_files", 1, True, 0, 1),  # the weights have arrived, and belong to no commit
        ("create_commit", 1, True, 1, 1),  # all but the card
        ("create_commit", 2, True, 2, 1),  # all, and nobody was told
    ],
)
def test_a_killed_push_leaves_whole_commits_and_the_next_one_ends_it(server, small, name, call, after, made, sent):
    push(plan_push(small, "me/a", **LICENSE))
    repository = server.repositories["me/a"]
    begun = list(repository.commits), dict(repository.branches), dict(server.objects)
    weights = {key: value + 1 for key, value in load_file(small / "model.safetensors").items()}
    save_file(weights, small / "model.safetensors", metadata={"format": "pt"})
    (small / "chat_template.jinja").write_text("another")
    whole = push(plan_push(small, "me/a", **LICENSE), update=True)
    commits = list(repository.commits)
    assert len(commits) == len(begun[0]) + 2
    repository.commits, repository.branches, server.objects = map(copy.copy, begun)
    server.requests.clear()
    killed_at(HfApi, name, call, lambda: push(plan_push(small, "me/a", **LICENSE), update=True), after=after)
    assert repository.commits == commits[: len(begun[0]) + made]
    assert sum(method == "PUT" for method, _ in server.requests) == sent
    assert push(plan_push(small, "me/a", **LICENSE), update=True) == whole and repository.commits == commits
    assert sum(method == "PUT" for method, _ in server.requests) == 1, "the weights are sent once"


def test_the_pipeline_of_large_uploads_ends_in_the_same(small, tmp_path):
    """The way that huggingface_hub takes where hf_xet is installed; its storage itself is not in the fake Hub."""
    pytest.importorskip("hf_xet", reason="without hf_xet there is no such way")
    with hub_of_this_process(tmp_path, xet=True, large=()) as server:
        result = push(plan_push(small, "me/a", **LICENSE))
        commits = server.repositories["me/a"].commits
        assert len(commits) == 3 and commits[1][0] == result.revision
        assert commits[2][2]["model.safetensors"] == (small / "model.safetensors").read_bytes()
        push(plan_push(small, "me/a", **LICENSE), update=True)
        assert len(server.repositories["me/a"].commits) == 3


# ------------------------------------------------------------------ what the Hub does not allow


def test_no_token(server, small, monkeypatch):
    monkeypatch.setattr(hub_module, "get_token", lambda: None)
    with pytest.raises(ValueError, match=r"There is no token for the Hub\. Log in by `hf auth login`, or set HF_TOKEN"):
        push(plan_push(small, "me/a", **LICENSE))
    assert server.requests == []


@pytest.mark.parametrize(("token", "message"), [("hf_wrong", "is not valid"), (READ_ONLY, "may not write there")])
def test_a_token_that_is_not_enough(server, small, token, message):
    with pytest.raises(OSError, match=f"me/a was not pushed: the token {message}"):
        push(plan_push(small, "me/a", **LICENSE), token=token)
    assert "me/a" not in server.repositories


def test_a_repository_that_is_there_is_not_written_unasked(server, small):
    repository = server.create("me/a")
    push(plan_push(small, "me/a", **LICENSE))
    commits = list(repository.commits)
    with pytest.raises(ValueError, match=r"me/a is on the Hub already, with \d+ files. `update` \(--update\) adds"):
        push(plan_push(small, "me/a", **LICENSE))
    with pytest.raises(ValueError, match="me/a is on the Hub already and is public"):
        push(plan_push(small, "me/a", **LICENSE), update=True, private=True)
    assert repository.commits == commits


def test_no_network(small, tmp_path, monkeypatch):
    from huggingface_hub import constants

    with hub_of_this_process(tmp_path):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(OSError, match="me/a was not pushed: HF_HUB_OFFLINE forbids the network"):
            push(plan_push(small, "me/a", **LICENSE))


def test_an_adapters_base_must_be_on_the_hub(server, adapted, loaded):
    with pytest.raises(ValueError, match=r"The adapter's base, me/nothing, is not on the Hub, .*--base-model"):
        push_to_hub(adapted, loaded[1], "me/lora", base_model="me/nothing", **LICENSE)
    with pytest.raises(ValueError, match=r"The adapter says it belongs to '.*tiny', which is no name on the Hub"):
        push_to_hub(adapted, loaded[1], "me/lora", **LICENSE)
    assert "me/lora" not in server.repositories


# ------------------------------------------------------------------ planning


def test_a_plan_shows_files_card_and_what_is_refused(small):
    (small / "optimizer.pt").write_bytes(b"1" * 2000)
    (small / ".secret").write_text("a")
    text = str(plan_push(small, "me/a"))
    assert re.search(r"optimizer.pt +2.0 kB  refused \(may hold pickled code\)", text)
    assert re.search(r"\.secret +1 B  left out \(hidden", text)
    assert re.search(r"model.safetensors +\d[\d.]* [kM]B  sent\n", text)
    (small / "optimizer.pt").unlink()
    plan = plan_push(small, "me/a", **LICENSE)
    assert plan.problems == [] and "pipeline_tag: any-to-any" in str(plan) and "0" * 40 in str(plan)
    assert [readable_size(size) for size in (999, 1000, 2_500_000, 17_200_000_000)] == [
        "999 B",
        "1.0 kB",
        "2.5 MB",
        "17.20 GB",
    ]


def test_bad_names(small):
    for name in ("mine", "a/b/c", "me/sp ace"):
        with pytest.raises(ValueError, match=r"`repo_id` must be OWNER/NAME|Repo id must"):
            plan_push(small, name)
    with pytest.raises(ValueError, match="`base_model` must be OWNER/NAME, as on the Hub, but got 'runs'"):
        plan_push(small, "me/a", base_model="runs")
    with pytest.raises(ValueError, match=r"`card` must be one of checkpoint, lora, .* but got 'mine'"):
        plan_push(small, "me/a", card="mine")


def test_cards_are_judged(small):
    [problem] = plan_push(small, "me/a").problems
    assert "The card has no licence" in problem
    with pytest.raises(ValueError, match=r"small cannot be pushed. The card has no licence"):
        push(plan_push(small, "me/a"))
    own = "---\nlicense: mit\n---\n# Mine\n```python\nAutoModel.from_pretrained('me/a', trust_remote_code=True)\n```\n"
    (small / "README.md").write_text(own)
    [problem] = plan_push(small, "me/a").problems
    assert "The card runs remote code of no fixed commit: AutoModel.from_pretrained" in problem
    assert 'revision="{{ revision }}"' in problem
    (small / "README.md").write_text(own.replace("trust_", 'revision="{{ revision }}", trust_'))
    plan = plan_push(small, "me/a")
    assert plan.problems == [] and f'revision="{"d" * 40}"' in str(plan.card("d" * 40))
    assert "license: other" in plan_push(small, "me/a", license="other").notes[0]


def test_scores_of_another_checkpoint_are_noted(small, tmp_path):
    path = tmp_path / "scores.json"
    report = {"overall": {"edit": 0.5}, "kinds": {}, "settings": {"checkpoint": str(small)}}
    path.write_text(json.dumps(report))
    plan = plan_push(small, "me/a", scores=[path], **LICENSE)
    assert plan.notes == [] and plan.card().data.eval_results[0].metric_value == 0.5
    path.write_text(json.dumps({**report, "settings": {"checkpoint": "another"}}))
    [note] = plan_push(small, "me/a", scores=[path], **LICENSE).notes
    assert note.endswith("scores.json was measured on another.")


def test_the_package_has_it_by_name():
    assert transformers_wallaroo.push_to_hub is push_to_hub
