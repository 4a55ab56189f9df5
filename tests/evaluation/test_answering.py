"""Answers to many questions: a batch as one by one, settings, stop strings, seeds, likelihoods."""

import numpy as np
import pytest
import torch

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation.answering import (
    Answer,
    Question,
    TextSettings,
    answer_all,
    batches,
    cut,
    score_batch,
    seed_of,
    text_settings,
)

from questions import SHORT, shapes_questions


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint(device="cpu")


def ask(text, *pictures, settings=SHORT, name="q/0"):
    parts = [{"type": "image", "url": picture} for picture in pictures]
    return Question(name, [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}], settings)


def texts(answers):
    return [answer.text for answer in answers]


def test_answers_are_those_of_generate(tiny):
    model, processor = tiny
    questions, expected = shapes_questions(8)
    answers = answer_all(model, processor, questions, batch_size=1)
    for question, answer in zip(questions, answers, strict=True):
        inputs = processor(text=question.text(), images=question.media("image"), task="understand", return_tensors="pt")
        ids = model.generate(**inputs, task="understand", max_new_tokens=32)[:, inputs["input_ids"].shape[1] :]
        assert answer.text == processor.batch_decode(ids, skip_special_tokens=True)[0]
        assert answer.input_tokens == inputs["input_ids"].shape[1]
        assert answer.output_tokens == ids.shape[1] - 1  # the end of the turn
    # It is a model that knows this world: were pictures left out or swapped, this would be near a third.
    assert sum(a == b for a, b in zip(texts(answers), expected, strict=True)) >= 6


def test_a_batch_answers_as_one_by_one(tiny):
    questions, _ = shapes_questions(7)
    picture = questions[0].media("image")[0]
    questions += [
        ask("Hello, who are you?", name="text/0"),
        ask("how many stars are there?", picture, questions[1].media("image")[0], name="two/0"),
        Question("plain/0", [{"role": "user", "content": "yes or no?"}], SHORT),
    ]
    told = []
    together = answer_all(*tiny, questions, batch_size=4, on_answers=told.extend)
    assert together == answer_all(*tiny, questions, batch_size=1)
    assert sorted(index for index, _ in told) == list(range(10))
    assert all(together[index] == answer for index, answer in told)


def test_a_message_may_have_its_pictures_anywhere(tiny):
    _, processor = tiny
    [question], _ = shapes_questions(1)
    picture, text = question.media("image")[0], question.text()
    parts = [{"type": "text", "text": "Look: "}, {"type": "image", "path": picture}, {"type": "text", "text": text}]
    system = {"role": "system", "content": "You are brief."}
    placed = Question("q/0", [system, {"role": "user", "content": parts}], SHORT)
    assert placed.media("image") == [picture] and placed.text() == f"Look: {text}"
    [answer] = answer_all(*tiny, [placed])
    rendered = "<|im_start|>system\nYou are brief.<|im_end|>\n<|im_start|>user\nLook: <|vision_start|><|image_pad|>"
    rendered += f"<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
    expected = processor(text=rendered, images=picture, return_tensors="pt")["input_ids"].shape[1]
    assert answer.input_tokens == expected


def test_stop_strings_end_an_answer(tiny):
    questions, _ = shapes_questions(4)
    whole = texts(answer_all(*tiny, questions, batch_size=4))
    stopped = [Question(q.name, q.messages, TextSettings(max_new_tokens=32, stop=("and", "a "))) for q in questions]
    assert any("and" in text for text in whole)
    assert texts(answer_all(*tiny, stopped, batch_size=4)) == [cut(text, ("and", "a ")) for text in whole]


def test_cut():
    assert cut("one, two. three", (". ", ",")) == "one"
    assert cut("one", ("two",)) == "one" == cut("one", ())


def test_sampled_answers_have_seeds_of_their_own(tiny):
    hot = TextSettings(max_new_tokens=6, do_sample=True, temperature=8.0)
    questions, _ = shapes_questions(4, hot)
    answers = answer_all(*tiny, questions, batch_size=4, seed=3)
    assert answers == answer_all(*tiny, questions[::-1], batch_size=1, seed=3)[::-1]
    assert answers != answer_all(*tiny, questions, batch_size=4, seed=4)
    assert answers != [
        Answer(a.text, a.input_tokens, a.output_tokens) for a in answer_all(*tiny, shapes_questions(4)[0])
    ]


def test_seeds():
    assert len({seed_of("a/1", 0), seed_of("a/2", 0), seed_of("a/1", 1)}) == 3
    assert seed_of("a/1", 0) == seed_of("a/1", 0) < 2**62


def test_batches_hold_equal_settings_and_long_ones_first(picture):
    other = TextSettings(max_new_tokens=4)
    sampled = TextSettings(do_sample=True, temperature=1.0)
    questions = [
        ask("short"),
        ask("much longer than that"),
        ask("x", picture),
        ask("y", settings=other),
        ask("z", settings=sampled),
        ask("w", settings=sampled),
        Question("v", [{"role": "user", "content": [{"type": "video", "url": "clip.mp4"}]}], SHORT),
    ]
    assert list(batches(questions, 2)) == [[6], [2, 1], [0], [3], [4], [5]]


@pytest.mark.parametrize("batch_size", [0, True, "auto"])
def test_batch_size_is_checked(tiny, batch_size):
    with pytest.raises(ValueError, match="`batch_size` must be a positive int"):
        answer_all(*tiny, [], batch_size=batch_size)


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"until": "\n\n", "max_new_tokens": 16, "temperature": 0, "do_sample": False}, TextSettings(16, False, 0)),
        ({"until": ["\n\n", "ASSISTANT:"]}, TextSettings(64, stop=("ASSISTANT:",))),
        ({"max_gen_toks": 5, "top_p": None}, TextSettings(5)),
        ({"temperature": 0.5}, TextSettings(64, True, 0.5)),
        ({"temperature": 2, "top_p": 1}, TextSettings(64, True, 2.0, 1.0)),
        ({"temperature": 0.2, "do_sample": False}, TextSettings(64, False, 0.2)),
        ({"temperature": 0, "do_sample": True}, TextSettings(64, False, 0)),
        ({"do_sample": True, "top_k": 5, "num_beams": 2}, TextSettings(64, True, top_k=5, num_beams=2)),
        ({"image_aspect_ratio": "original"}, TextSettings(64)),
    ],
)
def test_settings_of_a_benchmark(given, expected):
    assert text_settings(given, max_new_tokens=64, no_stop=("\n\n",)) == expected


def test_settings_become_options_of_generate():
    assert TextSettings(5, temperature=0.2).generate_options(None) == {"max_new_tokens": 5, "do_sample": False}
    sampled = TextSettings(5, True, 0.2, stop=("x",), num_beams=2, repetition_penalty=1.1).generate_options("tokenizer")
    assert sampled == {
        "max_new_tokens": 5,
        "do_sample": True,
        "temperature": 0.2,
        "repetition_penalty": 1.1,
        "num_beams": 2,
        "stop_strings": ["x"],
        "tokenizer": "tokenizer",
    }


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"num_beams": 1.5}, {"until": [""]}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        text_settings(wrong)


def test_what_is_wrong_with_a_question_is_told_with_its_name(tiny):
    with pytest.raises(ValueError, match=r"the limit is 512.*This was in pope/7, pope/8\."):
        answer_all(*tiny, [ask("word " * 600, name="pope/7"), ask("hello", name="pope/8")], batch_size=2)
    with pytest.raises(ValueError, match=r"no readable picture.*This was in mme/3\."):
        answer_all(*tiny, [ask("hello", "missing.png", name="mme/3")])
    audio = Question("asr/1", [{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}])
    with pytest.raises(ValueError, match="asr/1: a message has a part of the type 'audio'"):
        answer_all(*tiny, [audio])


def test_likelihoods_are_those_of_the_losses(tiny):
    """Against the mean cross entropy that the model itself gives for labels, and against greedy answers."""
    model, processor = tiny
    questions, _ = shapes_questions(6)
    greedy = texts(answer_all(model, processor, questions, batch_size=6))
    wrong = ["yes", "three green circles", "no", "yes", "red", "no"]
    for answers, expected in ((greedy, True), (wrong, False)):
        scores = score_batch(model, processor, questions, [f" {answer}" for answer in answers])
        assert scores == [
            (pytest.approx(score, abs=1e-4), is_greedy)
            for question, answer in zip(questions, answers, strict=True)
            for score, is_greedy in score_batch(model, processor, [question], [answer])
        ]
        for question, answer, (score, is_greedy) in zip(questions, answers, scores, strict=True):
            inputs = processor(text=question.text(), images=question.media("image"), return_tensors="pt")
            target = torch.tensor([processor.tokenizer(answer, add_special_tokens=False)["input_ids"]])
            ids = torch.cat([inputs["input_ids"], target], dim=1)
            labels = torch.cat([torch.full_like(inputs["input_ids"], -100), target], dim=1)
            more = {"attention_mask": torch.ones_like(ids), "mm_token_type_ids": None}
            more["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(target)], dim=1)
            with torch.no_grad():
                loss = model(**{**inputs, **more, "input_ids": ids, "labels": labels}).loss
            assert score == pytest.approx(-float(loss) * target.shape[1], abs=1e-3)
            assert is_greedy is expected


def test_a_continuation_needs_text(tiny):
    with pytest.raises(ValueError, match="q/0: the continuation ' ' has no text"):
        score_batch(*tiny, [ask("hello")], [" "])


def test_a_video_needs_torchvision(tiny, monkeypatch):
    monkeypatch.setattr("transformers_wallaroo.evaluation.answering.is_torchvision_available", lambda: False)
    question = Question("mvbench/1", [{"role": "user", "content": [{"type": "video", "url": "clip.mp4"}]}])
    with pytest.raises(ImportError, match="mvbench/1 has a video, which needs torchvision and a decoder"):
        answer_all(*tiny, [question])


def write_video(path, frames):
    """An mp4 of random frames, 8 a second."""
    av = pytest.importorskip("av", reason="PyAV writes the video of this test")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_videos_are_frames_taken_evenly(model, processor, tmp_path):
    pytest.importorskip("torchvision", reason="videos need torchvision")
    write_video(tmp_path / "clip.mp4", np.random.default_rng(0).integers(0, 256, (24, 56, 84, 3), dtype=np.uint8))
    parts = [{"type": "video", "url": str(tmp_path / "clip.mp4")}, {"type": "text", "text": "What happens?"}]
    question = Question("video/0", [{"role": "user", "content": parts}], TextSettings(max_new_tokens=3))
    few, many = (answer_all(model, processor, [question], video_frames=frames)[0] for frames in (4, 8))
    # Two frames make a patch in time, of 112 x 140 pixels: the fewest that a picture has, too.
    assert many.input_tokens - few.input_tokens == 2 * (4 * 5)
    wrong = Question("video/1", [{"role": "user", "content": [{"type": "video", "url": {"video_start": 3}}]}])
    with pytest.raises(ValueError, match="video/1 has a video that is a dict, but a path was expected"):
        answer_all(model, processor, [wrong])
