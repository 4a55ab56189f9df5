"""docs/command.md: its commands and its batch, run as they stand, and its table."""

import json
import re
import shlex
from pathlib import Path

from transformers_wallaroo.apps import read_picture_info
from transformers_wallaroo.apps.chat import COMMANDS

PAGE = (Path(__file__).parents[2] / "docs" / "command.md").read_text(encoding="utf-8")


def block(language):
    return re.search(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)[1].splitlines()


def test_commands_work_as_written(wallaroo):
    results = [wallaroo.run(*shlex.split(line)[1:]) for line in block("sh")]
    circle, blue, answer, info, again = (result.stdout.strip() for result in results)
    assert (circle, blue, answer, again) == ("circle.png", "blue.png", "blue", "again.png")
    assert "make the circle blue" in info and "bit for bit" in results[-1].stderr
    Path("prompts.jsonl").write_text("\n".join(block("json")), encoding="utf-8")
    [command] = re.findall(r"`wallaroo (generate --batch [^`]*)`", PAGE)
    made = wallaroo.run(*shlex.split(command)).stdout.split()
    assert made == ["drawn/stars.png", "drawn/prompts-0002.png", "drawn/prompts-0003.png"]
    assert [read_picture_info(path)["prompt"] for path in made] == [
        json.loads(line)["prompt"] for line in block("json")
    ]


def test_every_command_is_named(wallaroo):
    for name in re.findall(r"^  ([a-z][a-z-]+)  ", wallaroo.run("--help").stdout.split("Commands:")[1], re.MULTILINE):
        assert f"`{name}" in PAGE
    assert all(f"`/{name}" in PAGE for name in COMMANDS)
