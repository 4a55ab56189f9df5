"""What was answered and drawn before: found again after a kill, and only for the same request."""

import subprocess
import sys

import pytest
from PIL import Image

from transformers_wallaroo.evaluation.answer_store import (
    AnswerStore,
    fingerprint,
    is_drawn,
    picture_path,
    save_picture,
)
from transformers_wallaroo.evaluation.answering import Answer, Question, TextSettings

FIRST, SECOND = Answer("yes — 是", 3, 1), Answer("line\nbreak", 4, 2)


def test_answers_are_there_for_all_ranks_of_the_next_run(tmp_path):
    for rank, answers in ((0, {"a": FIRST}), (1, {"b": SECOND})):
        store = AnswerStore(tmp_path, rank)
        store.add(answers)
        store.close()
    again = AnswerStore(tmp_path, 5)
    assert (again.get("a"), again.get("b"), again.get("c")) == (FIRST, SECOND, None)


def test_an_answer_with_unicodes_line_ends_is_one_line(tmp_path):
    answer = Answer("one\u2028two\u2029three\x85four", 3, 4)
    store = AnswerStore(tmp_path)
    store.add({"a": answer})
    store.close()
    assert AnswerStore(tmp_path).get("a") == answer


def test_a_kill_loses_at_most_the_line_it_cuts(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from transformers_wallaroo.evaluation.answer_store import AnswerStore\n"
        "from transformers_wallaroo.evaluation.answering import Answer\n"
        f"store = AnswerStore({str(tmp_path)!r})\n"
        "store.add({'a': Answer('one', 1, 1)})\n"
        'store._file.write(\'["b", "tw\'); store._file.flush()\n'
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    store = AnswerStore(tmp_path)
    assert store.get("a") == Answer("one", 1, 1) and store.get("b") is None
    store.add({"b": SECOND})
    store.close()
    assert AnswerStore(tmp_path).get("b") == SECOND


def question(text="what?", picture=None, **settings):
    parts = [{"type": "image", "url": picture or Image.new("RGB", (8, 8))}, {"type": "text", "text": text}]
    return Question("t/1", [{"role": "user", "content": parts}], TextSettings(**settings))


def test_a_fingerprint_tells_all_that_an_answer_hangs_on():
    same = fingerprint(question(), "checkpoint", {"seed": 0})
    assert same == fingerprint(question(), "checkpoint", {"seed": 0})
    others = [
        fingerprint(question("who?"), "checkpoint", {"seed": 0}),
        fingerprint(question(picture=Image.new("RGB", (8, 8), "red")), "checkpoint", {"seed": 0}),
        fingerprint(question(picture=Image.new("RGB", (4, 16))), "checkpoint", {"seed": 0}),
        fingerprint(question(max_new_tokens=3), "checkpoint", {"seed": 0}),
        fingerprint(question(), "another", {"seed": 0}),
        fingerprint(question(), "checkpoint", {"seed": 1}),
        fingerprint(Question("t/2", question().messages), "checkpoint", {"seed": 0}),
        fingerprint(Question("t/1", [{"role": "user", "content": "what?"}]), "checkpoint", {"seed": 0}),
    ]
    assert len({same, *others}) == 9


def test_pictures_know_their_request(tmp_path):
    path = picture_path(tmp_path, "imgedit/a b:1#2")
    assert path == tmp_path / "imgedit" / "a_b_1#2.png"
    assert not is_drawn(path, "key")
    save_picture(Image.new("RGB", (4, 4), "red"), path, "key")
    assert is_drawn(path, "key") and not is_drawn(path, "other")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    whole = path.read_bytes()
    for length in (0, 20, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert not is_drawn(path, "key")


@pytest.mark.parametrize("name", ["task/3.5", "task/3"])
def test_a_name_with_a_point_keeps_it(tmp_path, name):
    assert picture_path(tmp_path, name) == tmp_path / f"{name}.png"
