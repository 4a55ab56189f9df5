# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples: their form, their balance, their words, and what is held out; `test_texts.py` has what they say."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import transformers_wallaroo
from transformers_wallaroo.shapes import (
    COLORS,
    HELD_OUT,
    KINDS,
    LANGUAGES,
    SHAPES,
    SIZES,
    TASKS,
    Scene,
    ShapesDataset,
    corpus,
    make_sample,
    render,
    words,
)

EVERY_KIND = [(task, kind) for task in TASKS for kind in KINDS[task]]
CHINESE = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
COLOR, SHAPE = f"({'|'.join(COLORS)})", f"({'|'.join(SHAPES)})"
THING = rf"an? {COLOR} {SHAPE}"


def texts(sample) -> list[str]:
    return [sample["prompt"]] if "prompt" in sample else [turn["content"] for turn in sample["messages"]]


def scenes(sample) -> list[Scene]:
    return [value for value in sample["meta"].values() if isinstance(value, Scene)]


def triples(scene: Scene) -> set[tuple[str, str, str | None]]:
    return {(thing.shape, thing.color, scene.place_of(thing)) for thing in scene.things}


# ------------------------------------------------------------------ all tasks


@pytest.mark.parametrize(("task", "kind"), EVERY_KIND)
@pytest.mark.parametrize("language", LANGUAGES)
def test_samples_are_what_the_collator_takes(task, kind, language):
    for index in range(20):
        sample = make_sample(task, index, 1, kind=kind, language=language)
        assert (sample["task"], sample["kind"], sample["language"]) == (task, kind, language)
        assert 0 <= sample["seed"] < 2**63
        last = scenes(sample)[-1]
        if task == "understand":
            assert [turn["role"] for turn in sample["messages"]] == ["user", "assistant"]
            assert sample["meta"]["answer"] == sample["messages"][1]["content"]
            assert np.array_equal(sample["images"][0], render(last))
        else:
            assert (sample["height"], sample["width"]) == (last.height, last.width) in SIZES
            assert np.array_equal(sample["image"], render(last))
        if task == "edit":
            assert np.array_equal(sample["source_image"], render(sample["meta"]["source"]))


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_sample(task):
    first, again = ([make_sample(task, index, 3) for index in range(60)] for _ in range(2))
    assert [texts(sample) for sample in first] == [texts(sample) for sample in again]
    assert [sample["meta"] for sample in first] == [sample["meta"] for sample in again]
    assert [sample["seed"] for sample in first] == [sample["seed"] for sample in again]
    other_seed = [make_sample(task, index, 4)["meta"] for index in range(60)]
    assert sum(sample["meta"] == other for sample, other in zip(first, other_seed, strict=True)) < 5
    assert len({sample["seed"] for sample in first}) == 60


def test_same_sample_in_another_process():
    """With other hashes, and without torch: the package around is left out."""
    code = """
import json, sys, types
package = types.ModuleType("transformers_wallaroo")
package.__path__ = [sys.argv[1]]
sys.modules[package.__name__] = package
from transformers_wallaroo.shapes import make_sample
print(json.dumps([[make_sample("edit", index, 9)[key] for key in ("prompt", "seed")] for index in range(20)]))
assert "torch" not in sys.modules
"""
    folder = str(Path(transformers_wallaroo.__file__).parent)
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    command = [sys.executable, "-c", code, folder]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    here = [[make_sample("edit", index, 9)[key] for key in ("prompt", "seed")] for index in range(20)]
    assert json.loads(run.stdout) == here


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("held_out", [False, True])
def test_both_languages_tell_of_the_same_scene(task, held_out):
    for index in range(200):
        english, chinese = (make_sample(task, index, 2, language=code, held_out=held_out) for code in LANGUAGES)
        assert scenes(english) == scenes(chinese)
        assert english["kind"] == chinese["kind"] and english["seed"] == chinese["seed"]
        assert english["meta"].get("ask") == chinese["meta"].get("ask")
        if task == "edit":
            named = []
            for sample, code in ((english, "en"), (chinese, "zh")):
                tables = LANGUAGES[code].words
                pattern = "|".join(tables["color"].values()) + "|" + "|".join(tables["shape"].values())
                names = {word: name for table in ("shape", "color") for name, word in tables[table].items()}
                named.append(Counter(names[word] for word in re.findall(pattern, sample["prompt"])))
            for ours in named:
                ours.pop("any", None)
            # "color the star red" and "fill ... with color" have no such word twice, so the counts must agree.
            assert named[0] == named[1], (english["prompt"], chinese["prompt"])


@pytest.mark.parametrize("task", TASKS)
def test_kinds_languages_and_sizes_are_balanced(task):
    samples = [make_sample(task, index, 0) for index in range(1800)]
    counts = {
        "kind": (Counter(sample["kind"] for sample in samples), len(KINDS[task])),
        "language": (Counter(sample["language"] for sample in samples), 2),
        "size": (Counter((scenes(sample)[0].height, scenes(sample)[0].width) for sample in samples), 5),
    }
    for name, (found, expected) in counts.items():
        assert len(found) == expected, name
        assert min(found.values()) > 0.75 * 1800 / expected, (name, found)
        assert max(found.values()) < 1.25 * 1800 / expected, (name, found)


@pytest.mark.parametrize("task", TASKS)
def test_languages_do_not_mix(task):
    for index in range(400):
        sample = make_sample(task, index, 5)
        for text in texts(sample):
            if sample["language"] == "en":
                assert not CHINESE.search(text) and text.isascii()
            else:
                assert not re.search("[A-Za-z?,.!]", text) and CHINESE.search(text)
            assert text == text.strip() and "  " not in text and "{" not in text and " ," not in text


@pytest.mark.parametrize(("task", "kind"), EVERY_KIND)
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_kind_has_several_phrasings(task, kind, language):
    """Texts without the names of things are at least four."""
    names = {name for table in LANGUAGES[language].words.values() for name in table.values()} | {"a", "an"}
    pattern = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    found = set()
    for index in range(150):
        text = texts(make_sample(task, index, 6, kind=kind, language=language))[0]
        found.add(re.sub(rf"\b(?:{pattern})\b" if language == "en" else pattern, "_", text))
    assert len(found) >= 4, found


def test_every_word_is_known():
    """English texts split at spaces and Chinese texts from the left are words of the list."""
    chinese = sorted(words("zh"), key=len, reverse=True)
    assert not any(CHINESE.search(word) for word in words("en"))
    assert not any(re.search("[A-Za-z ]", word) for word in chinese)
    for task in TASKS:
        for index in range(300):
            sample = make_sample(task, index, 7)
            for text in texts(sample):
                if sample["language"] == "en":
                    assert set(re.findall(r"\w+|[^\w\s]", text)) <= set(words("en")), text
                else:
                    assert re.fullmatch("(?:" + "|".join(map(re.escape, chinese)) + ")+", text), text
    assert {text.strip() for text in corpus()} == set(words())
    assert len(words()) < 250


# ------------------------------------------------------------------ held out


@pytest.mark.parametrize("task", TASKS)
def test_training_never_holds_a_held_out_combination(task):
    for index in range(2500):
        sample = make_sample(task, index, 11)
        for scene in scenes(sample):
            assert not triples(scene) & HELD_OUT
        if task == "generate":
            assert not {(look.shape, look.color, look.place) for look in sample["meta"]["ask"].looks} & HELD_OUT


@pytest.mark.parametrize("task", TASKS)
def test_without_a_choice_both_come(task):
    held = [
        any(triples(scene) & HELD_OUT for scene in scenes(make_sample(task, i, 11, held_out=None))) for i in range(200)
    ]
    assert 20 < sum(held) < 180


def test_held_out_prompts_name_shape_color_and_place():
    found = set()
    for index in range(300):
        sample = make_sample("generate", index, 12, held_out=True, language="en")
        assert sample["kind"] in ("position", "color_attribution")
        looks = {
            (shape, color, place) for color, shape, place in re.findall(rf"{THING} in the (\w+ \w+)", sample["prompt"])
        }
        assert looks & HELD_OUT and looks == triples(sample["meta"]["scene"])
        found |= looks & HELD_OUT
    assert found == HELD_OUT


@pytest.mark.parametrize("kind", KINDS["edit"])
def test_held_out_edits_are_about_one(kind):
    for index in range(60):
        meta = make_sample("edit", index, 13, kind=kind, held_out=True)["meta"]
        source, target = meta["source"], meta["target"]
        changed = set(source.things) ^ set(target.things)
        if kind in ("background", "style", "extract"):
            changed = set(target.things)
        assert any((t.shape, t.color, source.place_of(t)) in HELD_OUT for t in changed) or (
            # The thing that a new one is put next to is spoken of as well.
            kind in ("add", "compose") and triples(source) & HELD_OUT
        )


@pytest.mark.parametrize("kind", KINDS["understand"])
def test_held_out_questions_are_about_one(kind):
    for index in range(60):
        sample = make_sample("understand", index, 14, kind=kind, held_out=True, language="en")
        scene, (question, answer) = sample["meta"]["scene"], texts(sample)
        assert triples(scene) & HELD_OUT
        named = set(re.findall(rf"{COLOR}|{SHAPE}", question))
        if "background" not in question and (kind in ("color", "position") or (kind, answer) == ("presence", "yes")):
            names = {name for pair in named for name in pair if name}
            assert any(names & {shape, color} for shape, color, place in triples(scene) & HELD_OUT)


# ------------------------------------------------------------------ data set and errors


def test_data_set():
    data = ShapesDataset("generate", 21, 5, kind="position", language="zh", bucket=(32, 64))
    assert len(data) == 5 and len(list(data)) == 5
    for index, sample in enumerate(data):
        assert (
            sample["prompt"]
            == make_sample("generate", index, 21, kind="position", language="zh", bucket=(32, 64))["prompt"]
        )
        assert (sample["height"], sample["width"], sample["kind"]) == (32, 64, "position")
    assert pickle.loads(pickle.dumps(data)) == data
    assert data[-1]["seed"] == data[4]["seed"]
    later = ShapesDataset("generate", 21, 2, start=3, kind="position", language="zh", bucket=(32, 64))
    assert later[0]["seed"] == data[3]["seed"]
    with pytest.raises(IndexError, match=r"`index` must be in \[-5, 5\), but got 5"):
        data[5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "draw"}, "`task` must be one of 'understand', 'generate', 'edit', but got 'draw'"),
        ({"kind": "add"}, "`kind` of 'generate' must be one of 'single_object', .*, but got 'add'"),
        ({"language": "fr"}, "`language` must be one of 'en', 'zh', but got 'fr'"),
        ({"bucket": (64, 65)}, r"`bucket` must be \(height, width\) in pixels, multiples of 16 .*, but got \(64, 65\)"),
        ({"bucket": (16, 64)}, r"`bucket` must be .* two rows and two columns .*, but got \(16, 64\)"),
        ({"bucket": (64, 16)}, r"`bucket` must be .* two rows and two columns .*, but got \(64, 16\)"),
        ({"bucket": (0, 64)}, r"`bucket` must be .* two rows and two columns .*, but got \(0, 64\)"),
        (
            {"kind": "colors", "held_out": True},
            "`kind` must be one of 'position', 'color_attribution' with `held_out=True`",
        ),
        ({"length": -1}, "`length` must be 0 or more, but got -1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShapesDataset(**{"task": "generate", "seed": 0, "length": 1, **arguments})
