# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Evaluation on the shapes world: which samples, how they are counted, and a model from end to end."""

import copy
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import transformers_wallaroo
from transformers_wallaroo.evaluation import ShapesReport, evaluate_shapes
from transformers_wallaroo.evaluation.report import PARTS, ScoredSample
from transformers_wallaroo.evaluation.shapes import (
    evaluate_responses,
    evaluation_samples,
    picture_sizes,
    respond_with,
    size_of,
    tasks_of,
    through_tokenizer,
)
from transformers_wallaroo.evaluation.tables import table
from transformers_wallaroo.shapes import KINDS, LANGUAGES, SIZES, TASKS, Scene, Thing, render


def oracle(samples, seed):  # noqa: ARG001
    """What is right."""
    return [s["meta"]["answer"] if s["task"] == "understand" else s["image"] for s in samples]


def blank(samples, seed):  # noqa: ARG001
    """Grey pictures and no answers."""
    return ["" if s["task"] == "understand" else Image.new("RGB", s["image"].size, (128,) * 3) for s in samples]


def english_alone(samples, seed):
    """Right in English, wrong in Chinese."""
    outputs = zip(samples, oracle(samples, seed), blank(samples, seed), strict=True)
    return [right if sample["language"] == "en" else wrong for sample, right, wrong in outputs]


def report_of(respond, **options):
    options = {"samples": 60, "held_out": 20, "show_progress": False, **options}
    return ShapesReport(evaluate_responses(respond, **options)).to_dict()


# ------------------------------------------------------------------ samples


@pytest.mark.parametrize("task", TASKS)
def test_each_kind_language_and_size_comes_as_often(task):
    each = len(KINDS[task]) * len(LANGUAGES) * len(SIZES)
    samples = evaluation_samples(task, each, 5)
    triples = Counter((sample["kind"], sample["language"], size_of(sample)) for sample in samples)
    assert len(triples) == each
    for count in (each // 2, len(KINDS[task]) + 1):
        few = evaluation_samples(task, count, 5)
        for counts in (
            Counter(sample["kind"] for sample in few),
            Counter(sample["language"] for sample in few),
            Counter(size_of(sample) for sample in few),
        ):
            assert max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize(
    ("task", "part"), [(task, part) for task in TASKS for part in ("seen", "held_out")] + [("generate", "seen_placed")]
)
def test_each_scene_is_asked_about_in_both_languages(task, part):
    shown = {}
    for sample in evaluation_samples(task, 41, 5, part=part):
        scenes = [meta for meta in sample["meta"].values() if isinstance(meta, Scene)]
        shown.setdefault(sample["seed"], {})[sample["language"]] = (sample["kind"], scenes)
    assert sorted(map(len, shown.values())) == [1, *[2] * 20]
    for both in shown.values():
        assert both["en"] == both.get("zh", both["en"])


def test_samples_of_a_size_stand_together():
    sizes = [size_of(sample) for sample in evaluation_samples("generate", 50, 5)]
    assert sizes == sorted(sizes)


@pytest.fixture
def squares(untrained_model):
    """The processor of an early stage."""
    processor = copy.deepcopy(untrained_model[1])
    processor.row_ends, processor.image_processor.buckets = False, [[1.0, 32, 32]]
    return processor


@pytest.mark.parametrize("part", PARTS)
def test_a_checkpoint_of_squares_is_asked_for_its_own(untrained_model, squares, part):
    assert picture_sizes(untrained_model[1]) == SIZES and tasks_of(untrained_model[1]) == TASKS
    assert picture_sizes(squares) == ((32, 32),) and tasks_of(squares) == ("understand", "generate")
    samples = evaluation_samples("generate", 60, 5, part=part, sizes=picture_sizes(squares))
    assert {size_of(sample) for sample in samples} == {(32, 32)}
    assert Counter(sample["language"] for sample in samples) == {"en": 30, "zh": 30}


def test_a_checkpoint_of_squares_is_not_asked_to_edit(untrained_model, squares):
    with pytest.raises(ValueError, match="`tasks` has 'edit', but the checkpoint makes squares only"):
        evaluate_shapes(untrained_model[0], squares, tasks=["edit"])


def test_sizes_are_for_pictures_alone():
    report = report_of(oracle, sizes=((48, 48),))
    assert set(report["buckets"]["generate"]) == set(report["buckets"]["edit"]) == {"48x48"}
    assert len(report["buckets"]["understand"]) == len(SIZES) and report["overall"] == dict.fromkeys(TASKS, 1.0)


@pytest.mark.parametrize("task", TASKS)
def test_parts_hold_what_they_say(task):
    for sample in evaluation_samples(task, 30, 6, part="seen"):
        assert not any(meta.holds_out() for meta in sample["meta"].values() if isinstance(meta, Scene))
    for sample in evaluation_samples(task, 30, 6, part="held_out"):
        assert any(meta.holds_out() for meta in sample["meta"].values() if isinstance(meta, Scene))


def test_seen_drawings_that_held_out_ones_are_compared_with_name_places():
    placed, held_out = (evaluation_samples("generate", 40, 6, part=part) for part in ("seen_placed", "held_out"))
    for samples in (placed, held_out):
        assert Counter(s["kind"] for s in samples) == {"position": 20, "color_attribution": 20}
        assert all(look.place for sample in samples for look in sample["meta"]["ask"].looks)
    assert not any(sample["meta"]["scene"].holds_out() for sample in placed)
    assert len({sample["prompt"] for sample in placed}) > 30


def test_the_seed_decides():
    first, again, other = ([s["prompt"] for s in evaluation_samples("edit", 20, seed)] for seed in (1, 1, 2))
    assert first == again != other


# ------------------------------------------------------------------ counting


def scored(task="generate", kind="counting", language="en", bucket="64x64", part="seen", correct=1, **options):
    if task != "understand":
        options.setdefault("size_exact", 1)
    return ScoredSample(task, kind, language, bucket, part, correct, **options)


def test_kinds_count_the_same_however_many_samples_they_have():
    samples = [scored(kind="colors", correct=c) for c in (1, 1, 1, 0)] + [scored(kind="position", correct=0)]
    report = ShapesReport(samples).to_dict()
    assert report["overall"] == {"generate": 0.375}
    assert report["standard_error"]["generate"] == pytest.approx(math.sqrt(0.75 * 0.25 / 4) / 2)
    assert report["kinds"]["generate"] == {
        "colors": {"score": 0.75, "standard_error": pytest.approx(0.2165, abs=1e-4), "samples": 4, "en": 0.75},
        "position": {"score": 0.0, "standard_error": 0.0, "samples": 1, "en": 0.0},
    }


def test_languages_and_sizes_are_told_apart():
    samples = [
        scored(language="en", bucket="32x64"),
        scored(language="en", bucket="64x32", correct=0, size_exact=0, reasons=("size",)),
        scored(language="zh", bucket="64x32", correct=0, reasons=("things", "number")),
        scored(language="zh", bucket="64x32", correct=0, reasons=("things",)),
    ]
    report = ShapesReport(samples).to_dict()
    assert {name: value["score"] for name, value in report["languages"]["generate"].items()} == {"en": 0.5, "zh": 0.0}
    assert {name: value["samples"] for name, value in report["buckets"]["generate"].items()} == {"32x64": 1, "64x32": 3}
    assert report["buckets"]["generate"]["32x64"]["score"] == 1.0
    assert report["size_exact"] == 0.75
    assert report["reasons"]["generate"] == {"things": 2, "size": 1, "number": 1}


def test_languages_are_compared_scene_by_scene():
    pairs = [(1, 1), (1, 0), (0, 0), (1, 0)]
    samples = [
        scored(kind="colors", language=language, correct=correct, scene=scene)
        for scene, pair in enumerate(pairs)
        for language, correct in zip(("en", "zh"), pair, strict=True)
    ]
    samples += [scored(kind="position", language=language, scene=9) for language in ("en", "zh")]
    samples += [scored(kind="position", language="zh", correct=0, scene=10), scored(kind="position", correct=0)]
    samples += [scored(task="edit", kind="add", language="zh", correct=0)]
    report = ShapesReport(samples).to_dict()
    # Of colours -1/2 with a spread of 1/2 over four scenes, of positions 0 over one; what has no partner is left out.
    assert report["language_difference"] == {
        "generate": {"difference": -0.25, "standard_error": pytest.approx(0.5 / math.sqrt(4) / 2)}
    }
    assert "Chinese less English, on the same scenes: generation -0.25 ± 0.12." in str(ShapesReport(samples))


def test_two_samples_of_a_scene_tell_no_more_than_one():
    once = [scored(correct=correct, scene=scene) for scene, correct in enumerate((1, 0, 1, 1))]
    twice = [*once, *(replace(sample, language="zh") for sample in once)]
    errors = [ShapesReport(samples).to_dict()["standard_error"]["generate"] for samples in (once, twice)]
    assert errors[0] == pytest.approx(math.sqrt(0.75 * 0.25 / 4)) and errors[1] == pytest.approx(errors[0])
    alone = [replace(sample, scene=None) for sample in twice]
    assert ShapesReport(alone).to_dict()["standard_error"]["generate"] == pytest.approx(errors[0] / math.sqrt(2))


def test_held_out_samples_are_apart():
    samples = [
        *(scored(kind="position", correct=c) for c in (1, 0)),
        *(scored(kind="position", part="held_out", correct=c) for c in (1, 0, 0, 0)),
        *(scored(task="edit", kind="add", correct=c) for c in (1, 1, 1, 0)),
        *(scored(task="edit", kind="add", part="held_out", correct=c) for c in (1, 1, 0, 0)),
        *(scored(part="seen_placed", kind="position", correct=c) for c in (1, 1, 1, 0)),
    ]
    report = ShapesReport(samples).to_dict()
    assert report["overall"] == {"generate": 0.5, "edit": 0.75}
    generate, edit = report["held_out"]["generate"], report["held_out"]["edit"]
    assert (generate["score"], generate["seen"]["score"], generate["ratio"]) == (0.25, 0.75, pytest.approx(1 / 3))
    assert (edit["score"], edit["seen"]["score"], edit["ratio"]) == (0.5, 0.75, pytest.approx(2 / 3))
    nothing = ShapesReport([replace(sample, correct=0) for sample in samples]).to_dict()
    assert nothing["held_out"]["edit"]["ratio"] is None


def test_preserved_is_of_edits_that_leave_something_alone():
    values = (1.0, 0.5, None)
    samples = [scored(task="edit", kind="add", preserved=value) for value in values]
    samples += [scored(task="edit", kind="add", part="held_out", preserved=0.0)]
    assert ShapesReport(samples).to_dict()["preserved"] == 0.75
    assert ShapesReport([scored(task="understand", kind="counting")]).to_dict()["preserved"] is None


# ------------------------------------------------------------------ right and wrong models


def test_the_oracle_is_right_and_a_blank_is_wrong():
    best, worst = report_of(oracle), report_of(blank)
    assert best["overall"] == dict.fromkeys(TASKS, 1.0) and worst["overall"] == dict.fromkeys(TASKS, 0.0)
    assert best["preserved"] == best["size_exact"] == worst["size_exact"] == 1.0 and worst["preserved"] == 0.0
    for task in TASKS:
        assert best["held_out"][task]["ratio"] == 1.0 and best["held_out"][task]["samples"] == 20
        assert set(best["kinds"][task]) == set(KINDS[task])
        assert set(best["buckets"][task]) == {f"{height}x{width}" for height, width in SIZES}
    assert worst["reasons"]["generate"]["odd cells"] == 60


def test_a_language_that_is_not_known_is_seen():
    report = report_of(english_alone)
    for task in TASKS:
        assert report["languages"][task]["en"]["score"] == 1.0 and report["languages"][task]["zh"]["score"] == 0.0
        assert report["overall"][task] == pytest.approx(0.5, abs=0.02)
        assert report["language_difference"][task] == {"difference": -1.0, "standard_error": 0.0}
        assert all(kind["en"] == 1.0 and kind["zh"] == 0.0 for kind in report["kinds"][task].values())


def test_a_picture_of_another_size_is_counted():
    turned = report_of(
        lambda samples, _: [s["image"].transpose(Image.Transpose.ROTATE_90) for s in samples], tasks=["edit"]
    )
    assert turned["size_exact"] == pytest.approx(0.2, abs=0.02), "only squares keep their size"


def test_each_picture_has_its_own_seed_whatever_the_batch():
    def seeds_of(batch_size):
        seeds = {}

        def respond(samples, seed):
            for index, sample in enumerate(samples):
                seeds[sample["prompt"], sample["seed"]] = seed + index
            return oracle(samples, seed)

        evaluate_responses(respond, tasks=["generate"], samples=20, seed=9, batch_size=batch_size, show_progress=False)
        return seeds

    one_by_one = seeds_of(1)
    assert one_by_one == seeds_of(7)
    assert len(one_by_one) == len(set(one_by_one.values())) == 20 + 10 + 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 17}, "`samples` must be at least 18, one for each of the 9 kinds of 'edit' .*, but got 17"),
        ({"samples": 11, "tasks": ["generate"]}, "`samples` must be at least 12, .* kinds of 'generate'"),
        ({"held_out": -1}, "`held_out` must be at least 0, but got -1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, but got 0"),
        (
            {"tasks": ["draw"]},
            r"`tasks` must be some of 'understand', 'generate', 'edit', 'choose', but got \['draw'\]",
        ),
        ({"tasks": []}, "`tasks` must be some of"),
    ],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_responses(oracle, **options)


# ------------------------------------------------------------------ tables


def test_tables():
    samples = [
        *(scored(kind="colors", language=language, correct=language == "en") for language in ("en", "zh")),
        scored(kind="position", part="held_out", correct=1),
    ]
    text = str(ShapesReport(samples, {"rendered": {"scenes": 3, "exact": 2 / 3}}))
    assert text.startswith("Generation: 0.50 ± 0.35\n")
    assert "| colors    |    1.00 |    0.00 | 0.50 ± 0.35 |        - |       2 |" in text
    assert "| all kinds |    1.00 |    0.00 | 0.50 ± 0.35 |     1.00 |       2 |" in text
    assert "Held-out combinations: 1.00 ± 0.00 (1 samples)" in text
    assert "| 64x64 | 0.50 ± 0.35 |" in text
    assert "The scorer reads 66.7% of 3 rendered scenes exactly." in text
    assert len({len(line) for line in text.splitlines() if line.startswith(("| colors", "| kind ", "| ---"))}) == 2


def test_a_table_is_even():
    assert table(("a", "bb"), [("ccc", "d")]) == "| a   | bb |\n| --- | -: |\n| ccc |  d |"


# ------------------------------------------------------------------ a model


def test_a_model_from_end_to_end(untrained_model, tmp_path):
    model, processor = untrained_model
    model.train()
    report = evaluate_shapes(
        model, processor, samples=18, held_out=2, seed=3, batch_size=9, show_progress=False, guidance_scale=1
    )
    assert model.training, "the mode is left as it was"
    model.eval()
    values = report.to_dict()
    assert all(value < 0.5 for value in values["overall"].values())
    assert Counter((s.task, s.part) for s in report.scored) == {
        **{(task, "seen"): 18 for task in TASKS},
        **{(task, "held_out"): 2 for task in TASKS},
        ("generate", "seen_placed"): 2,
    }
    assert values["size_exact"] == 1.0
    assert values["scorer"]["rendered"]["exact"] == 1.0 and values["scorer"]["tokenized"]["exact"] == 0.0
    assert values["settings"]["seed"] == 3 and values["settings"]["generation"]["guidance_scale"] == 1
    assert values["settings"]["generation"]["top_k"] == 1000
    assert values["settings"]["versions"]["transformers-wallaroo"] == transformers_wallaroo.__version__
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == values
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
    assert set(PARTS) == {sample.part for sample in report.scored}


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_gives_what_its_parts_give(untrained_model, task):
    respond = respond_with(*untrained_model)
    samples = evaluation_samples(task, 4, 11)
    together = respond(samples, 20)
    apart = [*respond(samples[:1], 20), *respond(samples[1:], 21)]
    if task == "understand":
        assert together == apart and all(isinstance(answer, str) and answer for answer in together)
        return
    for sample, one, other in zip(samples, together, apart, strict=True):
        assert one.size == sample["image"].size
        # The same codes; pictures that are decoded together may be rounded to the neighbouring byte here and there.
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    assert any(
        np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() > 9
        for a, b in zip(together, respond(samples, 40), strict=True)
    ), "another seed draws other pictures"


def test_pictures_go_through_the_tokenizer(untrained_model):
    picture = render(Scene(2, 4, "black", (Thing("star", "red", 0, 1),)))
    model, _ = untrained_model
    through = through_tokenizer(*untrained_model)(picture)
    assert through.size == picture.size and not np.array_equal(np.asarray(through), np.asarray(picture))
    assert model.model.vq_model.config.num_embeddings == 256
