# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The score of the choice of head: what it asks, how it counts, and what wallaroo-tiny gets."""

import itertools

import pytest

import transformers_wallaroo
from transformers_wallaroo import WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.evaluation import choices
from transformers_wallaroo.evaluation.choices import KINDS, evaluate_choices
from transformers_wallaroo.evaluation.report import ShapesReport
from transformers_wallaroo.evaluation.tables import choices_text


@pytest.fixture(scope="module")
def tiny():
    path = transformers_wallaroo.tiny_path()
    return WallarooForConditionalGeneration.from_pretrained(path).eval(), WallarooProcessor.from_pretrained(path)


def score(monkeypatch, choose, samples=120):
    """What a model scores that chooses by `choose(request, the right task)`."""
    known = list(itertools.islice(choices._turns(9), samples))
    turns = {id(request): turn.task for request, turn, *_ in known}
    monkeypatch.setattr(choices, "_turns", lambda seed: iter(known))  # noqa: ARG005
    monkeypatch.setattr(choices, "choose", lambda m, p, requests: [choose(r, turns[id(r)]) for r in requests])  # noqa: ARG005
    return evaluate_choices(None, None, samples=samples, seed=9, batch_size=7, show_progress=False)


def test_what_is_right_is_right(monkeypatch):
    report = score(monkeypatch, lambda _, task: task)
    assert report["score"] == 1 and report["samples"] == 120 and report["confused"] == {}
    assert set(report["kinds"]) == set(KINDS) and set(report["languages"]) == {"en", "zh"}
    assert sum(kind["samples"] for kind in report["kinds"].values()) == 120


def test_the_rule_that_edits_wherever_there_is_a_picture_is_not_enough(monkeypatch):
    """Each kind counts the same, and what is taken for what is told."""

    def rule(request, task):
        return task if task == "understand" else "edit" if request.pictures else "generate"

    report = score(monkeypatch, rule)
    wrong = {kind: own["score"] for kind, own in report["kinds"].items() if own["score"] < 1}
    assert wrong == {"draw_again": 0} and report["score"] == pytest.approx(5 / 6)
    assert report["confused"] == {"generate -> edit": report["kinds"]["draw_again"]["samples"]}
    assert ShapesReport([], choices=report).to_dict()["choices"] == report
    assert "| draw, again | 0.00" in choices_text(report) and "Wrong choices: generate -> edit" in choices_text(report)


def test_requests_are_what_came_before():
    for request, turn, kind, sample in itertools.islice(choices._turns(9), 60):
        assert request.messages[-1]["role"] == "user" and request.prompt
        assert kind.startswith({"understand": "ask", "generate": "draw", "edit": "edit"}[turn.task])
        assert (kind in ("draw_first",)) <= (request.pictures == [])
        assert len(request.pictures) <= len(sample["images"])


def test_wallaroo_tiny_chooses_right(tiny):
    report = evaluate_choices(*tiny, samples=120, seed=20260, batch_size=60, show_progress=False)
    assert report["score"] >= 0.98, report["confused"]


def test_batches_choose_as_one_by_one(tiny):
    requests = [request for request, *_ in itertools.islice(choices._turns(11), 12)]
    assert choices.choose(*tiny, requests) == [choices.choose(*tiny, [request])[0] for request in requests]
