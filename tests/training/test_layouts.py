# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Each published layout, on a tiny sample in exactly that layout: what its samples are, and what is said where a field
lacks."""

import io
import json

import pytest
from PIL import Image

from transformers_wallaroo.training.data.check import check_mixture
from transformers_wallaroo.training.data.drops import DroppedSample
from transformers_wallaroo.training.sources import open_source

from published import (
    CLASSES,
    CLASSES_ZH,
    llava_rows,
    picture_bytes,
    samples,
    write,
    write_blip3o,
    write_commonsense_qa,
    write_gpt_image_edit,
    write_imagenet_parquet,
    write_imagenet_tars,
    write_llava,
    write_opengpt4o_image,
    write_parquet,
    write_sharegpt4o_image,
    write_tar,
)
from small import collator_of


def opened(task, layout, **options):
    return open_source(task, {layout: options}, 5)


def same_picture(found, expected, scale=2):
    assert found.mode == "RGB"
    assert found.tobytes() == Image.open(io.BytesIO(picture_bytes(expected, "png", scale))).tobytes()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` makes of Parquet goes with the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# ---------------------------------------------------------------------- LLaVA


def test_llava_json(tmp_path, small_processor):
    read = opened("understand", "llava", path=str(write_llava(tmp_path)), images=str(tmp_path / "images"))
    assert len(read) == 7
    asked = samples("understand", 6)
    first = read[0]
    assert first["messages"][0]["content"].startswith("<image>\n")
    assert first["messages"][1] == {"role": "assistant", "content": asked[0]["messages"][1]["content"]}
    assert first["images"][0].size == tuple(2 * side for side in asked[0]["images"][0].size)
    assert read[6] == {
        "task": "understand",
        "messages": [
            {"role": "user", "content": "What is two and two?"},
            {"role": "assistant", "content": "Four."},
        ],
    }
    batch = collator_of(small_processor)(list(read))
    assert len(batch["image_grid_thw"]) == 6 and len(batch["input_ids"]) == 7


def test_llava_in_lines_and_parquet_reads_the_same(tmp_path):
    rows = llava_rows(4, tmp_path / "images")
    lines = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    packed = [{**row, "data_source": "shapes"} for row in llava_rows(4)]
    parquet = write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", packed)
    found = [
        list(opened("understand", "llava", path=str(path), images=str(tmp_path / "images")))
        for path in (write(tmp_path / "a.json", rows), lines, parquet)
    ]
    assert found[0] == found[1] == found[2]


def test_llava_with_several_pictures_none_and_marks_of_none(tmp_path, small_processor):
    """M4-Instruct: `image` is a list; LLaVA-OneVision: an empty one, or null, is none."""
    names = [row["image"] for row in llava_rows(3, tmp_path / "images")]
    answer = {"from": "gpt", "value": "No."}
    rows = [
        {"id": 0, "image": names, "conversations": [{"from": "human", "value": "<image><image>\nor <image>?"}, answer]},
        {"id": 1, "image": None, "conversations": [{"from": "human", "value": "What?"}, answer]},
        {"id": 2, "image": [], "conversations": [{"from": "human", "value": "What?"}, answer]},
        {"id": 3, "images": names[:2], "conversations": [{"from": "human", "value": "Which?"}, answer]},
        {"id": 4, "messages": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Oh."}]},
        {"id": 5, "image": names[:2], "conversations": [{"from": "human", "value": "<image> alone?"}, answer]},
        {"id": 6, "conversations": [{"from": "human", "value": "What is <image> in HTML?"}, answer]},
        {"id": 7, "image": names[0], "conversations": [{"from": "robot", "value": "<image>"}, answer]},
        {"id": 8, "conversations": [{"from": "human", "value": "Well?"}]},
    ]
    read = opened("understand", "llava", path=str(write(tmp_path / "m4.json", rows)), images=str(tmp_path / "images"))
    assert [len(read[index].get("images", ())) for index in range(5)] == [3, 0, 0, 2, 0]
    assert len(collator_of(small_processor)([read[index] for index in range(5)])["image_grid_thw"]) == 5
    complaints = ["2 pictures, but 1 marks", "0 pictures, but 1 marks", "turn that is none", "no answer to learn"]
    for index, complaint in zip(range(5, 9), complaints, strict=True):
        with pytest.raises(DroppedSample, match=rf"m4.json, row {index + 1} has .*{complaint}") as caught:
            read[index]
        assert caught.value.reason == "mismatch"


def test_llava_pictures_in_tars(tmp_path):
    rows = llava_rows(2, tmp_path / "images")
    members = [(row["image"], (tmp_path / "images" / row["image"]).read_bytes()) for row in rows]
    tar = write_tar(tmp_path / "train2017.tar", members)
    file = write(tmp_path / "a.json", rows)
    folders = opened("understand", "llava", path=str(file), images=[str(tmp_path / "images")])
    assert list(opened("understand", "llava", path=str(file), images=str(tar))) == list(folders)
    assert list(opened("understand", "llava", path=str(file), images=str(tmp_path))) == list(folders)


def test_llava_videos_are_frames(tmp_path, small_processor):
    frames = [sample["image"] for sample in samples("generate", 9)]
    for number, frame in enumerate(frames):
        write(tmp_path / "videos" / "a.mp4" / f"{number:03d}.png", picture_bytes(frame, "png", 1))
    frames[0].resize((64, 64)).save(
        tmp_path / "videos" / "b.gif", save_all=True, append_images=[frame.resize((64, 64)) for frame in frames[1:6]]
    )
    talk = [{"from": "human", "value": "<image>\nWhat happens?"}, {"from": "gpt", "value": "Little."}]
    marked = [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", "value": "Little."}]
    rows = [{"id": 1, "video": "a.mp4", "conversations": talk}, {"id": 2, "video": "b.gif", "conversations": marked}]
    file = write(tmp_path / "0_30_s.json", rows)
    read = opened("understand", "llava", path=str(file), images=str(tmp_path / "videos"), frames=3)
    assert read[0]["messages"][0]["content"] == "<image><image><image>\nWhat happens?"
    for found, expected in zip(read[0]["images"], (frames[1], frames[4], frames[7]), strict=True):
        same_picture(found, expected, 1)
    assert len(read[1]["images"]) == 3
    assert len(collator_of(small_processor)(list(read))["image_grid_thw"]) == 6


def test_video_files_are_decoded(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is optional")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for level in range(0, 240, 20):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), (level,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    talk = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "Grey."}]
    write(tmp_path / "b.mp4", b"no video at all")
    rows = [{"id": name, "video": f"{name}.mp4", "conversations": talk} for name in "ab"]
    read = opened("understand", "llava", path=str(write(tmp_path / "v.json", rows)), images=str(tmp_path), frames=3)
    levels = [frame.getpixel((32, 32))[0] for frame in read[0]["images"]]
    assert levels == pytest.approx([40, 120, 200], abs=6)
    with pytest.raises(DroppedSample, match=r"v.json, row 2: the video .*b.mp4' cannot be read"):
        read[1]


def test_text_alone(tmp_path, small_processor):
    """Infinity-Instruct: turns without pictures; commonsense_qa: a question, choices and the right letter."""
    talk = [{"from": "human", "value": "Sum 1 and 2."}, {"from": "gpt", "value": "3"}]
    rows = [{"id": 1, "conversations": talk * 2, "label": {"cate": []}, "langdetect": "en", "source": "x"}]
    read = opened("understand", "llava", path=str(write_parquet(tmp_path / "7M_core" / "a.parquet", rows)))
    assert [message["role"] for message in read[0]["messages"]] == ["user", "assistant"] * 2
    questions = opened("understand", "commonsense_qa", path=str(write_commonsense_qa(tmp_path / "csqa")))
    assert questions[1]["messages"] == [
        {"role": "user", "content": "What is 1 and one?\nA. 1\nB. 2\nC. a fish\nAnswer with the letter alone."},
        {"role": "assistant", "content": "B"},
    ]
    with pytest.raises(DroppedSample, match="row 4 has no answer, as in the test split") as caught:
        questions[3]
    assert caught.value.reason == "unsupported"
    assert len(collator_of(small_processor)([read[0], questions[0]])["input_ids"]) == 2


# ---------------------------------------------------------------------- pictures and edits


def test_blip3o(tmp_path, small_processor):
    read = opened("generate", "webdataset", path=str(write_blip3o(tmp_path / "BLIP3o-60k")))
    expected = samples("generate", 6)
    order = [0, 2, 4, 1, 3, 5]  # two tars, one after the other
    assert [sample["prompt"] for sample in read] == [expected[index]["prompt"] for index in order]
    assert [sample["image"].size for sample in read] == [
        tuple(2 * side for side in expected[index]["image"].size) for index in order
    ]
    assert read.length_of(0) == len(expected[0]["prompt"].encode()) // 4
    assert len(collator_of(small_processor)(list(read))["target_grid"]) == 6


@pytest.mark.parametrize(
    ("layout", "write_set"),
    [("sharegpt4o_image", write_sharegpt4o_image), ("opengpt4o_image", write_opengpt4o_image)],
)
def test_prompted_images(tmp_path, small_processor, layout, write_set):
    folder = write_set(tmp_path / "set")
    drawn, edited = (opened(task, layout, path=str(folder)) for task in ("generate", "edit"))
    for found, expected in zip(drawn, samples("generate", 4), strict=True):
        assert (found["task"], found["prompt"]) == ("generate", expected["prompt"])
        same_picture(found["image"], expected["image"])
    for found, expected in zip(edited, samples("edit", 4), strict=True):
        assert (found["task"], found["prompt"]) == ("edit", expected["prompt"])
        same_picture(found["image"], expected["image"])
        same_picture(found["source_image"], expected["source_image"])
    assert len(collator_of(small_processor)([*drawn, *edited])["task_ids"]) == 8


def test_edits_of_several_pictures_are_left_out(tmp_path):
    folder = write_sharegpt4o_image(tmp_path)
    rows = json.loads((folder / "text_and_image_to_image.json").read_text())
    rows[1]["input_image"] *= 2
    write(folder / "text_and_image_to_image.json", rows)
    with pytest.raises(DroppedSample, match=r"row 2 has 2 pictures to edit, but an edit has one") as caught:
        opened("edit", "sharegpt4o_image", path=str(folder))[1]
    assert caught.value.reason == "unsupported"


def test_packed_archives_are_told_with_the_command(tmp_path):
    write(tmp_path / "gen.json", [{"input_prompt": "x", "output_image": "gen/0.png"}])
    write(tmp_path / "gen.tar.gz.00", b"x")
    with pytest.raises(ValueError, match=r"archives packed .*cat gen.tar.gz\* \| tar -xzf -"):
        opened("generate", "opengpt4o_image", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"has no 'editing.json', where 'opengpt4o_image' keeps what is for 'edit'"):
        opened("edit", "opengpt4o_image", path=str(tmp_path))


def test_gpt_image_edit(tmp_path, small_processor):
    folder = write_gpt_image_edit(tmp_path / "gpt-edit")
    read = opened("edit", "gpt_image_edit", path=str(folder))
    expected = samples("edit", 4)
    for found, index in zip(read, (0, 2, 1, 3), strict=True):
        assert found["prompt"] == expected[index]["prompt"]
        same_picture(found["source_image"], expected[index]["source_image"])
        same_picture(found["image"], expected[index]["image"])
    assert len(collator_of(small_processor)(list(read))["task_ids"]) == 4
    entry = {"gpt_image_edit": {"path": str(folder)}, "filters": {"where": {"instruction_type": ["complex"]}}}
    chosen = open_source("edit", entry, 5)
    assert chosen[2]["prompt"] == expected[1]["prompt"]
    with pytest.raises(DroppedSample, match=r"hqedit_edit.json, row 1: 'instruction_type' is 'original'"):
        chosen[0]


# ---------------------------------------------------------------------- ImageNet


def test_imagenet_parquet_has_its_own_english_names(tmp_path):
    read = opened("generate", "imagenet", path=str(write_imagenet_parquet(tmp_path)))
    assert len(read) == 6
    assert "a photo of red circle" in read[3]["prompt"] and not any("disk" in prompt for prompt in read[3]["prompt"])
    assert read[0]["image"].size == tuple(2 * side for side in samples("generate", 1)[0]["image"].size)


def test_imagenet_in_chinese_and_by_templates_of_ones_own(tmp_path, small_processor):
    path = str(write_imagenet_parquet(tmp_path))
    names = str(write(tmp_path / "zh.txt", "\n".join(CLASSES_ZH)))
    read = opened(
        "generate", "imagenet", path=path, classes_zh=names, templates={"en": ["{name}!"], "zh": ["画{name}"]}
    )
    assert read[1]["prompt"] == ["green square!", "画绿色正方形"]
    alone = opened("generate", "imagenet", path=path, classes_zh=names, languages=["zh"], templates={"zh": ["{name}"]})
    assert alone[2]["prompt"] == ["蓝色三角形"]
    mixed = open_source("generate", [{"imagenet": {"path": path, "classes_zh": names}}], 60)
    prompts = [sample["prompt"] for sample in mixed]
    assert all(isinstance(prompt, str) for prompt in prompts) and len(set(prompts)) > 10
    assert any(name in prompt for prompt in prompts for name in CLASSES_ZH)
    assert len(collator_of(small_processor)([mixed[0]])["task_ids"]) == 1
    with pytest.raises(ValueError, match=r"`classes_zh` must be a file with the names of the classes in Chinese"):
        opened("generate", "imagenet", path=path, languages=["zh"])
    with pytest.raises(ValueError, match=r"`templates` of 'en' must be a list of texts with \{name\}, but has \['x'\]"):
        opened("generate", "imagenet", path=path, templates={"en": ["x"]})


def test_imagenet_tars(tmp_path):
    path = str(write_imagenet_tars(tmp_path))
    names = str(write(tmp_path / "classes.json", {str(n): [f"n{n}", name] for n, name in enumerate(CLASSES)}))
    read = opened("generate", "imagenet", path=path, classes=names, templates={"en": ["a {name}"]})
    assert [sample["prompt"] for sample in read] == [
        [f"a {name}"] for name in ("red circle", "green square", "blue triangle", "red circle")
    ]
    with pytest.raises(ValueError, match=r"`classes` must be a file with the names of the classes in English"):
        opened("generate", "imagenet", path=path)
    few = str(write(tmp_path / "few.txt", "red circle\n"))
    with pytest.raises(DroppedSample, match=r"member 'n0144_1.jpg' has the label 1, which has no name"):
        opened("generate", "imagenet", path=path, classes=few)[1]


# ---------------------------------------------------------------------- one's own tables


def test_own_parquet(tmp_path):
    made = samples("edit", 2)
    rows = [
        {
            "caption": sample["prompt"],
            "before": picture_bytes(sample["source_image"], "png"),
            "image": {"bytes": picture_bytes(sample["image"], "png"), "path": None},
        }
        for sample in made
    ]
    path = str(write_parquet(tmp_path / "mine" / "a.parquet", rows))
    columns = {"prompt": "caption", "source_image": "before"}
    read = opened("edit", "parquet", path=path, columns=columns)
    for found, expected in zip(read, made, strict=True):
        assert found["prompt"] == expected["prompt"]
        same_picture(found["image"], expected["image"])
        same_picture(found["source_image"], expected["source_image"])
    with pytest.raises(ValueError, match=r"a.parquet, row 1 has no field 'prompt'; its fields are 'caption', 'before'"):
        opened("edit", "parquet", path=path)[0]
    with pytest.raises(ValueError, match=r"`columns` may name image, images, prompt, source_image, but has capton"):
        opened("edit", "parquet", path=path, columns={"capton": "caption"})
    # A folder as `datasets.load_dataset` reads it, which is how a name on the Hub is read too.
    again = opened("edit", "parquet", path={"hub": str(tmp_path / "mine"), "split": "train"}, columns=columns)
    assert list(again) == list(read)


def test_own_conversations_in_parquet(tmp_path, small_processor):
    rows = [
        {
            "images": [row["image"]["bytes"]],
            "messages": [
                {"role": "user", "content": row["conversations"][0]["value"]},
                {"role": "assistant", "content": row["conversations"][1]["value"]},
            ],
        }
        for row in llava_rows(2)
    ]
    read = opened("understand", "parquet", path=str(write_parquet(tmp_path / "a.parquet", rows)))
    assert len(collator_of(small_processor)(list(read))["image_grid_thw"]) == 2


# ---------------------------------------------------------------------- what lacks


@pytest.mark.parametrize(
    ("task", "layout", "rows", "complaint"),
    [
        (
            "understand",
            "llava",
            [{"id": 1, "conversation": []}],
            r"rows.json, row 1 has no field 'conversations' or 'messages'; its fields are 'id', 'conversation'. "
            "Did you mean 'conversation'",
        ),
        (
            "understand",
            "llava",
            [
                {
                    "imge": "a.png",
                    "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "?"}],
                }
            ],
            r"rows.json, row 1 has no field 'image' or 'images'; .* Did you mean 'imge'",
        ),
        (
            "understand",
            "commonsense_qa",
            [{"question": "?", "choices": {"label": ["A"], "texts": ["x"]}, "answerKey": "A"}],
            r"rows.json, row 1 has no field 'text'; .* Did you mean 'texts'",
        ),
        (
            "edit",
            "gpt_image_edit",
            [{"instructions": "x", "input": "a", "output": "b"}],
            r"rows.json, row 1 has no field 'instruction'; .* Did you mean 'instructions'",
        ),
        (
            "generate",
            "sharegpt4o_image",
            [{"output_image": "a.png", "prompt": "x"}],
            r"rows.json, row 1 has no field 'input_prompt'; .* Did you mean 'prompt'",
        ),
    ],
)
def test_missing_fields_are_named(tmp_path, task, layout, rows, complaint):
    file = write(tmp_path / "rows.json", rows)
    with pytest.raises(ValueError, match=complaint) as caught:
        opened(task, layout, path=str(file))[0]
    assert not isinstance(caught.value, DroppedSample)


@pytest.mark.parametrize(
    ("task", "layout", "rows", "complaint"),
    [
        ("understand", "llava", [{"id": 1, "conversations": None}], "row 1 has nothing in 'conversations'"),
        (
            "edit",
            "sharegpt4o_image",
            [{"input_prompt": "x", "output_image": "a.png", "input_image": None}],
            "row 1 has nothing in 'input_image'",
        ),
        ("generate", "sharegpt4o_image", [{"input_prompt": "x", "output_image": None}], "nothing in 'output_image'"),
        ("edit", "gpt_image_edit", [{"instruction": None, "input": "a", "output": "b"}], "nothing in 'instruction'"),
        (
            "understand",
            "commonsense_qa",
            [{"question": "?", "choices": {"label": ["A", "B"], "text": ["x"]}, "answerKey": "A"}],
            "row 1 has 1 choices, but 2 letters",
        ),
    ],
)
def test_rows_with_nothing_in_a_field_are_left_out(tmp_path, task, layout, rows, complaint):
    """Of the first row too, at which the layout is looked at when it is opened."""
    read = opened(task, layout, path=str(write(tmp_path / "rows.json", rows)))
    with pytest.raises(DroppedSample, match=rf"rows.json, .*{complaint}") as caught:
        read[0]
    assert caught.value.reason == "mismatch"


TALK = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "."}]
QUESTION = {"question": "?", "choices": {"label": ["A"], "text": ["x"]}, "answerKey": "A"}
EDIT = {"instruction": "x", "input": "a.png", "output": "a.png"}
DRAWING = {"input_prompt": "x", "output_image": "a.png"}


@pytest.mark.parametrize(
    ("task", "layout", "row"),
    [
        *(("understand", "llava", {"conversations": value}) for value in (5, "text", {"from": "gpt"}, [5], [[]])),
        ("understand", "llava", {"conversations": [{"from": ["human"], "value": "?"}, TALK[1]]}),
        ("understand", "llava", {"conversations": [{"from": "human", "value": 5}, TALK[1]]}),
        *(("understand", "llava", {"conversations": TALK, "image": value}) for value in (5, [5], {"a": 1}, [["a"]])),
        *(("understand", "llava", {"conversations": TALK, "video": value}) for value in (5, [None], {"path": 5})),
        *(("understand", "commonsense_qa", {**QUESTION, "question": value}) for value in (5, ["?"], {})),
        *(("understand", "commonsense_qa", {**QUESTION, "choices": value}) for value in (5, "A", [5], ["A"])),
        ("understand", "commonsense_qa", {**QUESTION, "choices": {"label": 5, "text": ["x"]}}),
        ("understand", "commonsense_qa", {**QUESTION, "choices": {"label": ["A"], "text": [5]}}),
        *(("understand", "commonsense_qa", {**QUESTION, "answerKey": value}) for value in (5, ["A"])),
        *(("generate", "sharegpt4o_image", {**DRAWING, "input_prompt": value}) for value in (5, ["x"], {})),
        *(("generate", "opengpt4o_image", {**DRAWING, "output_image": value}) for value in (5, ["a.png"], {"a": 1})),
        *(("edit", "sharegpt4o_image", {**DRAWING, "input_image": value}) for value in (5, [5], [["a.png"]])),
        *(("edit", "gpt_image_edit", {**EDIT, "instruction": value}) for value in (5, ["x"], {})),
        *(("edit", "gpt_image_edit", {**EDIT, "input": value}) for value in (5, ["a.png"], True)),
        *(("edit", "gpt_image_edit", {**EDIT, "output": value}) for value in (5, {"a": 1})),
        *(("generate", "jsonl", {"prompt": value, "image": "a.png"}) for value in (5, [], [5], {}, None)),
        *(("generate", "jsonl", {"prompt": "x", "image": value}) for value in (5, ["a.png"], {"a": 1}, None)),
        *(("generate", "jsonl", {"prompt": "x", "image": "a.png", "height": value}) for value in ("64", [64], True)),
        ("edit", "jsonl", {"prompt": "x", "image": "a.png", "source_image": ["a.png", "a.png"]}),
        *(("understand", "jsonl", {"messages": value}) for value in (5, "text", {}, [5], [{"role": {}}], None)),
        (
            "understand",
            "jsonl",
            {"messages": [{"role": "user", "content": [5]}, {"role": "assistant", "content": "."}]},
        ),
        ("understand", "jsonl", {"conversations": TALK, "images": [5]}),
        *(("generate", "parquet", {"prompt": value, "image": "a.png"}) for value in (5, ["x", 5], {"a": 1})),
        *(("generate", "parquet", {"prompt": "x", "image": value}) for value in (5, ["a.png"], {"a": 1})),
        *(("understand", "parquet", {"messages": value}) for value in (5, [5], {"a": 1})),
        ("understand", "parquet", {"messages": TALK, "images": 5}),
    ],
)
def test_fields_of_another_type_are_left_out_and_counted(tmp_path, small_processor, task, layout, row):
    """Never a `TypeError`: the row is named, the others are read, and `data check` counts it."""
    good = {
        "llava": {"conversations": TALK},
        "commonsense_qa": QUESTION,
        "gpt_image_edit": EDIT,
        "sharegpt4o_image": {**DRAWING, "input_image": ["a.png"]},
        "opengpt4o_image": DRAWING,
    }.get(layout, {"conversations": TALK} if task == "understand" else {"prompt": "x", "image": "a.png"})
    if layout in ("jsonl", "parquet") and task == "edit":
        good = {**good, "source_image": "a.png"}
    folder = tmp_path / "metadata"
    folder.mkdir()
    for place in (tmp_path, folder):  # paths start at the folder above, at that of the file, or at `images`
        (place / "a.png").write_bytes(picture_bytes(samples("generate", 1)[0]["image"]))
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in (row, good)))
    # Rows of JSON lines: a column of Parquet has one type.
    options = {"path": str(file), **({"images": str(folder)} if layout in ("llava", "parquet") else {})}
    read = opened(task, layout, **options)
    with pytest.raises(DroppedSample, match=r"rows.jsonl, (row|line) 1") as caught:
        read[0]
    assert caught.value.reason in ("mismatch", "unreadable")
    assert collator_of(small_processor)([read[1]])["input_ids"].shape[0] == 1
    [check] = check_mixture({task: {layout: options}}, collator_of(small_processor), show_progress=False)
    assert (check.read, check.kept, check.faults, check.error) == (2, 1, 1, None)


@pytest.mark.parametrize("label", [[1.5], [[1]], [{"a": 1}], [float("inf")], ["tench"]])
def test_labels_that_are_no_numbers(tmp_path, label):
    picture = picture_bytes(samples("generate", 1)[0]["image"])
    file = write_parquet(tmp_path / "a.parquet", [{"image": {"bytes": picture}, "label": label[0]}])
    (tmp_path / "names.txt").write_text("tench\ngoldfish\n")
    read = opened("generate", "imagenet", path=str(file), classes=str(tmp_path / "names.txt"))
    with pytest.raises(DroppedSample, match=r"row 1 has the label .*, which is no (whole )?number") as caught:
        read[0]
    assert caught.value.reason == "mismatch"


def test_a_name_that_is_too_long_for_a_path(tmp_path):
    row = {"conversations": TALK, "image": "a" * 5000}
    read = opened("understand", "llava", path=str(write(tmp_path / "rows.json", [row])), images=str(tmp_path))
    with pytest.raises(DroppedSample, match="row 1 names 'aaa") as caught:
        read[0]
    assert caught.value.reason == "missing_file"


def test_rows_of_parquet_with_nothing_in_a_field_are_left_out(tmp_path):
    rows = [{"prompt": prompt, "image": picture_bytes(samples("generate", 1)[0]["image"])} for prompt in (None, "x")]
    read = opened("generate", "parquet", path=str(write_parquet(tmp_path / "a.parquet", rows)))
    with pytest.raises(DroppedSample, match="row 1 has nothing in 'prompt'") as caught:
        read[0]
    assert caught.value.reason == "mismatch" and read[1]["prompt"] == "x"


def test_rows_and_texts_that_are_not_in_utf_8_are_left_out(tmp_path):
    talk = [{"from": "human", "value": "Kätzchen?"}, {"from": "gpt", "value": "."}]
    row = json.dumps({"conversations": talk}, ensure_ascii=False)
    file = write(tmp_path / "rows.jsonl", b"\n".join([row.encode("latin-1"), row.encode()]))
    read = opened("understand", "llava", path=str(file))
    with pytest.raises(DroppedSample, match=r"rows.jsonl, row 1 is no text in UTF-8") as caught:
        read[0]
    assert caught.value.reason == "unreadable" and read[1]["messages"][0]["content"] == "Kätzchen?"
    write(tmp_path / "pictures" / "cat.png", picture_bytes(samples("generate", 1)[0]["image"], "png"))
    write(tmp_path / "pictures" / "cat.txt", "Kätzchen".encode("latin-1"))
    with pytest.raises(DroppedSample, match=r"cat.txt must be text in UTF-8, but is not") as caught:
        opened("generate", "folder", path=str(tmp_path / "pictures"))[0]
    assert caught.value.reason == "unreadable"


def test_parts_that_lack_in_tars_are_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0.jpg", b"x"), ("0.txt", b"x"), ("b/1.jpg", b"x"), ("b/1.caption", b"x")])
    with pytest.raises(ValueError, match=r"a.tar, sample 'b/1' has no .txt; it has .jpg, .caption"):
        opened("generate", "webdataset", path=str(path))
    with pytest.raises(ValueError, match=r"has no samples of .jpg, .text; its tars hold \['caption'\]"):
        opened("generate", "webdataset", path=str(write_tar(path, [("0.caption", b"x")])), text="text")


@pytest.mark.parametrize(
    ("task", "layout"),
    [
        ("edit", "webdataset"),
        ("generate", "llava"),
        ("generate", "gpt_image_edit"),
        ("edit", "imagenet"),
        ("edit", "commonsense_qa"),
        ("understand", "sharegpt4o_image"),
    ],
)
def test_layouts_say_what_they_are_for(tmp_path, task, layout):
    with pytest.raises(ValueError, match=rf"`data` of '{task}': '{layout}' has samples of '.*' alone"):
        opened(task, layout, path=str(tmp_path))
