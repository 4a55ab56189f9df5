"""The README's Python blocks, run in order as one program, with the tiny checkpoint in place of the released one."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent


def python_blocks(name: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def test_readme_snippets_run(converted, tmp_path, monkeypatch):
    shutil.copytree(converted, tmp_path / "wallaroo-7b")
    for picture in (ROOT / "examples" / "pictures").glob("*.png"):
        shutil.copy(picture, tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks("README.md")
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, python block {number + 1}", "exec"), names)


def test_readme_says_the_two_commands_first():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first_block = re.search(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert first_block
    assert "make demo" in first_block[1]
    assert "make test" in first_block[1]
    assert first_block.start() < text.index("```python")


def test_links_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("model_cards/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"
