"""The figure of docs/editing.md is what its code makes."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"


def test_the_figure_is_what_the_code_makes(tmp_path, monkeypatch):
    text = (DOCS / "editing.md").read_text(encoding="utf-8")
    block = re.search(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "editing.md", "exec"), {"__name__": "__main__"})
    found, shown = (np.asarray(Image.open(folder / "editing.png")) for folder in (tmp_path, DOCS / "images"))
    assert found.shape == shown.shape
    assert np.abs(found.astype(int) - shown).max() <= 8
