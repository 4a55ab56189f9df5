"""docs/auto.md: its program says and makes what it says."""

import re
from pathlib import Path

import yaml
from PIL import Image

from transformers_wallaroo import WallarooDataCollator, WallarooProcessor, tiny_path

PAGE = (Path(__file__).parent.parent / "docs" / "auto.md").read_text(encoding="utf-8")


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)[1]


def test_the_program_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "auto.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1] == "blue"
    red, blue = (Image.open(tmp_path / name).resize((1, 1)).getpixel((0, 0)) for name in ("circle.png", "blue.png"))
    assert red[0] > red[2] and blue[2] > blue[0]


def test_the_sample_is_one():
    sample = yaml.safe_load(block("json"))
    pictures = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    encoded = WallarooDataCollator(WallarooProcessor.from_pretrained(tiny_path())).encode(
        {**sample, "images": pictures}
    )
    assert encoded.task.name == "understand" and len(encoded.seen) == 2
