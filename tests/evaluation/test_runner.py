# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Runs of a benchmark: the same pictures whatever the batch and the processes, kills, failures, refusals.

`wallaroo-tiny` draws squares of four cells, which takes it a few milliseconds.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transformers_wallaroo import tiny_path
from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation import runner
from transformers_wallaroo.evaluation.benchmarks import BENCHMARKS
from transformers_wallaroo.evaluation.runner import run_benchmark
from transformers_wallaroo.evaluation.samples import jobs_of
from transformers_wallaroo.evaluation.settings import settings_for

from benchmark_prompts import DPG_TEXTS, GENEVAL_LINES, WRITERS, gedit_rows
from killing import killed_at

ROOT = Path(__file__).parents[2]
SIZE = 32


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint(device="cpu")


@pytest.fixture
def go(tiny, tmp_path):
    """Runs a benchmark on prompts of our own."""
    made: dict[str, Path] = {}

    def run(name, output="out", *, load=lambda *_args, **_options: tiny, change=None, paper=False, **options):
        if name not in made:
            (tmp_path / f"{name}-prompts").mkdir()
            made[name] = WRITERS[name](tmp_path / f"{name}-prompts")
        samples = BENCHMARKS[name].read(made[name])
        size = {} if BENCHMARKS[name].task == "edit" else {"size": SIZE}
        settings = settings_for(BENCHMARKS[name], paper=paper, **{**size, **(change or {})})
        options = {"device": "cpu", "show_progress": False, **options}
        return run_benchmark(
            BENCHMARKS[name],
            samples,
            None,
            tmp_path / output,
            settings=settings,
            load=load,
            prompts=made[name],
            **options,
        )

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def run_json(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


# ------------------------------------------------------------------ what the scorers find


def test_geneval_as_its_scorer_walks_it(go):
    report = go("geneval")
    assert (report.files, report.made, report.kept, report.failures) == (12, 12, 0, [])
    folders = sorted(path for path in report.pictures.iterdir() if path.is_dir() and path.name.isdigit())
    assert [path.name for path in folders] == ["00000", "00001", "00002"]
    for folder, line in zip(folders, GENEVAL_LINES, strict=True):
        with (folder / "metadata.jsonl").open() as file:
            assert json.load(file) == line
        pictures = sorted((folder / "samples").iterdir())
        assert [path.name for path in pictures] == [f"0000{index}.png" for index in range(4)]
        assert all(Image.open(path).size == (SIZE, SIZE) and Image.open(path).mode == "RGB" for path in pictures)
    assert len(set(contents(report.pictures).values())) > 6  # four draws of a prompt, and not one four times


def test_dpg_as_its_scorer_cuts_it(go, tiny, tmp_path):
    report = go("dpg", batch_size=4)
    assert sorted(path.name for path in report.pictures.iterdir()) == sorted(f"{item}.png" for item in DPG_TEXTS)
    grid = Image.open(report.pictures / "shapes0.png")
    assert grid.size == (2 * SIZE, 2 * SIZE)
    # Its four pictures are those of its seeds, row by row.
    model, processor = tiny
    samples = BENCHMARKS["dpg"].read(tmp_path / "dpg-prompts" / "prompts")
    [job] = [job for job in jobs_of(samples) if job.path == "shapes0.png"]
    for place, seed in enumerate(job.seeds("dpg", 0)):
        inputs = processor(text="a blue star", task="generate", height=SIZE, width=SIZE, return_tensors="pt")
        pixels = model.decode_image_tokens(model.generate(**inputs, seed=seed, show_progress=False))
        left, top = place % 2 * SIZE, place // 2 * SIZE
        expected = processor.image_processor.postprocess(pixels)[0]
        assert grid.crop((left, top, left + SIZE, top + SIZE)).tobytes() == expected.tobytes()


def test_imgedit_has_a_picture_a_key_in_the_size_of_its_source(go):
    report = go("imgedit")
    assert sorted(path.name for path in report.pictures.iterdir()) == ["40.png", "41.png", "42.png"]
    assert Image.open(report.pictures / "41.png").size == (64, 32)


def test_gedit_has_results_and_sources_side_by_side(go):
    report = go("gedit", batch_size=3)
    root = report.pictures / "wallaroo" / "fullset"
    for row in gedit_rows():
        folder = root / row["task_type"] / row["instruction_language"]
        source = Image.open(folder / f"{row['key']}_SRCIMG.png")
        assert source.tobytes() == row["input_image"].tobytes()
        edited = Image.open(folder / f"{row['key']}.png").convert("RGB").resize(source.size)
        assert np.abs(np.asarray(edited).astype(int) - np.asarray(source)).max() > 50  # something was changed
    assert len(list(root.rglob("*.png"))) == 8


def test_paper_settings_reach_prompt_and_decoding(go, tiny, monkeypatch):
    _model, processor = tiny
    seen = {}

    def spy(*_args, **options):
        seen.update(options)
        return [Image.new("RGB", (SIZE, SIZE))] * len(_args[2])

    monkeypatch.setattr(runner, "make_images", spy)
    go("dpg", paper=True)
    assert seen["layout"] == "evaluation" and seen["template"] == processor.templates["generate"]["en"][0]
    assert {name: seen[name] for name in ("guidance_scale", "top_k", "top_p", "temperature", "do_sample")} == {
        "guidance_scale": 4.0,
        "top_k": 1000,
        "top_p": 0.95,
        "temperature": 1.0,
        "do_sample": True,
    }


def test_the_layout_changes_the_pictures(go):
    """So it reaches the model."""
    first, second = go("geneval", "a", limit=1), go("geneval", "b", limit=1, change={"layout": "evaluation"})
    assert contents(first.pictures) != contents(second.pictures)


# ------------------------------------------------------------------ the same pictures


def test_batch_size_and_limit_do_not_matter(go):
    one, four, part = (
        go("geneval", "one", batch_size=1),
        go("geneval", "four", batch_size=4),
        go("geneval", "part", limit=2),
    )
    assert contents(one.pictures) == contents(four.pictures)
    assert contents(part.pictures).items() < contents(one.pictures).items() and part.files == 8
    other = go("geneval", "other", seed=1)
    assert contents(other.pictures).keys() == contents(one.pictures).keys()
    assert contents(other.pictures) != contents(one.pictures)


def test_edits_of_one_batch_and_of_several(go):
    assert contents(go("gedit", "one", batch_size=1).pictures) == contents(go("gedit", "four", batch_size=4).pictures)


def launched(*arguments, processes: int, output: Path) -> subprocess.Popen:
    """`wallaroo eval geneval` of its own, or in as many processes that `accelerate launch` starts."""
    command = [
        "-m",
        "transformers_wallaroo.cli",
        "eval",
        *map(str, arguments),
        "--output",
        str(output),
        "--device",
        "cpu",
    ]
    if processes > 1:
        config = str(ROOT / "examples" / "accelerate" / "ddp_cpu.yaml")
        port = ["--main_process_port", "0", "--num_processes", str(processes)]
        command = ["-m", "accelerate.commands.launch", "--config_file", config, *port, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, told = process.communicate(timeout=600)
    return process.returncode, told


@pytest.mark.slow
def test_two_processes_make_what_one_makes(go, tmp_path):
    alone = go("geneval", "alone", batch_size=2)
    prompts = tmp_path / "geneval-prompts" / "evaluation_metadata.jsonl"
    arguments = ("geneval", "--prompts", prompts, "--size", SIZE, "--batch-size", 2)
    status, told = ended(launched(*arguments, processes=2, output=tmp_path / "two"))
    assert status == 0, told[-3000:]
    assert told.count("12 files, 12 of them made now") == 1
    assert contents(tmp_path / "two" / "images") == contents(alone.pictures)
    run = run_json(tmp_path / "two")
    assert run["complete"] and run["sessions"][0]["processes"] == 2
    # A refusal of the first process ends the others too.
    status, told = ended(launched(*arguments, processes=2, output=tmp_path / "two"))
    assert status != 0 and "has a run already" in told


# ------------------------------------------------------------------ going on


def test_a_killed_run_goes_on_and_loses_and_redoes_nothing(go, tmp_path):
    whole = go("geneval", "whole", batch_size=1)
    prompts, output = tmp_path / "geneval-prompts" / "evaluation_metadata.jsonl", tmp_path / "killed"
    arguments = ("geneval", "--prompts", prompts, "--size", SIZE, "--batch-size", 1)
    process = launched(*arguments, processes=1, output=output)
    while not list((output / "images").rglob("*.png")):
        assert process.poll() is None, ended(process)[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert ended(process)[0] == -signal.SIGKILL
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (output / "images").rglob("*.png")}
    assert 1 <= len(before) < 12 and not run_json(output)["complete"]
    report = go("geneval", "killed", batch_size=1, resume=True)
    assert (report.made, report.kept) == (12 - len(before), len(before))
    assert all((path.stat().st_mtime_ns, path.read_bytes()) == was for path, was in before.items())
    assert contents(output / "images") == contents(whole.pictures)
    assert run_json(output)["complete"] and len(run_json(output)["sessions"]) == 2
    assert not (output / ".partial").exists()


@pytest.mark.parametrize(("name", "call"), [("dpg", 2), ("imgedit", 2), ("gedit", 2), ("gedit", 3)])
def test_no_benchmark_loses_or_redoes_anything_after_a_kill(go, tmp_path, name, call):
    """Between two pictures, and, of GEdit-Bench, between a picture and the copy of its source."""
    whole, output = go(name, "whole", batch_size=1, limit=2), tmp_path / "killed"
    killed_at(runner, "write_whole", call, lambda: go(name, "killed", batch_size=1, limit=2))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (output / "images").rglob("*.png")}
    assert len(before) == call - 1 and not run_json(output)["complete"]
    report = go(name, "killed", batch_size=1, limit=2, resume=True)
    kept = {path: was for path, was in before.items() if not path.stem.endswith("_SRCIMG")}
    assert (report.made, report.kept) == (whole.files - len(kept), len(kept))
    assert all((path.stat().st_mtime_ns, path.read_bytes()) == was for path, was in kept.items())
    assert contents(report.pictures) == contents(whole.pictures)
    assert run_json(output)["complete"] and not (output / ".partial").exists()


def test_damaged_and_missing_files_are_made_anew(go, tmp_path):
    report = go("gedit")
    before = contents(report.pictures)
    folder = report.pictures / "wallaroo" / "fullset" / "color_alter" / "en"
    (folder / "k0en.png").write_bytes(before["wallaroo/fullset/color_alter/en/k0en.png"][:200])
    (tmp_path / "out" / ".partial").mkdir()
    (tmp_path / "out" / ".partial" / "0-1-k1en.png").write_bytes(b"half")
    (report.pictures / "wallaroo" / "fullset" / "subject-add" / "cn" / "k1cn_SRCIMG.png").unlink()
    again = go("gedit", resume=True)
    assert (again.made, again.kept) == (2, 2)
    assert contents(report.pictures) == before and not (tmp_path / "out" / ".partial").exists()


def test_a_done_run_loads_no_model_and_a_longer_one_adds_to_it(go):
    go("geneval", limit=1)

    def load(*_args, **_options):
        raise AssertionError("nothing is to be made")

    assert go("geneval", limit=1, resume=True, load=load).kept == 4
    longer = go("geneval", resume=True)
    assert (longer.made, longer.kept) == (8, 4)


def test_a_run_goes_on_only_as_it_was_begun(go, tmp_path, untrained):
    go("geneval", limit=1)
    with pytest.raises(ValueError, match=r"has a run already. --resume"):
        go("geneval", limit=1)
    with pytest.raises(ValueError, match=r"begun otherwise: `guidance_scale` was None and is 2.0. Its pictures"):
        go("geneval", resume=True, change={"guidance_scale": 2.0})
    with pytest.raises(ValueError, match="`seed` was 0 and is 3"):
        go("geneval", resume=True, seed=3)
    with pytest.raises(ValueError, match="`paper` was False and is True"):
        go("geneval", resume=True, paper=True)
    with pytest.raises(ValueError, match="`benchmark` was 'geneval' and is 'dpg'"):
        go("dpg", resume=True)
    prompts = tmp_path / "geneval-prompts" / "evaluation_metadata.jsonl"
    samples = BENCHMARKS["geneval"].read(prompts)
    settings = settings_for(BENCHMARKS["geneval"], size=SIZE)
    with pytest.raises(ValueError, match="`checkpoint_sha256` was "):
        run_benchmark(
            BENCHMARKS["geneval"], samples, untrained, tmp_path / "out", settings=settings, resume=True, device="cpu"
        )
    with pytest.raises(ValueError, match="`prompts_sha256` was "):
        run_benchmark(
            BENCHMARKS["geneval"], samples[:2], None, tmp_path / "out", settings=settings, resume=True, device="cpu"
        )


def test_a_run_goes_on_only_with_the_same_pictures_to_edit(go, tmp_path):
    picture = tmp_path / "imgedit-prompts" / "things" / "1.jpg"
    go("imgedit", limit=1)
    whole = picture.read_bytes()
    picture.write_bytes(b"no picture")
    assert len(go("imgedit", resume=True, on_error="list").failures) == 1
    picture.write_bytes(whole)  # mended
    assert go("imgedit", resume=True).made == 1
    Image.new("RGB", (64, 32), "white").save(picture)
    with pytest.raises(ValueError, match="begun with other pictures to edit: 1 have changed, such as that of '41'"):
        go("imgedit", resume=True)


def test_the_hash_is_of_what_is_drawn_with(tmp_path):
    shutil.copytree(tiny_path(), tmp_path / "copy")
    before = runner.checkpoint_hash(tmp_path / "copy")
    assert before == runner.checkpoint_hash(tiny_path())
    (tmp_path / "copy" / "notes.json").write_text("{}")
    assert runner.checkpoint_hash(tmp_path / "copy") == before
    with (tmp_path / "copy" / "generation_config.json").open("a") as file:
        file.write(" ")
    assert runner.checkpoint_hash(tmp_path / "copy") != before


# ------------------------------------------------------------------ what fails


def break_picture(tmp_path):
    (tmp_path / "imgedit-prompts" / "things" / "1.jpg").write_bytes(b"no picture")


def test_a_failed_sample_stops_the_run_with_its_name(go, tmp_path):
    go("imgedit", "first")
    break_picture(tmp_path)
    with pytest.raises(ValueError, match=r"41\.png \(.*key '41'\) could not be made: .*1\.jpg.*no readable picture"):
        go("imgedit", batch_size=1)
    assert sorted(contents(tmp_path / "out" / "images")) == ["40.png"]
    assert not run_json(tmp_path / "out")["complete"]


def test_a_failed_sample_is_listed_and_the_others_are_made(go, tmp_path):
    first = go("imgedit", "first")
    picture = (tmp_path / "imgedit-prompts" / "things" / "1.jpg").read_bytes()
    break_picture(tmp_path)
    report = go("imgedit", on_error="list", batch_size=3)
    assert (report.made, [failure["path"] for failure in report.failures]) == (2, ["41.png"])
    [failure] = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert failure["prompt"] and "key '41'" in failure["where"] and "no readable picture" in failure["error"]
    assert not run_json(tmp_path / "out")["complete"] and run_json(tmp_path / "out")["failures"] == 1
    (tmp_path / "imgedit-prompts" / "things" / "1.jpg").write_bytes(picture)
    mended = go("imgedit", resume=True)
    assert (mended.made, mended.kept, mended.failures) == (1, 2, [])
    assert not (tmp_path / "out" / "failures.json").exists() and run_json(tmp_path / "out")["complete"]
    assert contents(mended.pictures) == contents(first.pictures)


def test_refusals(go, tmp_path):
    for options, message in (
        ({"limit": 0}, "`limit` must be at least 1, but got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, but got 0"),
        ({"on_error": "skip"}, r"`on_error` must be one of \('raise', 'list'\), but got 'skip'"),
    ):
        with pytest.raises(ValueError, match=message):
            go("geneval", **options)
    with pytest.raises(ValueError, match="hold no samples of DPG-Bench"):
        run_benchmark(BENCHMARKS["dpg"], [], None, tmp_path / "none", settings={})
    (tmp_path / "out" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has pictures, but no run.json"):
        go("geneval")


def test_a_checkpoint_that_does_not_edit(go, tiny):
    class Squares:
        row_ends = False

    with pytest.raises(ValueError, match="ImgEdit-Bench edits pictures, but the checkpoint makes squares only"):
        go("imgedit", load=lambda *_args, **_options: (tiny[0], Squares()))
