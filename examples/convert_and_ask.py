# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Converts the tiny parity fixture, then answers a question, draws three pictures and edits two.

    python examples/convert_and_ask.py --checkpoint wallaroo-7b   # with a converted checkpoint of yours
    python examples/convert_and_ask.py                            # the whole way, conversion included, on the fixture

The fixture's weights are random, so its pictures look like noise and its answers make no sense: with it this shows that
every part runs. It writes the pictures, a contact sheet and `report.json` to the output folder.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging

import transformers_wallaroo  # noqa: F401, registers the Auto classes

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "tests" / "fixtures" / "reference"
PICTURES = ROOT / "examples" / "pictures"
QUESTIONS = (("street.png", "How many houses are in this street?"), ("cat.png", "这只猫在做什么？"))
DRAWINGS = (
    ("a lighthouse on a cliff at sunset, oil painting", {}),
    ("a long wooden bridge over a misty river", {"aspect_ratio": "2:1"}),
    ("一只坐在窗台上的橘猫", {"aspect_ratio": "3:4"}),
)
EDITS = (("street.png", "Turn the red car into a yellow bus."), ("cat.png", "把背景换成星空"))


def convert_fixture(output: Path) -> Path:
    """Converts the released-layout fixture with the same command that converts the real weights."""
    command = [sys.executable, str(ROOT / "conversion" / "convert_checkpoint.py"), "--dtype", "float32"]
    command += ["--base", str(FIXTURE / "base"), "--checkpoint", str(FIXTURE / "wallaroo.ckpt")]
    command += ["--vq-checkpoint", str(FIXTURE / "vq_ds16_t2i.pt"), "--output", str(output)]
    subprocess.run(command, check=True)
    return output


def answer(model: Any, processor: Any, picture: str, question: str, seed: int) -> dict[str, Any]:
    inputs = processor(text=question, images=PICTURES / picture, task="understand", return_tensors="pt").to(
        model.device
    )
    ids = model.generate(**inputs, task="understand", max_new_tokens=24, seed=seed)
    text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return {"task": "understand", "source": picture, "prompt": question, "answer": text}


def make_picture(
    model: Any, processor: Any, task: str, prompt: str, seed: int, **options: Any
) -> tuple[Image.Image, Any]:
    inputs = processor(text=prompt, task=task, return_tensors="pt", **options).to(model.device)
    sequences = model.generate(**inputs, task=task, guidance_scale=3.0, seed=seed)
    pixels = model.decode_image_tokens(sequences)
    return processor.post_process_multimodal_output(pixels, generation_mode="image")[0], sequences


def contact_sheet(entries: list[tuple[str, list[Image.Image]]], note: str, height: int = 220) -> Image.Image:
    """One line an entry: its caption, then its pictures, all of one height."""
    font = ImageFont.load_default(size=15)
    rows = [
        [picture.resize((round(picture.width * height / picture.height), height)) for picture in row]
        for _, row in entries
    ]
    width = max(900, *(sum(picture.width + 12 for picture in row) + 12 for row in rows))
    sheet = Image.new("RGB", (width, 44 + len(rows) * (height + 40)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((12, 12), note, fill=(150, 60, 40), font=font)
    for index, ((caption, _), row) in enumerate(zip(entries, rows, strict=True)):
        top, left = 44 + index * (height + 40), 12
        draw.text((left, top), caption, fill="black", font=font)
        for picture in row:
            sheet.paste(picture, (left, top + 24))
            left += picture.width + 12
    return sheet


def run(checkpoint: Path, output: Path, seed: int, note: str) -> None:
    """Does the jobs and writes what came out."""
    model = AutoModel.from_pretrained(checkpoint, trust_remote_code=True).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
    report, entries = [], []
    for picture, question in QUESTIONS:
        report.append(answer(model, processor, picture, question, seed))
        sys.stdout.write(f"{picture}: {question}\n  -> {report[-1]['answer']!r}\n")
        entries.append((f"understand: {caption(question)}", [Image.open(PICTURES / picture).convert("RGB")]))
    jobs = [("generate", prompt, options, None) for prompt, options in DRAWINGS]
    jobs += [("edit", prompt, {"images": PICTURES / picture}, picture) for picture, prompt in EDITS]
    for number, (task, prompt, options, source) in enumerate(jobs, start=1):
        started = time.perf_counter()
        made, sequences = make_picture(model, processor, task, prompt, seed, **options)
        name = f"{number:02d}-{task}.png"
        made.save(output / name)
        seconds = round(time.perf_counter() - started, 1)
        size = f"{made.height}x{made.width}"
        report.append({"task": task, "source": source, "prompt": prompt, "file": name, "size": size, "seed": seed})
        report[-1].update(seconds=seconds, tokens=sequences.shape[1])
        sys.stdout.write(f"{name}: {prompt} ({size}, {seconds} s)\n")
        before = [] if source is None else [Image.open(PICTURES / source).convert("RGB")]
        entries.append((f"{task} {size}: {caption(prompt)}", [*before, made]))
    contact_sheet(entries, note).save(output / "contact_sheet.png")
    (output / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{note}\nLook at {output / 'contact_sheet.png'}; report.json lists what was asked and made.\n")


def caption(prompt: str) -> str:
    """Pillow's own font has no Chinese."""
    return prompt if prompt.isascii() else "(a Chinese prompt, see report.json)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("converted-output"), help="folder for pictures and report")
    parser.add_argument("--checkpoint", help="folder or Hub name; default: the tiny fixture, converted first")
    parser.add_argument("--seed", type=int, default=7, help="of sampling")
    options = parser.parse_args()
    logging.set_verbosity_error()
    options.output.mkdir(parents=True, exist_ok=True)
    note = f"Made with {options.checkpoint}."
    if options.checkpoint is None:
        note = "These weights are RANDOM (the parity fixture): noise and nonsense are what they should give."
    checkpoint = options.checkpoint or convert_fixture(options.output / "checkpoint")
    run(checkpoint, options.output, options.seed, note)


if __name__ == "__main__":
    main()
