"""The ablations: every run can be made, and two of each group are trained and scored for real, if shortly."""

import json

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
    short = ["--steps", "2", "--points", "2", "--samples", "12", "--threads", "1"]
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


def test_runs_are_scored_once_and_written_down(tiny, tmp_path, monkeypatch):
    groups = {
        name: {**group, "variants": {own: {**choices, **SMALL[name]} for own, choices in group["variants"].items()}}
        for name, group in GROUPS.items()
    }
    for group in groups.values():
        group["variants"] = dict(list(group["variants"].items())[-2:])
    monkeypatch.setattr(run_ablations, "read_groups", lambda: groups)
    out = tmp_path / "out"
    run(monkeypatch, tiny, out)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    table = (out / "results.md").read_text(encoding="utf-8")
    for name, group in groups.items():
        assert list(results[name]) == list(group["variants"])
        for result in results[name].values():
            assert list(result["curve"]) == ["1", "2"] and all(loss > 0 for loss in result["curve"].values())
            assert 0 <= result["report"]["overall"][group["task"]] <= 1
        assert group["paper"].split()[0] in table
        assert all(f"| {variant} |" in table for variant in group["variants"])
    assert all(kind in table for kind in KINDS["edit"])
    # Again: nothing is trained or scored; and one group alone.
    monkeypatch.setattr(run_ablations, "run_stage", None)
    monkeypatch.setattr(run_ablations, "evaluate_shapes", None)
    run(monkeypatch, tiny, out, "--only", "sizes")
    assert list(json.loads((out / "results.json").read_text(encoding="utf-8"))) == ["sizes"]


def test_help(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run_ablations.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        run_ablations.main()
    assert "make tiny" in capsys.readouterr().out
