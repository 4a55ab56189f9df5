# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Folders that are complete for their scorer, and folders that are not."""

import pytest
from PIL import Image

from transformers_wallaroo.evaluation.benchmarks import BENCHMARKS
from transformers_wallaroo.evaluation.checking import check_folder, samples_of_run

from benchmark_prompts import WRITERS


@pytest.fixture
def made(tmp_path):
    """A folder as the scorer wants it, without a model."""

    def make(name, size=(32, 32)):
        (tmp_path / "from").mkdir()
        samples = BENCHMARKS[name].read(WRITERS[name](tmp_path / "from"))
        for sample in samples:
            for file in sample.files:
                path = tmp_path / "pictures" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                if file in sample.texts:
                    path.write_text(sample.texts[file].replace(": ", ":"))
                else:
                    Image.new("RGB", size).save(path)
        return BENCHMARKS[name], tmp_path / "pictures", samples

    return make


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_complete_folders(made, name):
    benchmark, folder, samples = made(name)
    (folder / "result.json").write_text("{}")  # what one of the scorers writes there
    report = check_folder(benchmark, folder, samples)
    assert report.complete and str(report).endswith("Complete.") and "Not" not in str(report)
    assert report.expected == sum(report.sizes.values()) == sum(len(sample.pictures) for sample in samples)


def test_what_is_wrong_with_geneval(made):
    benchmark, folder, samples = made("geneval")
    (folder / "00000/samples/00003.png").unlink()
    (folder / "00001/samples/00000.png").write_bytes((folder / "00001/samples/00000.png").read_bytes()[:60])
    Image.new("RGB", (32, 48)).save(folder / "00001/samples/00001.png")
    (folder / "00001/metadata.jsonl").write_text("{}")
    (folder / "00002/metadata.jsonl").write_text("{")
    (folder / "00002/samples/00004.png").write_bytes(b"")
    report = check_folder(benchmark, folder, samples)
    assert not report.complete
    assert report.missing == ["00000/samples/00003.png"]
    assert report.unreadable == ["00001/samples/00000.png"]
    assert report.extra == ["00002/samples/00004.png"]
    assert report.wrong == [
        "00001/samples/00001.png (32x48 instead of 32x32)",
        "00001/metadata.jsonl (not that of the prompts)",
        "00002/metadata.jsonl (not that of the prompts)",
    ]
    text = str(report)
    assert "12 files of pictures expected; there are 9 of 32x32, 1 of 32x48" in text
    assert "missing 1: 00000/samples/00003.png" in text and text.endswith("Not complete.")


def test_sizes_of_grids(made):
    benchmark, folder, samples = made("dpg", (64, 64))
    assert check_folder(benchmark, folder, samples, size=32).complete
    report = check_folder(benchmark, folder, samples, size=64)
    assert report.wrong[0] == "7.png (64x64 instead of 128x128)" and len(report.wrong) == 3
    Image.new("RGB", (65, 65)).save(folder / "7.png")
    assert check_folder(benchmark, folder, samples).wrong == ["7.png (65x65 instead of a grid of 2x2 squares)"]


def test_many_problems_are_counted_and_some_named(made):
    benchmark, folder, samples = made("geneval")
    for path in folder.rglob("*.png"):
        path.unlink()
    assert "missing 12: 00000/samples/00000.png" in str(check_folder(benchmark, folder, samples))
    assert "00002/samples/00001.png and 2 more" in str(check_folder(benchmark, folder, samples))


def test_refusals(made, tmp_path):
    benchmark, folder, samples = made("dpg")
    with pytest.raises(ValueError, match="there is no folder"):
        check_folder(benchmark, folder / "none", samples)
    with pytest.raises(ValueError, match=r"`prompts` must be given, since .* has no run.json"):
        samples_of_run(benchmark, folder)
    (tmp_path / "run.json").write_text('{"benchmark": "geneval"}')
    with pytest.raises(ValueError, match="has a run of 'geneval', not of 'dpg'"):
        samples_of_run(benchmark, tmp_path)
