"""docs/training.md, "Fine-tune on your own pictures": its recipe, command and programs, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from transformers import AutoModel

from transformers_wallaroo.shapes import make_sample

from untrained import save_untrained

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split("## Fine-tune on your own pictures")[1]
CHECKPOINT = "path/of/a/wallaroo/checkpoint"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder with pictures and texts, and an untrained checkpoint where the page has one."""
    folder = tmp_path_factory.mktemp("mine")
    save_untrained(folder / CHECKPOINT)
    (folder / "pictures").mkdir()
    for index, ending in enumerate(("png", "jpg", "png")):
        sample = make_sample("generate", index, 5)
        sample["image"].save(folder / "pictures" / f"{index}.{ending}")
        (folder / "pictures" / f"{index}.txt").write_text(sample["prompt"], encoding="utf-8")
    return folder


def run(folder, *command):
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


def train(folder, recipe):
    (folder / "mine.yaml").write_text(recipe, encoding="utf-8")
    commands = [line.split() for text in blocks("bash") for line in text.splitlines() if line.startswith("wallaroo ")]
    assert commands == [["wallaroo", "train", "mine.yaml"]]
    run(folder, "-m", "transformers_wallaroo.cli", *commands[0][1:], "steps=2", "save_steps=2")


def test_page_works_as_written(folder):
    recipe, _ = blocks("yaml")
    train(folder, recipe)
    (folder / "draw.py").write_text(blocks("python")[0], encoding="utf-8")
    run(folder, "draw.py")
    assert Image.open(folder / "drawn.png").size == (64, 64)


def test_lora_works_as_written(folder):
    recipe, more = blocks("yaml")
    changed = yaml.safe_load(recipe) | yaml.safe_load(more)
    train(folder, yaml.safe_dump(changed))
    (folder / "merge.py").write_text(blocks("python")[1], encoding="utf-8")
    run(folder, "merge.py")
    base, merged = (
        dict(AutoModel.from_pretrained(folder / path).named_parameters())
        for path in (CHECKPOINT, "runs/mine-lora/merged")
    )
    moved = {name for name, weight in merged.items() if not weight.equal(base[name])}
    assert any("generation_head" in name for name in moved) and any("q_proj" in name for name in moved)
    assert not any("visual" in name or "editing" in name for name in moved)


def test_lines_of_json_are_samples():
    from transformers_wallaroo.image_grid_wallaroo import TASKS

    (lines,) = blocks("json")
    assert {task for task in TASKS if f'"task": "{task}"' in lines} == {"edit", "understand"}
