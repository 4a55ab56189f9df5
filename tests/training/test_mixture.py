# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Data sets of a recipe: their ratio and order, and the layouts that samples are read from."""

import json
from collections import Counter

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from transformers_wallaroo.shapes import ShapesDataset
from transformers_wallaroo.training.data.drops import DroppedSample
from transformers_wallaroo.training.mixture import LengthGroupedSteps, MixtureDataset, PaddedDataset, mix, spread
from transformers_wallaroo.training.run import mixture
from transformers_wallaroo.training.sources import FolderDataset, JsonLinesDataset, open_source

from small import collator_of

RATIO = {"generate": 4, "understand": 1, "edit": 2}


def source(name, size):
    return [{"task": name, "number": number} for number in range(size)]


def dataset(length=700, seed=0, sizes=(40, 7, 33), **options):
    sources = {name: source(name, size) for name, size in zip(RATIO, sizes, strict=True)}
    return MixtureDataset(sources, RATIO, length, seed=seed, **options)


def names(samples):
    return [(sample["task"], sample["number"]) for sample in samples]


def test_every_turn_has_the_ratio():
    samples = list(dataset())
    assert len(samples) == 700
    for start in range(0, 700, 7):
        assert Counter(sample["task"] for sample in samples[start : start + 7]) == RATIO


def test_turns_are_spread():
    assert spread({"generate": 4, "understand": 1, "edit": 2}) == [
        "generate",
        "edit",
        "generate",
        "understand",
        "generate",
        "edit",
        "generate",
    ]
    assert spread({"a": 3}) == ["a", "a", "a"]


def test_each_source_is_seen_whole_before_it_comes_again_in_another_order():
    samples = names(dataset())
    for name, size in (("generate", 40), ("understand", 7), ("edit", 33)):
        numbers = [number for task, number in samples if task == name]
        epochs = [numbers[start : start + size] for start in range(0, len(numbers) - size + 1, size)]
        assert len(epochs) >= 6
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_a_position_is_the_same_sample_wherever_one_starts():
    expected = list(dataset())
    again = dataset()
    assert [again[position] for position in reversed(range(700))] == expected[::-1]
    fresh = dataset()
    assert [fresh[position] for position in range(350, 700)] == expected[350:]
    assert [dataset()[position] for position in (0, 419, 699)] == [expected[0], expected[419], expected[699]]


def test_workers_share_the_positions():
    loader = DataLoader(dataset(70), batch_size=7, num_workers=2, collate_fn=list)
    assert [sample for batch in loader for sample in batch] == list(dataset(70))


def test_seeds_give_other_orders_and_each_sample_one_of_its_own():
    first, second = list(dataset(seed=1)), list(dataset(seed=2))
    assert names(first) != names(second)
    seeds = [sample["seed"] for sample in first + second]
    assert len(set(seeds)) == 1400
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({mix(seed, number) for seed in range(100) for number in range(100)}) == 10_000


def test_a_source_of_a_seed_brings_its_own_seed_in_vain():
    """Else a sample that comes again would have the same template and mask again."""
    mixed = MixtureDataset({"generate": ShapesDataset("generate", 1, 3)}, {"generate": 1}, 6)
    assert len({sample["seed"] for sample in mixed}) == 6


def test_order_of_the_sources_may_be_kept():
    numbers = [number for task, number in names(dataset(shuffle=False)) if task == "understand"]
    assert numbers == [index % 7 for index in range(100)]


def test_samples_of_the_source_are_not_written_to():
    sources = {"generate": source("generate", 2)}
    list(MixtureDataset(sources, {"generate": 1}, 4))
    assert sources["generate"] == source("generate", 2)


@pytest.mark.parametrize(
    ("sources", "ratio", "complaint"),
    [
        ({"generate": [1]}, {"edit": 1}, r"`ratio` must name the sources \['generate'\], but names \['edit'\]"),
        ({"generate": [1]}, {"generate": 0}, r"`ratio` must be whole numbers of samples from 1 on"),
        ({"generate": [1]}, {"generate": 0.5}, r"`ratio` must be whole numbers .* but got \{'generate': 0.5\}"),
        ({}, {}, "`ratio` must be whole numbers"),
        ({"generate": []}, {"generate": 1}, "`sources` must have samples, but 'generate' has none"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(sources, ratio, complaint):
    with pytest.raises(ValueError, match=complaint):
        MixtureDataset(sources, ratio, 10)


def test_positions_outside_are_refused():
    for position in (-1, 700):
        with pytest.raises(IndexError, match=r"`position` must be in \[0, 700\)"):
            dataset()[position]


class Broken(list):
    def __getitem__(self, index):
        raise OSError("the disk is gone")


class Narrow(list):
    """Of which one sample in so many is to be had; of 0 none."""

    def __init__(self, size, every, reason):
        super().__init__(source("generate", size))
        self.every, self.reason = every, reason

    def __getitem__(self, index):
        if not self.every or index % self.every:
            raise DroppedSample(self.reason, f"Number {index}.")
        return super().__getitem__(index)


def test_filters_that_keep_few_do_not_end_a_run():
    mixed = MixtureDataset({"generate": Narrow(2000, 100, "filtered")}, {"generate": 1}, 400)
    found = [mixed[position] for position in range(400)]
    assert all(sample["number"] % 100 == 0 for sample in found)
    assert max(sample.get("dropped", {}).get("filtered", 0) for sample in found) > 200
    none = MixtureDataset({"generate": Narrow(2000, 0, "filtered")}, {"generate": 1}, 400, seed=1)
    with pytest.raises(ValueError, match=r"10000 samples in a row were left out \(\{'filtered': 10000\}\).*too narrow"):
        none[0]
    broken = MixtureDataset({"generate": Narrow(2000, 0, "unreadable")}, {"generate": 1}, 400, seed=1)
    with pytest.raises(ValueError, match=r"100 samples in a row were left out \(\{'unreadable': 100\}\)"):
        broken[0]


def test_samples_and_errors_say_where_they_are_from(small_processor):
    mixed = MixtureDataset(
        {"generate": [{"task": "generate", "prompt": "x"}] * 3, "edit": Broken([1])}, {"generate": 1, "edit": 1}, 4
    )
    positions = {mixed.locate(position)[0]: position for position in range(4)}
    sample = mixed[positions["generate"]]
    index = mixed.locate(positions["generate"])[1]
    assert sample["origin"] == f"generate[{index}]"
    with pytest.raises(ValueError, match=r"Sample edit\[0\] cannot be read: OSError: the disk is gone"):
        mixed[positions["edit"]]
    with pytest.raises(ValueError, match=rf"^Sample 1 \(generate\[{index}\]\): the task 'generate' needs 'image'"):
        collator_of(small_processor)([ShapesDataset("generate", 1, 1)[0], sample])
    long = {**ShapesDataset("generate", 1, 1)[0], "origin": "generate[5]"}
    with pytest.raises(ValueError, match=r"^Sample 0 \(generate\[5\]\): it has \d+ tokens, but the limit is 3"):
        collator_of(small_processor, limits={"generate": 3})([long])


# ---------------------------------------------------------------------- lengths


class Measured(list):
    def length_of(self, index):
        return self[index]["number"]


def test_grouping_by_length_keeps_the_samples_of_each_step():
    mixed = MixtureDataset({"generate": Measured(source("generate", 500))}, {"generate": 1}, 100)
    order = list(LengthGroupedSteps(mixed, 24))
    assert len(LengthGroupedSteps(mixed, 24)) == len(order) == 100
    for start in range(0, 100, 24):
        step = order[start : start + 24]
        assert sorted(step) == list(range(start, min(start + 24, 100)))
        lengths = [mixed[position]["number"] for position in step]
        assert lengths == sorted(lengths)
    assert order != sorted(order)


def test_tasks_go_together_where_no_lengths_are_known():
    mixed = dataset(70)
    order = list(LengthGroupedSteps(mixed, 35))
    assert [mixed[position]["task"] for position in order[:35]] == ["generate"] * 20 + ["understand"] * 5 + [
        "edit"
    ] * 10


def test_questions_of_a_file_go_by_their_length(tmp_path):
    texts = ["x" * 400, "短" * 20, "x" * 4]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"messages": text}, ensure_ascii=False) for text in texts), encoding="utf-8")
    read = JsonLinesDataset(path, "understand")
    assert [read.length_of(index) for index in range(3)] == [(16 + size) // 4 for size in (400, 60, 4)]
    mixed = MixtureDataset({"understand": read}, {"understand": 1}, 3, shuffle=False)
    assert list(LengthGroupedSteps(mixed, 3)) == [2, 1, 0]


def test_padding_of_a_data_set_is_nothing(small_processor):
    padded = PaddedDataset(ShapesDataset("generate", 1, 3), 4)
    assert len(padded) == 4
    assert padded[3] is None
    assert padded[2]["task"] == "generate"
    assert len(PaddedDataset([1, 2], 2)) == 2
    collate = collator_of(small_processor, drop=True)
    assert collate([padded[0], None])["task_ids"].tolist() == [1]
    nothing = collate([None])
    assert (nothing["labels"] == -100).all()
    assert not nothing["dropped"].any()


# ---------------------------------------------------------------------- sources


def test_folder_of_pictures_with_captions(tmp_path, small_processor):
    (tmp_path / "deep").mkdir()
    for name, caption in (("b.png", " a blue thing \n"), ("deep/a.JPG", "一只猫")):
        Image.new("RGB", (90, 70), "blue").save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    (tmp_path / "notes.md").write_text("not a picture")
    samples = list(open_source("generate", {"folder": {"path": str(tmp_path)}}, 5))
    assert [(sample["task"], sample["prompt"]) for sample in samples] == [
        ("generate", "a blue thing"),
        ("generate", "一只猫"),
    ]
    assert collator_of(small_processor)(samples)["target_grid"].tolist() == [[3, 4], [3, 4]]


def test_json_lines_with_pictures_beside_them(tmp_path, small_processor):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48), "red").save(tmp_path / name)
    lines = [
        {"prompt": "draw", "source_image": "a.png", "image": str(tmp_path / "b.png")},
        {"task": "edit", "prompt": "draw", "source_image": "b.png", "image": "a.png", "height": 32, "width": 32},
    ]
    path = tmp_path / "edits.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    samples = list(open_source("edit", {"jsonl": {"path": str(path)}}, 5))
    assert collator_of(small_processor)(samples)["target_grid"].tolist() == [[3, 4], [2, 2]]
    chat = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "."}], "images": ["a.png"]}
    path.write_text(json.dumps(chat), encoding="utf-8")
    [sample] = JsonLinesDataset(path, "understand")
    assert sample["images"] == [str(tmp_path / "a.png")]
    assert collator_of(small_processor)([sample])["image_grid_thw"].tolist() == [[1, 6, 8]]


def test_json_lines_end_where_a_line_ends_alone(tmp_path):
    """Not at what a text may hold, though Unicode has it as the end of a line."""
    prompts = ["one\u2028two", "three\u2029", "\u0085four"]
    lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts]
    path = tmp_path / "drawings.jsonl"
    path.write_bytes("\r\n".join(lines).encode())
    assert [sample["prompt"] for sample in JsonLinesDataset(path, "generate")] == prompts


def test_pictures_in_messages_are_beside_the_file_too(tmp_path, small_processor):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    base64 = "iVBORw0KGgo" * 400  # too long for a path
    for name in ("image", "path", "url"):
        parts = [{"type": "image", name: "a.png"}, {"type": "text", "text": "a.png"}]
        messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "."}]
        path = tmp_path / "chats.jsonl"
        path.write_text(json.dumps({"messages": messages, "image": [base64]}), encoding="utf-8")
        read = JsonLinesDataset(path, "understand")
        [sample] = read
        assert sample["messages"][0]["content"] == [{**parts[0], name: str(tmp_path / "a.png")}, parts[1]]
        assert sample["image"] == [base64]
        assert read.samples[0]["messages"] == messages
        del sample["image"]
        assert collator_of(small_processor)([sample])["image_grid_thw"].tolist() == [[1, 6, 8]]


def test_texts_that_are_not_in_utf_8_are_named(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "cat.png")
    (tmp_path / "cat.txt").write_bytes("Kätzchen".encode("latin-1"))
    with pytest.raises(ValueError, match=r"cat.txt must be text in UTF-8, but is not .*Save it in UTF-8"):
        FolderDataset(tmp_path)[0]
    with pytest.raises(ValueError, match=r"cat.txt must be text in UTF-8"):
        JsonLinesDataset(tmp_path / "cat.txt", "edit")


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (
            {"web": {}},
            "`data` of 'generate' must be one of shapes, folder, jsonl, parquet, .* with its options, but is",
        ),
        ("shapes", "`data` of 'generate' must be one of shapes, folder, jsonl, parquet"),
        ({"shapes": {}, "folder": {}}, "`data` of 'generate' must be one of"),
        ({"shapes": 3}, "the options of 'shapes' must be a mapping, but are 3"),
        ({"shapes": {"sead": 3}}, r"'shapes' does not take these options: \{'sead': 3\}"),
        ({"shapes": {"kind": "spin"}}, "`kind` of 'generate' must be one of"),
        ({"folder": {"path": "nowhere"}}, "`path` must be a folder of pictures, but there is none at 'nowhere'"),
        ({"jsonl": {"path": "nowhere"}}, "`path` must be a file of JSON lines, but there is none at 'nowhere'"),
    ],
)
def test_sources_that_are_not_there_are_refused(entry, complaint):
    with pytest.raises(ValueError, match=complaint):
        open_source("generate", entry, 3)


def test_folders_are_for_pictures_to_draw(tmp_path):
    with pytest.raises(ValueError, match="`data` of 'edit': a folder of pictures with captions is for 'generate'"):
        open_source("edit", {"folder": {"path": str(tmp_path)}}, 3)
    with pytest.raises(ValueError, match=r"holds no pictures \(.png, .jpg"):
        FolderDataset(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "cat.png")
    with pytest.raises(ValueError, match=r"1 of 1 pictures .* no text beside them, such as 'cat.png': .* 'cat.txt'"):
        FolderDataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"prompt": "x"}\nno json', "edits.jsonl, line 2 is no JSON"),
        ('{"task": "generate"}', "edits.jsonl, line 1 must be a sample of 'edit', but is"),
        ("[1]", r"edits.jsonl, line 1 must be a JSON object, but is \[1\]"),
    ],
)
def test_lines_that_are_no_samples_are_refused_with_their_number(tmp_path, text, complaint):
    path = tmp_path / "edits.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        JsonLinesDataset(path, "edit")


def test_recipes_data_without_seeds_hold_out_other_samples():
    """A source without end is as long as the run, and the held-out one is not that of training."""
    entries = {"generate": {"shapes": {"bucket": [32, 64]}}, "understand": {"shapes": None}}
    tasks = {"generate": 2, "understand": 1}
    train = mixture(entries, tasks, 60, 0)
    held_out = mixture(entries, tasks, 60, 0, held_out=True)
    assert [len(train.sources[name]) for name in tasks] == [40, 20]
    assert {len({sample["seed"] for sample in dataset}) for dataset in (train, held_out)} == {60}
    prompts = [
        [sample["image"].tobytes() for sample in dataset if sample["task"] == "generate"]
        for dataset in (train, held_out)
    ]
    assert prompts[0] != prompts[1]
    given = mixture({"generate": {"shapes": {"seed": 5}}}, tasks, 6, 0, held_out=True)
    assert given.sources["generate"].seed == 5
    assert len(given) == 6


def test_the_seed_of_a_recipe_orders_lists_of_sources_but_does_not_change_shapes(tmp_path):
    for number in range(30):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(str(number))
    entries = {
        "generate": [{"folder": {"path": str(tmp_path)}}, {"folder": {"path": str(tmp_path)}, "name": "again"}],
        "understand": {"shapes": None},
    }

    def order(seed):
        mixed = mixture(entries, {"generate": 2, "understand": 1}, 90, seed)
        return [sample["origin"] for sample in mixed if sample["task"] == "generate"], mixed.sources

    (first, sources), (again, _), (other, others) = order(1), order(1), order(2)
    assert first == again and sorted(first) == sorted(other)
    assert sum(one != two for one, two in zip(first, other, strict=True)) > 30
    assert sources["understand"].seed == others["understand"].seed == 1
