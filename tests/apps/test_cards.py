# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what is in them, what is filled in, and that no snippet runs code of an unnamed commit."""

import json
from pathlib import Path

import jinja2
import pytest
from huggingface_hub import ModelCard

import transformers_wallaroo
from transformers_wallaroo.apps import cards

ROOT = Path(__file__).parents[2]
COMMIT, BASE_COMMIT = "c" * 40, "b" * 40
FACTS = {
    "repo_id": "me/mine",
    "name": "mine",
    "revision": COMMIT,
    "base_model": "them/base",
    "base_revision": BASE_COMMIT,
    "results": [],
    "draw": "a fox",
    "edit": "make it night",
    "dtype": "bfloat16",
    "edits": True,
    "parameters": {"language model": 1234567},
    "sizes": ["32x64", "64x64"],
    "cell": 16,
    "image_defaults": "guidance scale 3",
    "rank": 8,
    "alpha": 16,
    "whole": ["generation_head"],
    "has_processor": True,
}
REPORT = {
    "overall": {"understand": 0.912345, "generate": 0.98},
    "kinds": {"understand": {}},
    "held_out": {"generate": {"score": 0.75}},
    "settings": {"checkpoint": "runs/mine/final"},
}


@pytest.mark.parametrize("name", cards.card_names())
def test_cards_say_what_the_hub_asks_for_and_pin_their_code(name):
    text = cards.render_card(name, **FACTS)
    card = cards.fill_metadata(text, name="mine", license="apache-2.0", base_model="them/base")
    data = card.data.to_dict()
    assert data["pipeline_tag"] == "any-to-any" and data["language"] == ["en", "zh"]
    assert data["license"] == "apache-2.0" and data["base_model"] == "them/base" and "license_name" not in data
    assert data["library_name"] == ("peft" if name == "lora" else "transformers")
    assert {"wallaroo", "custom_code"} <= set(data["tags"]) and len(set(data["tags"])) == len(data["tags"])
    assert f'"me/mine", "{COMMIT}"' in text and "trust_remote_code=True" in text
    assert cards.unpinned_calls(text) == []
    assert "{{" not in text and "{%" not in text and "\n\n\n\n" not in text


def test_a_fact_that_a_card_asks_for_must_be_given():
    with pytest.raises(jinja2.UndefinedError, match="revision"):
        cards.render_card("checkpoint", **{name: value for name, value in FACTS.items() if name != "revision"})
    with pytest.raises(ValueError, match="one of checkpoint, lora, wallaroo-7b, wallaroo-tiny, but got 'mine'"):
        cards.render_card("mine")


def test_what_a_checkpoint_cannot_do_is_not_promised():
    text = cards.render_card("checkpoint", **{**FACTS, "edits": False, "base_model": None})
    assert 'task="edit"' not in text and "edits" not in text and "trained from" not in text
    text = cards.render_card("lora", **{**FACTS, "has_processor": False, "whole": []})
    assert "AutoProcessor.from_pretrained(base, revision=base_revision" in text and "whole" not in text


def test_the_card_in_the_package_is_the_template_without_a_hub():
    text = cards.package_card()
    assert (transformers_wallaroo.tiny_path() / "README.md").read_text(encoding="utf-8") == text
    assert "From the Hub" not in text and cards.unpinned_calls(text) == []


def test_cards_come_with_an_installed_package():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    package = Path(transformers_wallaroo.__file__).parent
    for path in cards.FOLDER.rglob("*.md"):
        assert f'"{path.parent.relative_to(package).as_posix()}/*.md"' in lines


# ------------------------------------------------------------------ results


def test_a_report_of_the_shapes_world_becomes_results(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(REPORT))
    results = cards.read_scores(path)
    found = [(entry.task_type, entry.dataset_split, entry.metric_value) for entry in results]
    assert found == [
        ("visual-question-answering", "seen", 0.9123),
        ("text-to-image", "seen", 0.98),
        ("text-to-image", "held out", 0.75),
    ]
    assert cards.scored_checkpoint(path) == "runs/mine/final"
    text = cards.render_card("checkpoint", **{**FACTS, "results": results})
    assert "| drawing | Shapes world (`wallaroo eval shapes`), held out | share that is right | 0.75 |" in text
    card = cards.fill_metadata(text, name="mine", license="mit", results=results)
    again = ModelCard(str(card)).data
    assert again.model_name == "mine"
    assert sorted(entry.metric_value for entry in again.eval_results) == [0.75, 0.9123, 0.98]


def test_results_of_other_benchmarks_are_named_field_by_field(tmp_path):
    path = tmp_path / "run.json"
    entry = {
        "task_type": "text-to-image",
        "dataset_type": "geneval",
        "dataset_name": "GenEval",
        "metric_type": "geneval",
        "metric_value": 0.5,
    }
    path.write_text(json.dumps({"results": [entry]}))
    [result] = cards.read_scores(path)
    assert (result.dataset_name, result.metric_value) == ("GenEval", 0.5)
    path.write_text(json.dumps({"results": [{**entry, "score": 1}]}))
    with pytest.raises(ValueError, match=r"must have task_type, dataset_type, .* but one is .*'score'"):
        cards.read_scores(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "which is not there"),
        ("{", "must be JSON files, but"),
        ("[1]", "is neither"),
        ('{"overall": 1}', "is neither"),
    ],
)
def test_other_files_are_no_scores(tmp_path, content, message):
    path = tmp_path / "scores.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        cards.read_scores(path)


# ------------------------------------------------------------------ cards of others


def test_an_own_card_is_kept_but_for_its_two_places(tmp_path):
    path = tmp_path / "README.md"
    path.write_text('# Mine {{ other }}\n"{{ repo_id }}" "{{ revision }}"\n')
    assert cards.own_card(path, repo_id="me/mine", revision=COMMIT) == f'# Mine {{{{ other }}}}\n"me/mine" "{COMMIT}"\n'
    path.write_text("# Model Card\n[More Information Needed]\n")
    assert cards.own_card(path, repo_id="", revision="") is None
    assert cards.own_card(tmp_path / "none.md", repo_id="", revision="") is None


def test_what_an_own_card_says_of_itself_stays():
    card = cards.fill_metadata("---\nlanguage: en\nlicense: mit\ntags: [a]\n---\n# Mine\n", name="mine", adapter=True)
    data = card.data.to_dict()
    assert (data["language"], data["license"], data["library_name"]) == ("en", "mit", "peft")
    assert data["tags"] == ["a", "wallaroo", "custom_code"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("AutoModel.from_pretrained(path, trust_remote_code=True)", 1),
        ("AutoModel.from_pretrained(path, revision=revision, trust_remote_code=True)", 0),
        ("AutoModel.from_pretrained(path, **options, trust_remote_code=True)", 0),
        ("f(AutoModel.from_pretrained(\n    path,\n    trust_remote_code=True,\n), revision=1)", 1),
        ("m = load(path, trust_remote_code=True) ...", 1),
        ("m = load(path, trust_remote_code=True, revision='a') ...", 0),
        ("AutoModel.from_pretrained(path)", 0),
    ],
)
def test_calls_without_a_revision_are_found(code, found):
    assert len(cards.unpinned_calls(f"Text\n\n```python\n{code}\n```\n")) == found
    assert cards.unpinned_calls(f"```sh\n{code}\n```\n") == []
