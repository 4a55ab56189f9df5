# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Prompts of our own in the layout of each benchmark, of the shapes world: `wallaroo-tiny` knows what is meant.

`eval_smoke.py` and the tests write them where they need them.
"""

import csv
import json
from pathlib import Path

import datasets
from PIL import Image

from transformers_wallaroo.shapes import make_sample

GENEVAL_LINES = [
    {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a red circle"},
    {
        "tag": "counting",
        "include": [{"class": "star", "count": 2}],
        "exclude": [{"class": "star", "count": 3}],
        "prompt": "two stars",
    },
    {
        "tag": "position",
        "include": [{"class": "star", "count": 1}, {"class": "circle", "count": 1, "position": ["left of", 0]}],
        "prompt": "a circle left of a star",
    },
]
DPG_TEXTS = {"shapes0": "a blue star", "shapes1": "a green square on a black background", "7": "three red circles"}
GEDIT_FEATURES = {
    "task_type": datasets.Value("string"),
    "key": datasets.Value("string"),
    "instruction": datasets.Value("string"),
    "instruction_language": datasets.Value("string"),
    "input_image": datasets.Image(),
    "input_image_raw": datasets.Image(),
    "Intersection_exist": datasets.Value("bool"),
}


def write_geneval(folder: Path) -> Path:
    path = folder / "evaluation_metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in GENEVAL_LINES))
    return path


def write_dpg_texts(folder: Path) -> Path:
    path = folder / "prompts"
    path.mkdir()
    for item, text in DPG_TEXTS.items():
        (path / f"{item}.txt").write_text(text + "\n")
    return path


def write_dpg_table(folder: Path) -> Path:
    """A row a question, two questions a prompt."""
    path = folder / "dpg_bench.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "text", "keywords", "proposition_id", "dependency", "question_natural_language"])
        for item, text in DPG_TEXTS.items():
            for question in (1, 2):
                writer.writerow([item, text, "", question, 0, "Is there anything,\nor nothing?"])
    return path


def edits(count: int, language: str = "en") -> list[dict]:
    return [make_sample("edit", index, 5, language=language, bucket=(32, 64)) for index in range(count)]


def write_imgedit(folder: Path, count: int = 3) -> Path:
    entries = {}
    for number, sample in enumerate(edits(count)):
        (folder / "things").mkdir(exist_ok=True)
        sample["source_image"].save(folder / "things" / f"{number}.jpg", quality=95)
        entries[str(40 + number)] = {"id": f"things/{number}.jpg", "prompt": sample["prompt"], "edit_type": "replace"}
    path = folder / "singleturn.json"
    path.write_text(json.dumps(entries))
    return path


def gedit_rows(count: int = 2) -> list[dict]:
    """Both languages of each edit; the raw picture is twice as large, as it may be in the published set."""
    rows = []
    for number, samples in enumerate(zip(edits(count), edits(count, "zh"), strict=True)):
        for language, sample in zip(("en", "cn"), samples, strict=True):
            source = sample["source_image"]
            rows.append(
                {
                    "task_type": ("color_alter", "subject-add")[number % 2],
                    "key": f"k{number}{language}",
                    "instruction": sample["prompt"],
                    "instruction_language": language,
                    "input_image": source,
                    "input_image_raw": source.resize((128, 64), Image.Resampling.NEAREST),
                    "Intersection_exist": True,
                }
            )
    return rows


def write_gedit(folder: Path, rows: list[dict] | None = None) -> Path:
    path = folder / "train.parquet"
    data = datasets.Dataset.from_list(
        gedit_rows() if rows is None else rows, features=datasets.Features(GEDIT_FEATURES)
    )
    data.to_parquet(str(path))
    return path


WRITERS = {"geneval": write_geneval, "dpg": write_dpg_texts, "imgedit": write_imgedit, "gedit": write_gedit}
