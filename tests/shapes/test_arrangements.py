"""Conversations about one scene, and how the pictures of open prompts are arranged."""

from collections import Counter

import pytest

from transformers_wallaroo.shapes import SIZES, make_sample
from transformers_wallaroo.shapes.asks import STEPS, Look
from transformers_wallaroo.shapes.language import LANGUAGES
from transformers_wallaroo.shapes.understanding import TURNS
from transformers_wallaroo.shapes.world import BACKGROUNDS, COLORS, SHAPES

ALL_SIZES = [*SIZES, (32, 32)]


def conversation(index, **options):
    return make_sample("understand", index, 71, kind="conversation", **options)


@pytest.mark.parametrize("language", LANGUAGES)
def test_conversations_ask_several_things_of_one_picture(language):
    for index in range(60):
        sample = conversation(index, language=language)
        roles = [message["role"] for message in sample["messages"]]
        questions = [message["content"] for message in sample["messages"][::2]]
        assert roles == ["user", "assistant"] * TURNS
        assert len(set(questions)) == TURNS and len(sample["images"]) == 1
        assert sample == conversation(index, language=language) | {"images": sample["images"]}
        assert not sample["meta"]["scene"].holds_out()


def test_answers_of_conversations_are_true():
    """Those in English whose question has one form each: numbers, presence, colours, descriptions."""
    checked = Counter()
    words = LANGUAGES["en"]
    numbers = {word: int(number) for number, word in words.words["number"].items()}
    looks = [Look(shape, color) for shape in (None, *SHAPES) for color in (None, *COLORS)]
    for index in range(250):
        sample = conversation(index, language="en")
        scene = sample["meta"]["scene"]
        turns = [message["content"] for message in sample["messages"]]
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            if question.startswith("how many "):
                name = question.removeprefix("how many ").split(" are ")[0].split(" do")[0]
                (look,) = [look for look in looks if words.name(look, many=True) == name]
                assert numbers[answer] == len(look.of(scene)), (question, answer, scene)
                checked["number"] += 1
            elif question.startswith("is there "):
                name = question.removeprefix("is there ").removesuffix("?").removesuffix(" in the picture")
                (look,) = [look for look in looks if words.one(look) == name]
                assert (answer == "yes") == bool(look.of(scene)), (question, answer, scene)
                checked["presence", answer] += 1
            elif question == "what color is the background?":
                assert answer == scene.background and answer in BACKGROUNDS
                checked["background"] += 1
            elif question.startswith("what color is the "):
                (thing,) = Look(question.removeprefix("what color is the ").removesuffix("?")).of(scene)
                assert answer == thing.color
                checked["color"] += 1
            elif question.startswith("where is "):
                (thing,) = [
                    thing
                    for thing in scene.things
                    if question[:-1] in ("where is the " + thing.shape, f"where is the {thing.color} {thing.shape}")
                ]
                assert answer == scene.place_of(thing)
                checked["place"] += 1
    assert min(checked[kind] for kind in ("number", "color", "place", "background")) > 5, checked
    assert min(checked["presence", "yes"], checked["presence", "no"]) > 5, checked


def test_conversations_have_no_held_out_form():
    with pytest.raises(ValueError, match=r"`kind` 'conversation' is for training.*`held_out=True`"):
        conversation(0, held_out=True)


def read_grid(text, code):
    """(row, column) -> (shape, colour) of a text that tells a picture cell by cell, its rows and columns, and its
    background."""
    language = LANGUAGES[code]
    names = {language.join(language.name(Look(shape, color))): (shape, color) for shape in SHAPES for color in COLORS}
    names[language.join(language.forms["empty"])] = None
    (background,) = [name for name in BACKGROUNDS if text.endswith(language.join(language.on("", name)))]
    text = text.removesuffix(language.join(language.on("", background)))
    rows = []
    for row in text.split(language.join(language.forms["row"]).strip()):
        rows.append([])
        row = row.strip()
        while row:
            (name,) = [name for name in names if row.startswith(name)]
            rows[-1].append(names[name])
            row = row.removeprefix(name).strip()
    cells = {(r, c): what for r, row in enumerate(rows) for c, what in enumerate(row) if what}
    return cells, (len(rows), *{len(row) for row in rows}), background


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", ["understand", "generate"])
def test_grids_tell_each_cell(task, language):
    numbers = Counter()
    for index in range(60):
        sample = make_sample(task, index, 72, kind="grid", language=language)
        scene = sample["meta"]["scene"]
        text = sample["prompt"] if task == "generate" else sample["meta"]["answer"]
        cells = {(thing.row, thing.column): (thing.shape, thing.color) for thing in scene.things}
        assert read_grid(text, language) == (cells, (scene.rows, scene.columns), scene.background), text
        assert not scene.holds_out()
        numbers[len(cells)] += 1
    assert max(numbers) > 8 and min(numbers) <= 2  # some are full, some nearly empty


@pytest.mark.parametrize("language", LANGUAGES)
def test_copies_have_their_source_as_target(language):
    samples = [make_sample("edit", index, 73, kind="copy", language=language) for index in range(60)]
    assert all(sample["meta"]["source"] == sample["meta"]["target"] for sample in samples)
    assert all(sample["image"].tobytes() == sample["source_image"].tobytes() for sample in samples)
    assert max(len(sample["meta"]["source"].things) for sample in samples) > 8
    assert len({sample["prompt"] for sample in samples}) > 3


@pytest.mark.parametrize(
    "task, kind", [("understand", "grid"), ("generate", "grid"), ("edit", "copy"), ("edit", "changes")]
)
def test_kinds_for_training_have_no_held_out_form(task, kind):
    with pytest.raises(ValueError, match=rf"`kind` '{kind}' is for training.*`held_out=True`"):
        make_sample(task, 0, 0, kind=kind, held_out=True)


@pytest.mark.parametrize("bucket", ALL_SIZES)
@pytest.mark.parametrize("kind", ["two_objects", "counting", "color_attribution"])
def test_open_prompts_have_their_things_side_by_side(kind, bucket):
    starts = set()
    for index in range(80):
        sample = make_sample("generate", index, 72, kind=kind, bucket=bucket, language="en")
        scene, ask = sample["meta"]["scene"], sample["meta"]["ask"]
        if ask.looks[0].place is not None:
            continue
        cells = [thing.row * scene.columns + thing.column for thing in scene.things]
        assert cells == list(range(cells[0], cells[0] + len(ask.looks)))
        assert cells[0] % scene.columns == 0 or cells[0] % scene.columns + len(cells) <= scene.columns
        # In the order in which they are named.
        assert [thing.shape for thing in scene.things] == [look.shape for look in ask.looks]
        starts.add(cells[0])
    assert len(starts) > 1 or bucket == (32, 32)


def test_relations_are_of_neighbors():
    for index in range(200):
        sample = make_sample("generate", index, 73, kind="position")
        ask, things = sample["meta"]["ask"], sample["meta"]["scene"].things
        if ask.relation is not None:
            first = next(thing for thing in things if thing.shape == ask.looks[0].shape)
            second = next(thing for thing in things if thing.shape == ask.looks[1].shape)
            assert (first.row - second.row, first.column - second.column) == STEPS[ask.relation]
