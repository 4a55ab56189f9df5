# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Runs that measure pictures, `eval vq` and `eval fid`: kills, processes, what is kept, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from transformers_wallaroo import cli
from transformers_wallaroo.evaluation import measuring, reconstruction
from transformers_wallaroo.evaluation.measuring import MeasureStore, Pictures
from transformers_wallaroo.evaluation.reconstruction import evaluate_vq
from transformers_wallaroo.evaluation.report_page import save_report_page
from transformers_wallaroo.shapes.world import render
from transformers_wallaroo.training.vq_report import report_scenes

from forking import in_processes
from measured_pictures import means, measure

pytest.importorskip("torchmetrics", reason="it is in the extra `metrics`")

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("measured_pictures.py")
KINDS = ("vq", "fid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of the shapes world of several sizes, some of them in a folder of their own."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "more").mkdir()
    for number, scene in enumerate(report_scenes(3, 24)):
        render(scene).save(root / ("more" if number % 3 == 0 else "") / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Of each kind, the folder of a run of one process that nobody stopped."""
    root = tmp_path_factory.mktemp("whole")
    for kind in KINDS:
        measure(kind, folder, root / kind)
    return root


def started(*arguments, processes=1):
    command = [str(PROGRAM), *map(str, arguments)]
    if processes > 1:
        config = str(ROOT / "examples" / "accelerate" / "ddp_cpu.yaml")
        port = ["--main_process_port", "0", "--num_processes", str(processes)]
        command = ["-m", "accelerate.commands.launch", "--config_file", config, *port, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def contents(output):
    """All that a run makes but its times."""
    names = ("report.json", "pictures.jsonl", "measured")
    files = [path for name in names for path in [output / name, *sorted((output / name).glob("*"))] if path.is_file()]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


def measured_of(output):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (output / "measured").glob("*.safetensors")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_and_loses_and_redoes_nothing(folder, whole, tmp_path, kind):
    output = tmp_path / "killed"
    process = started(kind, folder, output)
    while len(measured_of(output)) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = measured_of(output)
    assert 2 <= len(before) < len(measured_of(whole / kind))
    assert not json.loads((output / "run.json").read_text())["complete"] and not (output / "report.json").exists()
    counted = []
    measure(kind, folder, output, resume=True, extractor=lambda batch: counted.append(len(batch)) or means(batch))
    sides = 2 if kind == "vq" else 1  # before and after
    assert sum(counted) == sides * sum(len(load_file(path)["index"]) for path in measured_of(output).keys() - before)
    assert all(measured_of(output)[path] == was for path, was in before.items())
    assert contents(output) == contents(whole / kind)
    run = json.loads((output / "run.json").read_text())
    assert run["complete"] and len(run["sessions"]) == 2 and not (output / ".partial").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_make_what_one_makes(folder, whole, tmp_path, kind):
    """At once, and after half of what was measured is lost."""
    reports = in_processes(lambda _rank: measure(kind, folder, tmp_path / "two"), tmp_path / "told")
    expected = json.loads((whole / kind / "report.json").read_text())
    # Both have the numbers, whoever has put them together.
    assert reports == [expected, expected]
    assert contents(tmp_path / "two") == contents(whole / kind)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["sessions"][0]["processes"] == 2
    for path in MeasureStore(tmp_path / "two").files()[::2]:
        path.unlink()
    again = in_processes(lambda _rank: measure(kind, folder, tmp_path / "two", resume=True), tmp_path / "told again")
    assert again == [expected, expected] and contents(tmp_path / "two") == contents(whole / kind)

    def refused(_rank):
        with pytest.raises(ValueError, match="has a run already"):  # that of the first process, in both
            measure(kind, folder, tmp_path / "two")

    in_processes(refused, tmp_path / "refused")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_accelerate_launches_two_processes(folder, whole, tmp_path, kind):
    process = started(kind, folder, tmp_path / "two", processes=2)
    out, told = process.communicate(timeout=600)
    assert process.returncode == 0, told[-3000:]
    # Both have the numbers, whoever has put them together.
    assert out.count(json.dumps(json.loads((whole / kind / "report.json").read_text())["pictures"])) == 2
    assert contents(tmp_path / "two") == contents(whole / kind)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["sessions"][0]["processes"] == 2
    # A refusal of the first process ends the other too.
    process = started(kind, folder, tmp_path / "two", processes=2)
    _, told = process.communicate(timeout=600)
    assert process.returncode != 0 and "has a run already" in told


def test_rows_and_report(folder, whole):
    report = json.loads((whole / "vq" / "report.json").read_text())
    rows = [json.loads(line) for line in (whole / "vq" / "pictures.jsonl").read_text().splitlines()]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert [row["path"] for row in rows] == files and report["pictures"] == len(files) == 24
    assert report["psnr"] == pytest.approx(sum(row["psnr"] for row in rows) / 24)
    assert sum(row["size"] == [64, 64] for row in rows) == report["sizes"]["64x64"]


def test_a_done_run_measures_nothing_and_a_longer_one_adds_to_it(folder, whole, tmp_path):
    def fail(_pictures):
        raise AssertionError("nothing is to be measured")

    short = measure("vq", folder, tmp_path / "run", limit=6)
    assert short["pictures"] == 6
    before = measured_of(tmp_path / "run")
    assert measure("vq", folder, tmp_path / "run", limit=6, resume=True, extractor=fail) == short
    longer = measure("vq", folder, tmp_path / "run", resume=True)
    assert measured_of(tmp_path / "run").items() > before.items()
    expected = json.loads((whole / "vq" / "report.json").read_text())
    assert longer["psnr"] == pytest.approx(expected["psnr"], abs=1e-3) and longer["pictures"] == 24
    assert measure("vq", folder, tmp_path / "run", limit=6, resume=True, extractor=fail) == short
    assert measure("fid", folder, tmp_path / "fid", limit=4)["pictures"] == [4, 4]


def test_the_shapes_world_goes_on_too(tmp_path):
    options = {"device": "cpu", "show_progress": False}
    evaluate_vq(None, "shapes", tmp_path / "run", limit=4, **options)
    assert evaluate_vq(None, "shapes", tmp_path / "run", limit=6, resume=True, **options)["pictures"] == 6


def test_damaged_files_are_measured_anew(folder, whole, tmp_path):
    measure("fid", folder, tmp_path / "run")
    damaged = MeasureStore(tmp_path / "run").files()[1]
    damaged.write_bytes(damaged.read_bytes()[:-10])
    (tmp_path / "run" / ".partial").mkdir()
    (tmp_path / "run" / ".partial" / "0-1-x.safetensors").write_bytes(b"half")
    measure("fid", folder, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(whole / "fid") and not (tmp_path / "run" / ".partial").exists()


def test_what_could_not_be_read_is_tried_anew(folder, tmp_path):
    for path in folder.rglob("*.png"):
        (tmp_path / "some" / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "some" / path.relative_to(folder)).write_bytes(path.read_bytes())
    bad = tmp_path / "some" / "01.png"
    bad.write_bytes(bad.read_bytes()[:60])
    report = measure("vq", tmp_path / "some", tmp_path / "run")
    assert [entry["path"] for entry in report["unreadable"]] == [str(bad)] and report["pictures"] == 23
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert not run["complete"] and run["failures"] == 1
    [part] = save_report_page([tmp_path / "run"], tmp_path / "report.html")
    assert part.complete is False and len(part.problems) == 1 and "01.png failed" in part.problems[0]
    bad.write_bytes((folder / "01.png").read_bytes())
    mended = measure("vq", tmp_path / "some", tmp_path / "run", resume=True)
    assert mended["pictures"] == 24 and json.loads((tmp_path / "run" / "run.json").read_text())["complete"]
    assert not (tmp_path / "run" / "failures.json").exists()


def test_a_run_goes_on_only_as_it_was_begun(folder, tmp_path, untrained):
    output = tmp_path / "run"
    measure("vq", folder, output, limit=2)
    with pytest.raises(ValueError, match=r"has a run already. --resume"):
        measure("vq", folder, output, limit=2)
    with pytest.raises(ValueError, match=r"begun otherwise: `size` was None and is \[32, 32\]"):
        measure("vq", folder, output, resume=True, size=(32, 32))
    with pytest.raises(ValueError, match="`inception` was 'given' and is None"):
        measure("vq", folder, output, resume=True, extractor=None)
    with pytest.raises(ValueError, match="`benchmark` was 'vq' and is 'fid'"):
        measure("fid", folder, output, resume=True)
    with pytest.raises(ValueError, match="`pictures_sha256` was "):
        measure("vq", folder / "more", output, resume=True)
    with pytest.raises(ValueError, match="`checkpoint_sha256` was "):
        evaluate_vq(untrained, folder, output, resume=True, extractor=means, device="cpu")
    (output / "run.json").unlink()
    with pytest.raises(ValueError, match=r"has measured pictures, but no run\.json that says whose"):
        measure("vq", folder, output)


def test_a_run_goes_on_only_with_the_same_pictures(tmp_path):
    for number in range(3):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    measure("vq", tmp_path, tmp_path / "run", limit=2)
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"begun with other pictures: 1 have changed, such as .*0\.png"):
        measure("vq", tmp_path, tmp_path / "run", resume=True)


def test_an_error_of_the_measure_stops_the_run_and_keeps_what_was_before(folder, tmp_path):
    seen = []

    def runs_out(pictures):
        seen.append(pictures)
        if len(seen) > 4:
            raise RuntimeError("out of memory")
        return means(pictures)

    with pytest.raises(RuntimeError, match="out of memory"):
        measure("vq", folder, tmp_path / "run", extractor=runs_out)
    assert len(measured_of(tmp_path / "run")) == 2
    [part] = save_report_page([tmp_path / "run"], tmp_path / "report.html")
    assert part.complete is False and "did not come to its end" in part.problems[0]


def test_batches_are_of_one_size_and_in_one_order(tmp_path):
    """A photograph that lies on its side by its EXIF data is measured beside those of its true size."""
    items = [Image.new("RGB", (4 + number % 2, 4)) for number in range(9)]
    pictures = Pictures([str(number) for number in range(9)], items, range(8))
    assert pictures.plan(3) == [[0, 2, 4], [1, 3, 5], [6], [7]]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 32), "red").save(tmp_path / "0.jpg", exif=exif)
    Image.new("RGB", (48, 32), "red").save(tmp_path / "1.jpg")
    measure("fid", write_more(tmp_path), tmp_path / "run")
    sizes = {tuple(row) for path in MeasureStore(tmp_path / "run").files() for row in load_file(path)["size"].tolist()}
    assert sizes == {(48, 32), (32, 48)}


def write_more(root):
    """Pictures to compare with those of the folder itself."""
    (root / "more").mkdir()
    for number in range(2):
        Image.new("RGB", (48, 32), (9 * number, 0, 0)).save(root / "more" / f"{number}.png")
    return root


def test_without_a_folder(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(reconstruction.tempfile, "tempdir", str(tmp_path))
    assert measure("vq", folder, None, limit=2)["pictures"] == 2 and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="`resume` needs `output`"):
        measure("vq", folder, None, resume=True)


@pytest.mark.parametrize("arguments", [["vq"], ["fid", ".", "."]])
def test_processes_need_a_folder(monkeypatch, arguments):
    class Two(reconstruction.Processes):
        def __enter__(self):
            self.count = 2
            return self

        def __exit__(self, *_error):
            pass

    monkeypatch.setattr(reconstruction, "Processes", Two)
    monkeypatch.setattr(reconstruction, "check_weights", lambda _path: None)
    told = CliRunner().invoke(cli.app, ["eval", *arguments, "--fid-weights", "inception.pth"])
    assert told.exit_code == 2 and "2 were started without it (--output DIR)" in told.stderr


def test_the_command_goes_on(folder, tmp_path):
    arguments = ["eval", "vq", "--pictures", str(folder), "--output", str(tmp_path / "run"), "--device", "cpu"]
    first = CliRunner().invoke(cli.app, [*arguments, "--limit", "3"])
    assert first.exit_code == 0, first.stderr
    again = CliRunner().invoke(cli.app, arguments)
    assert again.exit_code == 2 and "has a run already. --resume" in again.stderr
    on = CliRunner().invoke(cli.app, [*arguments, "--resume"])
    assert on.exit_code == 0 and json.loads(on.stdout)["pictures"] == 24
    assert json.loads(on.stdout) == json.loads((tmp_path / "run" / measuring.REPORT).read_text())
    page = CliRunner().invoke(cli.app, ["eval", "report", str(tmp_path / "run"), "--output", str(tmp_path / "r.html")])
    assert page.exit_code == 0 and "VQ tokenizer" in (tmp_path / "r.html").read_text(), page.stderr
