# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Runs the paper's ablations at the small scale: short trainings that differ in one choice, each scored at its end.

    make tiny                                                  # first: they start from its stages
    python examples/ablations/run_ablations.py --output runs/ablations   # all; stopped, it goes on where it was
    python examples/ablations/run_ablations.py --only editing --steps 200 --samples 90

Writes `results.json` and `results.md` (a table and the curves of each group) into the output folder after every run.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils import logging

from transformers_wallaroo import WallarooDataCollator, WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.evaluation import evaluate_shapes
from transformers_wallaroo.shapes import make_sample
from transformers_wallaroo.training.recipes import read_recipe
from transformers_wallaroo.training.run import run_stage
from transformers_wallaroo.training.stages import StageConfig

HERE = Path(__file__).parent
HELD_OUT_SEED, LOSS_BATCH = 40260, 32

logger = logging.get_logger("transformers_wallaroo.ablations")


def read_groups() -> dict[str, Any]:
    """The runs, in groups that share a stage."""
    return yaml.safe_load((HERE / "ablations.yaml").read_text(encoding="utf-8"))


def stage_of(group: dict[str, Any], choices: dict[str, Any], options: argparse.Namespace, output: Path) -> StageConfig:
    """The recipe of a run: that of the stage, shorter, with its one choice."""
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
    recipe.update(choices)
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


def run_variant(name: str, group: dict[str, Any], choices: dict[str, Any], options: argparse.Namespace) -> Any:
    """Trains a variant, or goes on with it, and scores it. What was scored with the same settings is not done again."""
    output = Path(options.output) / name.replace(",", "").replace(" ", "-").replace("/", "-")
    settings = {"steps": options.steps, "samples": options.samples, "choices": choices}
    path = output / "result.json"
    if path.is_file():
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["settings"] == settings:
            return result
    final = run_stage(stage_of(group, choices, options, output))
    checkpoints = sorted(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    curve = {
        int(folder.name.split("-")[1]): held_out_loss(folder, group["task"], options.samples) for folder in checkpoints
    }
    model = WallarooForConditionalGeneration.from_pretrained(final).eval()
    processor = WallarooProcessor.from_pretrained(final)
    report = evaluate_shapes(model, processor, tasks=[group["task"]], samples=options.samples, held_out=0).to_dict()
    result = {"settings": settings, "curve": curve, "report": report}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    partial.rename(path)
    return json.loads(path.read_text(encoding="utf-8"))


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
    chosen = {name: group for name, group in groups.items() if options.only in (None, name)}
    results: dict[str, dict[str, Any]] = {name: {} for name in chosen}
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    for group_name, group in chosen.items():
        for variant, choices in group["variants"].items():
            result = run_variant(f"{group_name}-{variant}", group, choices, options)
            results[group_name][variant] = result
            score = result["report"]["overall"][group["task"]]
            logger.info(f"{group_name}, {variant}: {score:.2f}")
            parts = [
                f"## {name}\n\n{chosen[name]['paper']}\n\n{markdown(chosen[name], own)}\n"
                for name, own in results.items()
                if own
            ]
            (output / "results.md").write_text("\n".join(["# Ablations\n", *parts]), encoding="utf-8")
            (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
