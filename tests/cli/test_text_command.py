"""`wallaroo ask` and `chat`."""

import json
import sys

import pytest
from PIL import Image

from transformers_wallaroo.apps.chat import Chat
from transformers_wallaroo.cli import text
from transformers_wallaroo.shapes import make_sample


@pytest.fixture
def picture(wallaroo):  # noqa: ARG001 (it changes to an empty folder)
    make_sample("understand", 3, 30260, kind="description", language="en")["images"][0].save("a.png")
    return "a.png"


@pytest.fixture
def expected(engine, picture):
    parts = [{"type": "image", "image": Image.open(picture)}, {"type": "text", "text": "describe the picture"}]
    return engine.answer([{"role": "user", "content": parts}], do_sample=False)


def test_help_has_examples(wallaroo):
    for command, words in (("ask", ["--image", 'wallaroo ask "']), ("chat", ["/draw", "/help", "wallaroo chat"])):
        help_text = wallaroo.run(command, "--help").stdout
        assert all(word in help_text for word in words)


def test_ask_prints_the_answer(wallaroo, picture, expected):
    assert wallaroo.run("ask", "describe the picture", "--image", picture).stdout.strip() == expected
    report = json.loads(wallaroo.run("ask", "describe the picture", "-i", picture, "--json").stdout)
    assert (report["answer"], report["images"], report["checkpoint"]) == (expected, [picture], "wallaroo-tiny")


def test_ask_without_a_picture_and_with_two(wallaroo, picture):
    assert wallaroo.run("ask", "what do you see ?", "--max-new-tokens", 5).exit_code == 0
    assert wallaroo.run("ask", "what do you see ?", "-i", picture, "-i", picture, "--max-new-tokens", 5).stdout


def test_sampled_answers_have_a_seed(wallaroo, picture):
    sampled = ("ask", "describe the picture", "-i", picture, "--temperature", 5, "--max-new-tokens", 12)
    first, again, other = (wallaroo.run(*sampled, "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "QUESTION"),
        (("",), "QUESTION is empty"),
        (("what ?", "-i", "none.png"), "`--image` must be the file of a picture, but none.png does not exist"),
        (("what ?", "--seed", 3), "`--top-k`, `--top-p` and `--seed` are of sampling: give a `--temperature`"),
        (("what ?", "--max-new-tokens", 0), "'--max-new-tokens'"),
        (("what <|image_pad|> ?",), "image placeholder"),
    ],
)
def test_bad_questions_end_in_a_sentence(wallaroo, arguments, message):
    assert message in wallaroo.refused("ask", *arguments)


def test_chat_reads_lines(wallaroo, picture, expected):
    lines = f"/image {picture}\ndescribe the picture\n/draw a red circle\nwhat color is the circle ?\n"
    result = wallaroo.run("chat", "-o", "new", input=lines + "/quit\nnot read\n")
    assert result.stdout.splitlines() == [expected, "red"]
    assert "goes with what you say next" in result.stderr
    [drawn] = (wallaroo.folder / "new").iterdir()
    assert f"new/{drawn.name}" in result.stderr


def test_bad_lines_of_a_script_end_it(wallaroo):
    assert "There is no command /paint" in wallaroo.refused("chat", input="/paint a star\n/draw a star\n")
    assert list(wallaroo.folder.iterdir()) == []
    (wallaroo.folder / "file").write_text("x")
    assert "`--output` must be a folder, but file is a file" in wallaroo.refused("chat", "-o", "file")


def test_a_person_is_told_and_goes_on(engine, tmp_path, monkeypatch, capsys):
    lines = iter(["/paint a star", "/draw a red circle", "interrupt", "/settings"])

    def read(_):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", read)
    talk = Chat(engine, tmp_path)
    real = talk.handle

    def handle(line):
        if line == "interrupt":
            raise KeyboardInterrupt
        return real(line)

    monkeypatch.setattr(talk, "handle", handle)
    text._talk(talk)
    err = capsys.readouterr().err
    for words in ("There is no command /paint", "a-red-circle-", "Stopped.", "checkpoint  wallaroo-tiny"):
        assert words in err
    assert len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_at_the_prompt_ends_with_130(wallaroo, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(text, "_read_line", lambda _: interrupt())
    assert "Stopped." in wallaroo.run("chat", code=130).stderr
