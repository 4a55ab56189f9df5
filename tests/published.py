# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Tiny data sets in exactly the layouts of the published ones, made of the shapes world."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from transformers_wallaroo.shapes import ShapesDataset

CLASSES = ["red circle, disk", "green square", "blue triangle"]
CLASSES_ZH = ["红色圆形", "绿色正方形", "蓝色三角形"]


def samples(task, count, seed=3):
    return list(ShapesDataset(task, seed, count))


def picture_bytes(picture, kind="jpeg", scale=2):
    file = io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def write(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=1)
        path.write_text(text, encoding="utf-8")
    return path


def write_tar(path: Path, members) -> Path:
    """A tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_parquet(path: Path, rows, schema=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def llava_rows(count, folder: Path | None = None):
    """Rows as in llava_v1_5_mix665k.json; the pictures are written below the folder, or kept as bytes."""
    rows = []
    for number, sample in enumerate(samples("understand", count)):
        question, answer = (message["content"] for message in sample["messages"][:2])
        question = question.replace("<image>", "").strip()
        picture = picture_bytes(sample["images"][0])
        name = f"coco/train2017/{number:012d}.jpg"
        if folder is not None:
            write(folder / name, picture)
        rows.append(
            {
                # As published: some ids are numbers.
                "id": f"{number:012d}" if number % 2 or folder is None else number,
                "image": name if folder is not None else {"bytes": picture, "path": name},
                "conversations": [
                    {"from": "human", "value": f"<image>\n{question}"},
                    {"from": "gpt", "value": answer},
                ],
            }
        )
    return rows


def write_llava(folder: Path, count: int = 6) -> Path:
    """LLaVA-Instruct: one JSON list, pictures by path; the last row is text alone."""
    rows = llava_rows(count, folder / "images")
    talk = [{"from": "human", "value": "What is two and two?"}, {"from": "gpt", "value": "Four."}]
    rows.append({"id": "text", "conversations": talk, "model": ""})
    return write(folder / "llava_v1_5_mix665k.json", rows)


def write_blip3o(folder: Path, count: int = 6, shards: int = 2) -> Path:
    """BLIP3o-60k: tars of `{key}.jpg` and `{key}.txt`."""
    made = samples("generate", count)
    for shard in range(shards):
        members = []
        for number in range(shard, count, shards):
            members.append((f"{number:08d}.jpg", picture_bytes(made[number]["image"])))
            members.append((f"{number:08d}.txt", made[number]["prompt"].encode()))
        write_tar(folder / f"{shard:05d}.tar", members)
    return folder


def write_sharegpt4o_image(folder: Path, count: int = 4) -> Path:
    """ShareGPT-4o-Image: two JSON lists, pictures in tars by path."""
    drawn, edited = samples("generate", count), samples("edit", count)
    rows, members = [], []
    for number, sample in enumerate(drawn):
        name = f"text_to_image/{number}.png"
        members.append((name, picture_bytes(sample["image"], "png")))
        rows.append({"input_prompt": sample["prompt"], "output_image": name, "output_image_resolution": "128x128"})
    write(folder / "text_to_image.json", rows)
    write_tar(folder / "text_to_image_part_0.tar", members)
    rows, parts = [], [[], []]
    for number, sample in enumerate(edited):
        source, target = (f"text_and_image_to_image/{kind}_{number}.png" for kind in ("input", "output"))
        parts[0].append((source, picture_bytes(sample["source_image"], "png")))
        parts[1].append((f"./{target}", picture_bytes(sample["image"], "png")))
        rows.append({"input_prompt": sample["prompt"], "input_image": [source], "output_image": target})
    write(folder / "text_and_image_to_image.json", rows)
    for part, members in enumerate(parts):
        write_tar(folder / f"text_and_image_to_image_part_{part}.tar", members)
    return folder


def write_opengpt4o_image(folder: Path, count: int = 4) -> Path:
    """OpenGPT-4o-Image as it is when unpacked; `gen.json` one object a line, `editing.json` a list."""
    lines, rows = [], []
    for number, sample in enumerate(samples("generate", count)):
        write(folder / f"gen/{number}.png", picture_bytes(sample["image"], "png"))
        lines.append(json.dumps({"input_prompt": sample["prompt"], "output_image": f"gen/{number}.png"}))
    for number, sample in enumerate(samples("edit", count)):
        write(folder / f"editing/input_{number}.png", picture_bytes(sample["source_image"], "png"))
        write(folder / f"editing/output_{number}.png", picture_bytes(sample["image"], "png"))
        rows.append(
            {
                "input_prompt": sample["prompt"],
                "input_image": [f"editing/input_{number}.png"],
                "output_image": f"editing/output_{number}.png",
            }
        )
    write(folder / "gen.json", "\n".join(lines))
    write(folder / "editing.json", rows)
    return folder


def write_gpt_image_edit(folder: Path, count: int = 4) -> Path:
    """GPT-Image-Edit-1.5M: `gpt-edit/<set>/<task>` with input, output and metadata."""
    made = samples("edit", count)
    for name, kind, chosen in (("hqedit", "edit", made[::2]), ("omniedit", "complex-edit", made[1::2])):
        base, rows = folder / name / kind, []
        for number, sample in enumerate(chosen):
            write(base / f"input/{number:08d}.png", picture_bytes(sample["source_image"], "png"))
            write(base / f"output/{number:08d}.png", picture_bytes(sample["image"], "png"))
            rows.append(
                {
                    "id": f"{name}_{kind}_{number:08d}",
                    "dataset_source": name,
                    "task": kind,
                    "input": f"input/{number:08d}.png",
                    "output": f"output/{number:08d}.png",
                    "instruction": sample["prompt"],
                    "instruction_type": "complex" if kind == "complex-edit" else "original",
                    "input_description": "",
                }
            )
        write(base / f"metadata/{name}_{kind}.json", rows)
    return folder


def write_imagenet_parquet(folder: Path, count: int = 6, names=CLASSES) -> Path:
    """ImageNet-1K as `datasets` writes it: `image`, and `label` with the names of its classes."""
    import datasets

    made = samples("generate", count)
    rows = {
        "image": [{"bytes": picture_bytes(sample["image"]), "path": f"{n}.JPEG"} for n, sample in enumerate(made)],
        "label": [number % 3 for number in range(count)],
    }
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    data = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(), "label": label}))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    half = count // 2
    for shard, part in enumerate((range(half), range(half, count))):
        data.select(part).to_parquet(folder / "data" / f"train-{shard:05d}-of-00002.parquet")
    return folder / "data"


def write_imagenet_tars(folder: Path, count: int = 4) -> Path:
    """ImageNet-1K as webdataset: `{key}.jpg`, `{key}.cls`, and what else is beside them."""
    members = []
    for number, sample in enumerate(samples("generate", count)):
        members += [
            (f"n0144_{number}.cls", str(number % 3).encode()),
            (f"n0144_{number}.jpg", picture_bytes(sample["image"])),
            (f"n0144_{number}.json", b"{}"),
        ]
    write_tar(folder / "imagenet1k-train-0000.tar", members)
    return folder


def write_commonsense_qa(folder: Path) -> Path:
    """commonsense_qa's Parquet; the last row has no answer, as in its test split."""
    rows = [
        {
            "id": str(number),
            "question": f"What is {number} and one?",
            "question_concept": "number",
            "choices": {"label": list("ABC"), "text": [str(number), str(number + 1), "a fish"]},
            "answerKey": "B" if number < 3 else "",
        }
        for number in range(4)
    ]
    return write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
