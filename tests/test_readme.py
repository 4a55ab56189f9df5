"""The README's Python blocks, run in order as one program, with the tiny checkpoint in place of the released one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_readme_snippets_run(converted, tmp_path):
    """In a process of its own, as a reader would: the package is imported only where the README does so."""
    shutil.copytree(converted, tmp_path / "wallaroo-7b")
    for picture in (ROOT / "examples" / "pictures").glob("*.png"):
        shutil.copy(picture, tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    (tmp_path / "readme.py").write_text("\n".join(blocks), encoding="utf-8")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "readme.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("kangaroo.png", "pink.png", "drawn.png", "edited.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_readme_says_the_two_commands_first():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first_block = re.search(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert first_block
    assert "make demo" in first_block[1]
    assert "make test" in first_block[1]
    assert first_block.start() < text.index("```python")


def test_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/transformers_wallaroo/*/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"
