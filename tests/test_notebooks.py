# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The notebooks run from top to bottom, and their cells show what their words say."""

import base64
import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbclient, of the extra `dev`")
nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient, of the extra `dev`")
pytest.importorskip("ipykernel", reason="notebooks need ipykernel, of the extra `dev`")

FOLDER = Path(__file__).parent.parent / "examples" / "notebooks"
LARGEST = 200_000  # bytes of a notebook in the repository, with its pictures


def run(name: str, folder: Path, **parameters):
    """The executed cells. Parameters take effect after the cell that is tagged so, as papermill has it."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    places = [at for at, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assert len(places) == 1
    code = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(places[0] + 1, nbformat.v4.new_code_cell(code))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cells) -> str:
    return "".join(output.text for cell in cells for output in cell.outputs if output.get("name") == "stdout")


def pictures_of(cells) -> list[Image.Image]:
    data = [output["data"] for cell in cells for output in cell.outputs if "data" in output]
    found = [base64.b64decode(entry["image/png"]) for entry in data if "image/png" in entry]
    return [Image.open(io.BytesIO(content)) for content in found]


def test_quickstart_draws_and_answers(tmp_path):
    cells = run("quickstart", tmp_path)
    text = text_of(cells)
    assert re.search(r"what color is the circle\? -> .*red", text)
    assert re.search(r"what color is the star\? -> blue", text)
    assert re.search(r"describe the picture -> .*purple square", text)
    assert re.search(
        r"a red circle -> generate\nmake the circle blue -> edit\nwhat color is the circle\? -> blue", text
    )
    assert "the same picture: True" in text
    [sheet] = pictures_of(cells)
    assert sheet.width > 500


def test_edits_change_what_was_asked_and_little_else(tmp_path):
    cells = run("edit", tmp_path)
    text = text_of(cells)
    kept = {line.split(":")[0]: float(re.search(r": (\d\.\d\d) of", line)[1]) for line in text.splitlines()}
    # Of twelve cells one changes, or all where it is the background.
    assert kept.pop("make the background black") == 0
    assert kept == dict.fromkeys(kept, 0.92) and len(kept) == 3
    assert len(pictures_of(cells)) == 2


@pytest.mark.slow
def test_lora_changes_the_pictures(tmp_path):
    """With few steps at a high rate, so that it takes seconds: whether a style shows, not how well it is learned."""
    cells = run("lora_style", tmp_path, work=str(tmp_path / "work"), num_pictures=24, steps=12, learning_rate=4e-3)
    before, after = re.search(r"in the style: (\d) of 8 before, (\d) of 8 after", text_of(cells)).groups()
    assert int(after) > int(before)
    assert len(pictures_of(cells)) == 3
    final = tmp_path / "work" / "run" / "final"
    assert (final / "adapter_model.safetensors").is_file() and f"{final}: " in text_of(cells)
    assert (tmp_path / "work" / "merged" / "modeling_wallaroo.py").is_file()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_is_committed_is_small_and_without_errors(path):
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert "/root/" not in path.read_text(encoding="utf-8") and "/home/" not in path.read_text(encoding="utf-8")


def test_every_notebook_has_its_test():
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'run("{path.stem}"' in text for path in FOLDER.glob("*.ipynb"))
