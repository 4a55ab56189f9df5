# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Asks `wallaroo-tiny`, the checkpoint that comes with the package, to answer, draw and edit, and scores what it does.

    python examples/demo.py --output demo-output                      # the embedded checkpoint
    python examples/demo.py --checkpoint runs/tiny/stage-4-auto/final      # the same with a checkpoint of yours

Everything is about the shapes world, the one that the tiny model knows: coloured shapes on a plain background. The
samples come from fixed seeds, nothing is picked. The output folder gets `contact_sheet.png`, `table.md` and
`table.json` (what was asked, what came, whether the scorer agrees), `pictures/` and, eight times as large, `large/`.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from transformers.utils import logging

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation.shapes import picture_sizes, question_of, respond_with, tasks_of
from transformers_wallaroo.shapes import KINDS, LANGUAGES, SIZES, Look, make_sample, read_scene, score
from transformers_wallaroo.training.preview import contact_sheet

# How often each kind of a task is shown; in turn in English and in Chinese.
TURNS = {"understand": 2, "generate": 2, "edit": 1}
TITLES = {"understand": "Questions about pictures", "generate": "Pictures from a prompt", "edit": "Edits"}
COLUMNS = {"understand": 6, "generate": 6, "edit": 3}
TEXT_LINES = {"understand": 6, "generate": 6, "edit": 3}
LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}
SAMPLE_SEED = 30260
SCALE, SCALE_OF_FILES = 3, 8
RIGHT, WRONG, INK, PAPER, LINE = (38, 140, 72), (196, 60, 48), (40, 42, 52), (255, 255, 255), (205, 206, 214)
SIDE, PADDING, LINE_HEIGHT = 64 * SCALE, 14, 19  # pixels


def samples_of(task: str, sizes: Sequence[tuple[int, int]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each sample, and the same in English."""
    pairs = []
    for number in range(TURNS[task] * len(KINDS[task])):
        turn, place = divmod(number, len(KINDS[task]))
        options = {"kind": KINDS[task][place], "bucket": sizes[number % len(sizes)]}
        language = tuple(LANGUAGES)[(turn + place) % len(LANGUAGES)]
        english = make_sample(task, number, SAMPLE_SEED, language="en", **options)
        pairs.append((make_sample(task, number, SAMPLE_SEED, language=language, **options), english))
    return pairs


def describe(picture: Image.Image) -> str:
    """What the scorer reads in a picture, and in which row and column each thing is, from 1 on."""
    reading = read_scene(picture)
    scene, english = reading.scene, LANGUAGES["en"]
    parts = [
        f"{english.one(Look(thing.shape, thing.color))} (row {thing.row + 1}, column {thing.column + 1})"
        for thing in scene.things
    ]
    text = english.join(english.on(english.list(parts) if parts else "nothing", scene.background))
    if parts and scene.style == "outlined":
        text += ", outlined"
    return f"{text} ({len(reading.odd)} odd cells)" if reading.odd else text


def run_task(
    respond: Any, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], seed: int, output: Path
) -> list[dict[str, Any]]:
    """Asks for the samples of a task, scores what comes and saves the pictures. One entry a sample."""
    entries = []
    for number, ((sample, english), got) in enumerate(
        zip(pairs, respond([sample for sample, _ in pairs], seed), strict=True), start=1
    ):
        task, result = sample["task"], score(got, sample)
        picture = sample["images"][0] if task == "understand" else got
        entry = {
            "task": task,
            "kind": sample["kind"],
            "language": sample["language"],
            "height": picture.height,
            "width": picture.width,
            "asked": question_of(sample),
            "asked_in_english": question_of(english),
            "right": bool(result["correct"]),
            "file": save(picture, f"{task}-{number:02d}.png", output),
        }
        if task == "understand":
            expected = sample["meta"]["answer"]
            in_english = english["meta"]["answer"] if entry["right"] else None
            entry.update(got=result["answer"], expected=expected, got_in_english=in_english)
        else:
            entry.update(got=describe(got), reasons=result["reasons"])
        if task == "edit":
            # Of an edit there is one right outcome; a prompt allows many.
            entry["expected"] = describe(sample["image"])
            entry["source"] = save(sample["source_image"], f"{task}-{number:02d}-source.png", output)
        entries.append(entry)
    return entries


def save(picture: Image.Image, name: str, output: Path) -> str:
    """Writes a picture as it is, and enlarged; returns its path within the output folder."""
    for folder, scale in (("pictures", 1), ("large", SCALE_OF_FILES)):
        (output / folder).mkdir(parents=True, exist_ok=True)
        enlarged(picture, scale).save(output / folder / name)
    return f"pictures/{name}"


def enlarged(picture: Image.Image, scale: int) -> Image.Image:
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)


# ---------------------------------------------------------------------- the contact sheet


def card(entry: dict[str, Any], output: Path) -> Image.Image:
    """The pictures of an entry with what was asked below them, and a bar that says whether the result is right."""
    names = [entry["source"], entry["file"]] if "source" in entry else [entry["file"]]
    pictures = [enlarged(Image.open(output / name), SCALE) for name in names]
    width = len(pictures) * (SIDE + 2 * PADDING)
    text_top, num_lines = SIDE + 2 * PADDING, TEXT_LINES[entry["task"]]
    sheet = Image.new("RGB", (width, text_top + num_lines * LINE_HEIGHT + PADDING), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left = index * (SIDE + 2 * PADDING) + PADDING + (SIDE - picture.width) // 2
        top = PADDING + (SIDE - picture.height) // 2
        sheet.paste(picture, (left, top))
        draw.rectangle((left - 1, top - 1, left + picture.width, top + picture.height), outline=LINE)
    if len(pictures) == 2:
        middle, y = width // 2, PADDING + SIDE // 2
        draw.polygon([(middle - 6, y - 8), (middle + 8, y), (middle - 6, y + 8)], fill=INK)
    color = RIGHT if entry["right"] else WRONG
    draw.rectangle((0, sheet.height - 5, width, sheet.height), fill=color)
    font = ImageFont.load_default(size=14)
    lines = [(line, INK) for line in wrapped(entry["asked_in_english"], width - 2 * PADDING, font)]
    lines += [(line, color) for line in wrapped(verdict(entry), width - 2 * PADDING, font)]
    for index, (line, ink) in enumerate(lines[:num_lines]):
        draw.text((PADDING, text_top + index * LINE_HEIGHT), line, fill=ink, font=font)
    return sheet


def verdict(entry: dict[str, Any]) -> str:
    """What came, in words that Pillow's font has."""
    if entry["task"] != "understand":
        return "right" if entry["right"] else f"wrong: {', '.join(entry['reasons'])}"
    got = entry["got"] if entry["got"].isascii() else entry["got_in_english"] or "(in Chinese, see table.md)"
    return got if entry["right"] else f"{got} (wrong)"


def wrapped(text: str, width: int, font: Any) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def whole_sheet(entries: list[dict[str, Any]], heading: str, output: Path) -> Image.Image:
    """A part for each task, one below the other."""
    parts = []
    for task in dict.fromkeys(entry["task"] for entry in entries):
        own = [entry for entry in entries if entry["task"] == task]
        cards = [card(entry, output) for entry in own]
        captions = [f"{entry['kind'].replace('_', ' ')} - {LANGUAGE_NAMES[entry['language']]}" for entry in own]
        groups = [(caption, [picture]) for caption, picture in zip(captions, cards, strict=True)]
        count = f"{TITLES[task]}: {sum(entry['right'] for entry in own)} of {len(own)} right"
        parts.append(contact_sheet(groups, title=count, height=cards[0].height, columns=COLUMNS[task]))
    top = 66
    sheet = Image.new("RGB", (max(part.width for part in parts), top + sum(part.height for part in parts)), INK)
    draw = ImageDraw.Draw(sheet)
    draw.text((PADDING, 10), heading, fill=PAPER, font=ImageFont.load_default(size=20))
    note = (
        "What was asked in Chinese is shown in English; table.md has the words. Nothing is picked: the seeds are fixed."
    )
    draw.text((PADDING, 38), note, fill=LINE, font=ImageFont.load_default(size=14))
    for part in parts:
        # A narrower part is drawn out to the sheet's width by its own background.
        sheet.paste(part.getpixel((0, 0)), (0, top, sheet.width, top + part.height))
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


# ---------------------------------------------------------------------- the table


def markdown(entries: list[dict[str, Any]], heading: str) -> str:
    lines = [f"# {heading}", "", "What was asked, what came as the scorer reads it, and whether it is right.", ""]
    lines += ["| file | kind | size | asked | in English | got | right |", "|---|---|---|---|---|---|---|"]
    for entry in entries:
        english = "" if entry["language"] == "en" else entry["asked_in_english"]
        cells = [f"[{entry['task']}]({entry['file']})", entry["kind"], f"{entry['height']}x{entry['width']}"]
        lines.append(
            f"| {' | '.join([*cells, entry['asked'], english, entry['got'].replace('|', ' '), judged(entry)])} |"
        )
    return "\n".join(lines) + "\n"


def judged(entry: dict[str, Any]) -> str:
    """Whether it is right, else why not and, where there is one right outcome, what that is."""
    if entry["right"]:
        return "yes"
    why = [f"no: {', '.join(entry['reasons'])}" if "reasons" in entry else "no"]
    return "; ".join([*why, *([f"expected: {entry['expected']}"] if "expected" in entry else [])])


def run(checkpoint: str | None, output: Path, seed: int) -> None:
    """Does the jobs and writes what came out."""
    started = time.perf_counter()
    model, processor = load_checkpoint(checkpoint)
    name = "wallaroo-tiny" if checkpoint is None else checkpoint
    size = f"{model.num_parameters() / 1e6:.1f} M parameters"
    if checkpoint is None:
        size = f"a tiny model of {size} that knows the shapes world and nothing else"
    sys.stdout.write(f"{name}: {size}.\n")
    output.mkdir(parents=True, exist_ok=True)
    entries = []
    for task in tasks_of(processor):
        pairs = samples_of(task, SIZES if task == "understand" else picture_sizes(processor))
        own = run_task(respond_with(model, processor), pairs, seed, output)
        sys.stdout.write(f"{TITLES[task]}: {sum(entry['right'] for entry in own)} of {len(own)} right\n")
        entries += own
    heading = f"{name} ({size}): {sum(entry['right'] for entry in entries)} of {len(entries)} right"
    whole_sheet(entries, heading, output).save(output / "contact_sheet.png")
    (output / "table.md").write_text(markdown(entries, heading), encoding="utf-8")
    seconds = round(time.perf_counter() - started, 1)
    report = {"checkpoint": name, "seed": seed, "seconds": seconds, "entries": entries}
    (output / "table.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{seconds} s. Look at {output / 'contact_sheet.png'} and {output / 'table.md'}.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for pictures and tables")
    parser.add_argument("--checkpoint", help="folder or Hub name; default: wallaroo-tiny, which is in the package")
    parser.add_argument("--seed", type=int, default=7, help="of sampling")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        run(options.checkpoint, options.output, options.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"demo: {error}")
    finally:
        logging.enable_progress_bar()


if __name__ == "__main__":
    main()
