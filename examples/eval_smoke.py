# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Every benchmark of `wallaroo eval` from prompts to checked files, on `wallaroo-tiny` and prompts of our own.

    python examples/eval_smoke.py --output runs/eval-smoke      # `make eval-smoke`

It runs the commands that a user runs, one after the other, and prints each. The prompts are a few of the shapes world,
in the layout in which each benchmark publishes its own. The status is 0 where every command was and every folder is
complete for its scorer, else 1. It says that the way from prompts to files works, and nothing about a model.
"""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers_wallaroo.cli import app
from transformers_wallaroo.evaluation.tables import table

from benchmark_prompts import WRITERS

# The folder is removed at the start, so it must be one that an earlier call has made.
MARK = ".eval-smoke"
# The fewest in which each kind of an edit is asked for in both languages.
SHAPES_SAMPLES = 18


@dataclass
class Outcome:
    """What came of a benchmark.

    Attributes:
        name: as the command has it.
        made: how many files, pictures or samples, in words.
        complete: whether each of its commands ended well.
    """

    name: str
    made: str
    complete: bool


def run(*arguments: str | Path) -> bool:
    """Runs a command as a shell would, but in this process, which has loaded torch already. Whether it ended well."""
    command = [str(argument) for argument in arguments]
    sys.stdout.write(f"\n$ wallaroo {shlex.join(command)}\n")
    sys.stdout.flush()
    # Without typer's own end of the process it returns the status, or what the command returns, which is nothing.
    return app(command, prog_name="wallaroo", standalone_mode=False) in (None, 0)


def run_pictures(name: str, output: Path) -> Outcome:
    """Prompts, pictures, check."""
    folder = output / "prompts" / name
    folder.mkdir(parents=True)
    prompts, made = WRITERS[name](folder), output / name
    complete = run("eval", name, "--prompts", prompts, "--output", made)
    # It is checked in any case: what is missing is then told.
    complete = run("eval", "check", name, made) and complete
    files = sum(path.suffix == ".png" for path in (made / "images").rglob("*"))
    return Outcome(name, f"{files} files", complete)


def run_vq(output: Path) -> Outcome:
    """Reconstructions by the VQ tokenizer."""
    path = output / "vq.json"
    complete = run("eval", "vq", "--limit", "16", "--json", path) and path.is_file()
    return Outcome("vq", f"{json.loads(path.read_text())['pictures']} pictures" if complete else "nothing", complete)


def run_shapes(output: Path) -> Outcome:
    """Answers, pictures and edits, scored exactly."""
    path = output / "shapes.json"
    complete = run("eval", "shapes", "--samples", str(SHAPES_SAMPLES), "--json", path) and path.is_file()
    report = json.loads(path.read_text(encoding="utf-8")) if complete else {"kinds": {}}
    samples = sum(kind["samples"] for kinds in report["kinds"].values() for kind in kinds.values())
    return Outcome("shapes", f"{samples} samples", complete)


STEPS = {
    **{name: lambda output, name=name: run_pictures(name, output) for name in WRITERS},
    "vq": run_vq,
    "shapes": run_shapes,
}


def prepare(output: Path) -> None:
    """An empty folder; one that is no earlier call's is not touched."""
    if output.exists() and not (output / MARK).is_file():
        raise SystemExit(f"--output {output} is there, and not by an earlier call of this. Take another folder.")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / MARK).touch()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/eval-smoke"), help="folder (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), help="some of the benchmarks")
    options = parser.parse_args(arguments)
    prepare(options.output)
    outcomes = [STEPS[name](options.output) for name in options.only]
    rows = [
        ["made", *(outcome.made for outcome in outcomes)],
        ["complete", *("yes" if outcome.complete else "NO" for outcome in outcomes)],
    ]
    sys.stdout.write(f"\n{table(['', *(outcome.name for outcome in outcomes)], rows)}\n\n{options.output}\n")
    return 0 if all(outcome.complete for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
