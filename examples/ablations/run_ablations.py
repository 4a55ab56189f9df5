# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Runs the paper's ablations at the small scale: short trainings that differ in one choice, each scored at its end.

    make tiny                                                  # first: they start from its stages
    python examples/ablations/run_ablations.py --output runs/ablations   # all; stopped, it goes on where it was
    python examples/ablations/run_ablations.py --only editing --steps 200 --samples 90

Writes `results.json` and `results.md` (a table and the curves of each group) into the output folder after every run.
They hold every run of these settings, of all groups. A run of other settings, or from another checkpoint, is removed
and trained anew when its turn comes; its folder's `settings.json` says what it was trained with.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils import logging

from transformers_wallaroo import WallarooDataCollator, WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.evaluation import evaluate_shapes
from transformers_wallaroo.evaluation.shapes import check_samples
from transformers_wallaroo.shapes import make_sample
from transformers_wallaroo.training.recipes import read_recipe
from transformers_wallaroo.training.resuming import write_whole
from transformers_wallaroo.training.run import run_stage
from transformers_wallaroo.training.stages import StageConfig

HERE = Path(__file__).parent
HELD_OUT_SEED, LOSS_BATCH = 40260, 32

# Its messages are warnings, for those alone are shown of a logger that is not transformers' own.
logger = logging.get_logger("transformers_wallaroo.ablations")


def read_groups() -> dict[str, Any]:
    """The runs, in groups that share a stage."""
    return yaml.safe_load((HERE / "ablations.yaml").read_text(encoding="utf-8"))


def stage_of(group: dict[str, Any], choices: dict[str, Any], options: argparse.Namespace, output: Path) -> StageConfig:
    """The recipe of a run: that of the stage, shorter, with what all runs of the group change, and its one choice."""
    recipe = read_recipe(HERE / group["recipe"])
    for name in ("evaluation", "eval_steps", "previews"):
        recipe.pop(name, None)
    every = -(-options.steps // options.points)
    recipe.update(
        init=str(Path(options.tiny) / group["init"]),
        output=str(output),
        steps=options.steps,
        save_steps=every,
        logging_steps=every,
        trainer={**recipe.get("trainer", {}), "save_total_limit": options.points + 1},
    )
    recipe.update({**group.get("changes", {}), **choices})
    return StageConfig.from_dict(recipe, group["recipe"])


@torch.no_grad()
def held_out_loss(checkpoint: Path, task: str, count: int) -> float:
    """Mean cross entropy of the codes of held-out pictures, in nats, with nothing of an edit's source masked: as when
    the model is used, whatever it was trained with."""
    model = WallarooForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager").eval()
    collator = WallarooDataCollator(
        WallarooProcessor.from_pretrained(checkpoint),
        mask_ratio=0.0,
        unconditional_probability=0.0,
        source_positions=model.config.source_positions,
    )
    total = weight = 0.0
    for start in range(0, count, LOSS_BATCH):
        samples = [make_sample(task, index, HELD_OUT_SEED) for index in range(start, min(start + LOSS_BATCH, count))]
        loss = model(**collator(samples)).losses[f"{task}_image"].item()
        codes = sum(sample["image"].height * sample["image"].width for sample in samples)
        total, weight = total + loss * codes, weight + codes
    return total / weight


@dataclasses.dataclass(frozen=True)
class Run:
    """A variant with all that decides its result.

    Attributes:
        group, variant, task: its names, and the task that it is scored on.
        config: the stage to train.
        samples: that it is scored on.
        training: what the weights depend on, as JSON has it: the stage but for its folder, and which weights are first.
    """

    group: str
    variant: str
    task: str
    config: StageConfig
    samples: int
    training: dict[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.config.output)

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.training, "samples": self.samples}

    def result(self) -> Any:
        """The result in the folder, if it is of these settings; else `None`."""
        result = read_json(self.folder / "result.json")
        return result if result is not None and result["settings"] == self.settings else None


def runs_of(groups: dict[str, Any], options: argparse.Namespace) -> list[Run]:
    """All runs, in the order of the file."""
    runs = []
    for group_name, group in groups.items():
        # The folder may come to hold other weights under the same name.
        weights = Path(options.tiny) / group["init"] / "model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None
        for variant, choices in group["variants"].items():
            name = f"{group_name}-{variant}".replace(",", "").replace(" ", "-").replace("/", "-")
            config = stage_of(group, choices, options, Path(options.output) / name)
            stage = {key: value for key, value in dataclasses.asdict(config).items() if key not in ("init", "output")}
            training = json.loads(json.dumps({"stage": stage, "init": group["init"], "init_sha256": digest}))
            runs.append(Run(group_name, variant, group["task"], config, options.samples, training))
    return runs


def read_json(path: Path) -> Any:
    """`None` where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def prepare_folder(run: Run) -> None:
    """Removes a training of other settings, which would be taken for this one, and notes the settings of this one."""
    path = run.folder / "settings.json"
    if read_json(path) == run.training:
        return
    if run.folder.is_dir():
        logger.warning(
            f"{run.folder} was trained with other settings, or does not say with which; it is removed and trained anew."
        )
        shutil.rmtree(run.folder)
    run.folder.mkdir(parents=True)
    write_whole(path, json.dumps(run.training, indent=2) + "\n")


def train_and_score(run: Run) -> Any:
    """Trains a variant, or goes on with it, and scores it. What was scored with the same settings is not done again."""
    if (result := run.result()) is not None:
        return result
    prepare_folder(run)
    final = run_stage(run.config)
    checkpoints = sorted(run.folder.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    curve = {int(folder.name.split("-")[1]): held_out_loss(folder, run.task, run.samples) for folder in checkpoints}
    model = WallarooForConditionalGeneration.from_pretrained(final).eval()
    processor = WallarooProcessor.from_pretrained(final)
    report = evaluate_shapes(model, processor, tasks=[run.task], samples=run.samples, held_out=0).to_dict()
    result = {"settings": run.settings, "curve": curve, "report": report}
    write_whole(run.folder / "result.json", json.dumps(result, indent=2) + "\n")
    return run.result()


def write_results(groups: dict[str, Any], runs: list[Run], output: Path) -> None:
    """Writes down the results that there are of these settings, whichever call made them."""
    results: dict[str, dict[str, Any]] = {}
    for run in runs:
        if (result := run.result()) is not None:
            results.setdefault(run.group, {})[run.variant] = result
    parts = [
        f"## {name}\n\n{groups[name]['paper']}\n\n{markdown(groups[name], own)}\n" for name, own in results.items()
    ]
    write_whole(output / "results.md", "\n".join(["# Ablations\n", *parts]))
    write_whole(output / "results.json", json.dumps(results, indent=2) + "\n")


def markdown(group: dict[str, Any], results: dict[str, Any]) -> str:
    """Scores of the variants by kind, and their curves of the held-out loss."""
    task = group["task"]
    kinds = list(next(iter(results.values()))["report"]["kinds"][task])
    steps = list(next(iter(results.values()))["curve"])
    lines = [f"| run | score | {' | '.join(kinds)} |", f"|---|---|{'---|' * len(kinds)}"]
    for name, result in results.items():
        report = result["report"]
        score = f"{report['overall'][task]:.2f} ± {report['standard_error'][task]:.2f}"
        lines.append(f"| {name} | {score} | {' | '.join(kind_score(report, task, kind) for kind in kinds)} |")
    lines += ["", f"| held-out loss after steps | {' | '.join(steps)} |", f"|---|{'---|' * len(steps)}"]
    for name, result in results.items():
        lines.append(f"| {name} | {' | '.join(f'{loss:.3f}' for loss in result['curve'].values())} |")
    return "\n".join(lines)


def kind_score(report: dict[str, Any], task: str, kind: str) -> str:
    return f"{report['kinds'][task][kind]['score']:.2f}"


def main() -> None:
    groups = read_groups()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", default="runs/tiny", help="folder of `make tiny` (default: %(default)s)")
    parser.add_argument("--output", default="runs/ablations", help="folder of the runs (default: %(default)s)")
    parser.add_argument("--only", choices=groups, help="one group of runs")
    parser.add_argument("--steps", type=int, default=600, help="of each run (default: %(default)s)")
    parser.add_argument("--points", type=int, default=4, help="of each curve (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=360, help="that a run is scored on (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    logging.set_verbosity_info()
    torch.set_num_threads(options.threads)
    # Not after the first training.
    check_samples(options.samples, [group["task"] for group in groups.values()])
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    runs = runs_of(groups, options)
    for run in runs:
        if options.only in (None, run.group):
            score = train_and_score(run)["report"]["overall"][run.task]
            logger.warning(f"{run.group}, {run.variant}: {score:.2f}")
            write_results(groups, runs, output)
    other = [run.folder.name for run in runs if run.result() is None and (run.folder / "result.json").is_file()]
    if other:
        logger.warning(f"results.md leaves out what was made with other settings: {', '.join(other)}.")


if __name__ == "__main__":
    main()
