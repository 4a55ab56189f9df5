# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Makes the checkpoint that ships in the package out of the last stage of `make tiny`: half precision, one folder.

python examples/package_tiny.py runs/tiny/stage-4-auto/final
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from transformers_wallaroo import WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.apps.cards import package_card

TARGET = Path(__file__).parent.parent / "src" / "transformers_wallaroo" / "tiny"
LIMIT = 16 * 2**20  # bytes, everything together
# What a checkpoint on the Hub needs and one inside the package does not: its classes are registered already.
REMOTE_CODE = ("auto_map", "custom_pipelines")


def package(checkpoint: Path, target: Path, card: Path | None = None) -> int:
    """Writes the folder, whole or not at all; returns its size in bytes."""
    model = WallarooForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16)
    processor = WallarooProcessor.from_pretrained(checkpoint)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        folder = Path(temporary) / "tiny"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        for code in folder.glob("*.py"):
            code.unlink()
        for name in ("config.json", "processor_config.json", "tokenizer_config.json", "preprocessor_config.json"):
            forget(folder / name)
        weights = folder / "model.safetensors"
        # The VQ tokenizer computes in float32 whatever it is stored in; its codes are checked by the evaluation.
        halved = {name: w.half() if w.dtype == torch.float32 else w for name, w in load_file(weights).items()}
        save_file(halved, weights, metadata={"format": "pt"})
        text = package_card() if card is None else card.read_text(encoding="utf-8")
        (folder / "README.md").write_text(text, encoding="utf-8")
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size > LIMIT:
            raise ValueError(
                f"The checkpoint would have {size / 2**20:.1f} MB, but the limit is {LIMIT / 2**20:.0f} MB."
            )
        put_in_place(folder, target)
    return size


def put_in_place(folder: Path, target: Path) -> None:
    """Gives a folder the place of another, which is removed last, and comes back where that fails."""
    old = folder.with_name("old")
    had_one = target.exists()
    if had_one:
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if had_one:
            old.rename(target)
        raise


def forget(path: Path) -> None:
    """Takes the notes on remote code out of a JSON file."""
    if path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: value for name, value in values.items() if name not in REMOTE_CODE}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the last stage's `final` folder")
    parser.add_argument("--target", type=Path, default=TARGET, help="where it goes (default: the package)")
    parser.add_argument("--card", type=Path, help="model card, copied as README.md (default: the package's)")
    options = parser.parse_args()
    size = package(options.checkpoint, options.target, options.card)
    print(f"{options.target}: {size / 2**20:.1f} MB")  # noqa: T201


if __name__ == "__main__":
    main()
