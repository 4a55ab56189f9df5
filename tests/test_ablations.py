"""The ablations: every run can be made, and two of each group are trained and scored for real, if shortly."""

import json
import shutil
from pathlib import Path

import pytest

from transformers_wallaroo.shapes import KINDS
from transformers_wallaroo.training.run import build_trainer
from transformers_wallaroo.training.stages import StageConfig

import run_ablations
from untrained import save_untrained

GROUPS = run_ablations.read_groups()
SMALL = {
    "editing": {"tasks": {"generate": 1, "edit": 1, "understand": 1}, "compile": False},
    "sizes": {"tasks": {"generate": 1, "understand": 1}, "compile": False},
}
VARIANTS = [(group, name) for group, values in GROUPS.items() for name in values["variants"]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder as `make tiny` leaves it, with untrained checkpoints."""
    folder = tmp_path_factory.mktemp("tiny")
    for group in GROUPS.values():
        save_untrained(folder / group["init"])
    return folder


def run(monkeypatch, tiny, output, *arguments) -> None:
    short = ["--steps", "2", "--points", "2", "--samples", "18", "--threads", "1"]
    monkeypatch.setattr(
        "sys.argv", ["run_ablations.py", "--tiny", str(tiny), "--output", str(output), *short, *arguments]
    )
    run_ablations.main()


@pytest.mark.parametrize(("group", "name"), VARIANTS)
def test_each_variant_makes_a_trainer(tiny, tmp_path, group, name):
    class Options:
        steps, points = 8, 4

    Options.tiny = tiny
    choices = GROUPS[group]["variants"][name]
    config = run_ablations.stage_of(GROUPS[group], {**choices, **SMALL[group]}, Options, tmp_path / "run")
    assert isinstance(config, StageConfig) and config.steps == 8 and config.save_steps == 2
    assert {key: getattr(config, key) for key in choices} == choices
    trainer = build_trainer(config)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(config.batch_size)])
    assert trainer.model(**{key: value for key, value in batch.items() if key != "dropped"}).loss.isfinite()


def test_released_choices_are_what_the_stage_recipe_says(tiny, tmp_path):
    class Options:
        steps, points = 8, 4

    Options.tiny = tiny
    for group in GROUPS.values():
        config = run_ablations.stage_of(group, group["variants"]["released"], Options, tmp_path)
        assert (config.mask_ratio, config.source_order, config.source_positions) == (0.6, None, None)
        assert (config.size_indicators, config.shared_image_head) == ("token", None)


@pytest.fixture
def groups(monkeypatch):
    """The last two variants of each group, with small batches."""
    groups = {
        name: {**group, "variants": {own: {**choices, **SMALL[name]} for own, choices in group["variants"].items()}}
        for name, group in GROUPS.items()
    }
    for group in groups.values():
        group["variants"] = dict(list(group["variants"].items())[-2:])
    monkeypatch.setattr(run_ablations, "read_groups", lambda: groups)
    return groups


def results_of(out) -> dict:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_runs_are_scored_once_and_written_down(tiny, tmp_path, monkeypatch, groups):
    out = tmp_path / "out"
    run(monkeypatch, tiny, out)
    results = results_of(out)
    table = (out / "results.md").read_text(encoding="utf-8")
    for name, group in groups.items():
        assert list(results[name]) == list(group["variants"])
        for result in results[name].values():
            assert list(result["curve"]) == ["1", "2"] and all(loss > 0 for loss in result["curve"].values())
            assert 0 <= result["report"]["overall"][group["task"]] <= 1
        assert group["paper"].split()[0] in table
        assert all(f"| {variant} |" in table for variant in group["variants"])
    assert all(kind in table for kind in KINDS["edit"])
    # Again: nothing is trained or scored; and one group alone keeps what the other found.
    monkeypatch.setattr(run_ablations, "run_stage", None)
    monkeypatch.setattr(run_ablations, "evaluate_shapes", None)
    for arguments in ((), ("--only", "sizes"), ("--only", "editing")):
        run(monkeypatch, tiny, out, *arguments)
        assert results_of(out) == results and (out / "results.md").read_text(encoding="utf-8") == table


@pytest.fixture
def trainings(monkeypatch):
    """Stands in for training and scoring; the list says which seed, steps and weights each training had."""
    done = []

    class Report:
        def to_dict(self):
            kinds = {task: {kind: {"score": 0.5} for kind in own} for task, own in KINDS.items()}
            return {"overall": dict.fromkeys(KINDS, 0.5), "standard_error": dict.fromkeys(KINDS, 0.1), "kinds": kinds}

    class Loaded:
        @classmethod
        def from_pretrained(cls, folder):
            assert folder.name == "final" and folder.is_dir()
            return cls()

        def eval(self):
            return self

    def run_stage(config):
        final = Path(config.output) / "final"
        # As the real one: what is there already counts as done.
        if not final.is_dir():
            done.append((Path(config.output).name, config.steps, config.mask_ratio))
            final.mkdir(parents=True)
            (final.parent / f"checkpoint-{config.steps}").mkdir()
        return final

    monkeypatch.setattr(run_ablations, "run_stage", run_stage)
    monkeypatch.setattr(run_ablations, "held_out_loss", lambda folder, task, count: 1.0)  # noqa: ARG005
    monkeypatch.setattr(run_ablations, "evaluate_shapes", lambda *_, **__: Report())
    monkeypatch.setattr(run_ablations, "WallarooForConditionalGeneration", Loaded)
    monkeypatch.setattr(run_ablations, "WallarooProcessor", Loaded)
    return done


def test_a_run_of_other_settings_is_trained_anew(tiny, tmp_path, monkeypatch, groups, trainings, caplog):
    out = tmp_path / "out"
    groups["editing"]["variants"] = {"mask": {"mask_ratio": 0.5}}
    groups["sizes"]["variants"] = {"released": {}}
    run(monkeypatch, tiny, out)
    assert trainings == [("editing-mask", 2, 0.5), ("sizes-released", 2, 0.6)]
    # More samples: scored again with the same weights. Another choice, or length: trained anew, and said.
    run(monkeypatch, tiny, out, "--samples", "19")
    assert len(trainings) == 2 and results_of(out)["sizes"]["released"]["settings"]["samples"] == 19
    assert "other settings" not in caplog.text and "sizes, released: 0.50" in caplog.text
    groups["editing"]["variants"]["mask"]["mask_ratio"] = 0.75
    run(monkeypatch, tiny, out, "--samples", "19")
    assert trainings[2:] == [("editing-mask", 2, 0.75)]
    assert "editing-mask was trained with other settings" in caplog.text and "sizes-released" not in caplog.text
    caplog.clear()
    run(monkeypatch, tiny, out, "--steps", "3", "--samples", "19", "--only", "sizes")
    assert trainings[3:] == [("sizes-released", 3, 0.6)]
    assert not (out / "sizes-released" / "checkpoint-2").exists()
    assert list(results_of(out)) == ["sizes"]
    assert "results.md leaves out what was made with other settings: editing-mask." in caplog.text


def test_a_run_from_other_weights_or_of_unknown_settings_is_trained_anew(
    tiny, tmp_path, monkeypatch, groups, trainings
):
    del groups["editing"]
    groups["sizes"]["variants"] = {"released": {}}
    out, moved = tmp_path / "out", tmp_path / "tiny"
    shutil.copytree(tiny, moved)
    run(monkeypatch, tiny, out)
    run(monkeypatch, moved, out)
    assert len(trainings) == 1, "the same weights in another folder"
    weights = moved / GROUPS["sizes"]["init"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    run(monkeypatch, moved, out)
    assert len(trainings) == 2
    # Killed after training: it is scored, not trained again. A folder that does not say what it is: trained anew.
    (out / "sizes-released" / "result.json").unlink()
    run(monkeypatch, moved, out)
    assert len(trainings) == 2 and list(results_of(out)["sizes"]) == ["released"]
    (out / "sizes-released" / "result.json").unlink()
    (out / "sizes-released" / "settings.json").unlink()
    run(monkeypatch, moved, out)
    assert len(trainings) == 3


def test_too_few_samples_are_told_before_training(tiny, tmp_path, monkeypatch, trainings):
    with pytest.raises(ValueError, match=r"`samples` must be at least 18, .* kinds of 'edit' .*, but got 17"):
        run(monkeypatch, tiny, tmp_path / "out", "--samples", "17")
    assert not trainings


def test_help(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run_ablations.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        run_ablations.main()
    assert "make tiny" in capsys.readouterr().out
