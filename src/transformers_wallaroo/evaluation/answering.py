# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Answers of a checkpoint to many questions, for kits that bring their own benchmarks: lmms-eval, VLMEvalKit.

A question is a conversation in the form of transformers' chat templates. It is answered in a batch as it would be
alone: greedy answers do not depend on their neighbours, and an answer that is sampled is drawn by itself, from its own
seed.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers.utils import is_torchvision_available, logging

from ..image_processing_wallaroo import to_rgb

logger = logging.get_logger(__name__)

# Frames of a video, at the size of a picture each, that leave room for a question within 4096 tokens.
VIDEO_FRAMES = 16
# Parts of a message that hold a picture or a video: where to find it, by what lmms-eval and transformers call it.
MEDIA_KEYS = ("url", "image", "video", "path")


@dataclass(frozen=True)
class TextSettings:
    """How an answer is made; questions of equal settings may be answered together.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        do_sample: whether to draw tokens rather than take the likeliest.
        temperature, top_p, top_k: of sampling; `None` for the checkpoint's own.
        num_beams: of beam search; 1 for none.
        repetition_penalty: `None` for the checkpoint's own.
        stop: an answer ends before the first of these strings that comes up in it.
    """

    max_new_tokens: int = 1024
    do_sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int = 1
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("max_new_tokens", "num_beams"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive int, but got {value!r}.")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"`until` must be strings that are not empty, but got {self.stop!r}.")

    def generate_options(self, tokenizer: Any) -> dict[str, Any]:
        """Arguments of `model.generate`."""
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": self.do_sample}
        names = ["repetition_penalty", *(["temperature", "top_p", "top_k"] if self.do_sample else [])]
        options.update({name: getattr(self, name) for name in names if getattr(self, name) is not None})
        if self.num_beams > 1:
            options["num_beams"] = self.num_beams
        if self.stop:
            options.update(stop_strings=list(self.stop), tokenizer=tokenizer)
        return options


def text_settings(
    given: Mapping[str, Any], *, max_new_tokens: int = TextSettings.max_new_tokens, no_stop: Sequence[str] = ()
) -> TextSettings:
    """Settings from what a benchmark says of its answers.

    Args:
        given: `until`, `max_new_tokens` (or `max_gen_toks`), `do_sample`, `temperature`, `top_p`, `top_k`, `num_beams`,
            `repetition_penalty`. A temperature of 0 means greedy; without `do_sample`, one above 0 means sampling.
            Others are left out, with one warning a name: benchmarks hold options of single models.
        max_new_tokens: longest answer where `given` does not say.
        no_stop: strings of `until` that are passed over.
    """
    values = {name: value for name, value in given.items() if value is not None}
    if "max_gen_toks" in values:
        values.setdefault("max_new_tokens", values.pop("max_gen_toks"))
    until = values.pop("until", ())
    stop = (until,) if isinstance(until, str) else tuple(until)
    # On a command line `temperature=1` is an int, which transformers refuses.
    values.update({name: float(values[name]) for name in ("temperature", "top_p") if name in values})
    temperature = values.get("temperature")
    if temperature == 0:
        values["do_sample"] = False
    values.setdefault("do_sample", temperature is not None)
    known = {field.name for field in fields(TextSettings)} - {"stop"}
    for name in values:
        if name not in known:
            logger.warning_once(f"The benchmark's generation option `{name}` is not one of Wallaroo's; it is left out.")
    chosen = {"max_new_tokens": max_new_tokens, **{name: values[name] for name in values if name in known}}
    return TextSettings(**chosen, stop=tuple(text for text in stop if text not in no_stop))


@dataclass(frozen=True)
class Question:
    """One question to a model.

    Attributes:
        name: what it is called in errors, in files and in its seed, such as `pope/17`.
        messages: the conversation, `{"role": ..., "content": text or parts}`; a part is `{"type": "text", "text": ...}`
            or `{"type": "image" or "video", "url": picture, path or URL}`.
        settings: how it is answered.
    """

    name: str
    messages: Sequence[Mapping[str, Any]]
    settings: TextSettings = TextSettings()

    def parts(self) -> Iterator[Mapping[str, Any]]:
        """The parts of its messages that are not plain strings."""
        for message in self.messages:
            if not isinstance(message["content"], str):
                yield from message["content"]

    def media(self, kind: str) -> list[Any]:
        """Its pictures or videos, in their order."""
        found = []
        for part in self.parts():
            if part.get("type") not in ("text", "image", "video"):
                raise ValueError(
                    f"{self.name}: a message has a part of the type {part.get('type')!r}, but Wallaroo takes 'text', "
                    "'image' and 'video' only."
                )
            if part["type"] == kind:
                found.append(next((part[name] for name in MEDIA_KEYS if part.get(name) is not None), None))
        return found

    def text(self) -> str:
        """Its text alone, without pictures: the prompt of an image to be made."""
        texts = []
        for message in self.messages:
            if message["role"] == "system":
                continue
            content = message["content"]
            texts += [content] if isinstance(content, str) else [p["text"] for p in content if p.get("type") == "text"]
        return " ".join(text.strip() for text in texts if text.strip())


@dataclass(frozen=True)
class Answer:
    """An answer's text, and the tokens of its prompt (with pictures) and of itself."""

    text: str
    input_tokens: int
    output_tokens: int


def seed_of(name: str, seed: int) -> int:
    """The seed of one question or picture: its own, whatever else is asked and in which process."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")


def batches(questions: Sequence[Question], batch_size: int) -> Iterator[list[int]]:
    """Indices of questions that are answered together: of equal settings, long ones first so that memory runs out at
    once or never. Videos, and answers that are sampled, are for themselves."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        groups[question.settings].append(index)
    for settings, indices in groups.items():
        alone = [i for i in indices if settings.do_sample or questions[i].media("video")]
        yield from ([index] for index in alone)
        # A picture is some hundred tokens, a token some characters.
        sizes = {i: len(questions[i].text()) + 1000 * len(questions[i].media("image")) for i in indices}
        others = sorted(set(indices) - set(alone), key=lambda i: (-sizes[i], i))
        for start in range(0, len(others), batch_size):
            yield others[start : start + batch_size]


def answer_all(
    model: Any,
    processor: Any,
    questions: Sequence[Question],
    *,
    batch_size: int = 1,
    seed: int = 0,
    video_frames: int = VIDEO_FRAMES,
    on_answers: Callable[[list[tuple[int, Answer]]], None] | None = None,
) -> list[Answer]:
    """The model's answers, in the order of the questions.

    Args:
        batch_size: questions at once. It changes the time, not the answers.
        seed: of answers that are sampled; each is drawn by itself, from a seed made of this and its name.
        video_frames: of each video, taken evenly.
        on_answers: called with (index, answer) pairs after each batch.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive int, but got {batch_size!r}.")
    answers: dict[int, Answer] = {}
    for indices in batches(questions, batch_size):
        done = answer_batch(model, processor, [questions[i] for i in indices], seed=seed, video_frames=video_frames)
        answers.update(zip(indices, done, strict=True))
        if on_answers is not None:
            on_answers(list(zip(indices, done, strict=True)))
    return [answers[index] for index in range(len(questions))]


def answer_batch(
    model: Any, processor: Any, questions: Sequence[Question], *, seed: int = 0, video_frames: int = VIDEO_FRAMES
) -> list[Answer]:
    """Answers to some questions of equal settings, as one batch; several that are sampled share a seed."""
    settings = questions[0].settings
    inputs = encode(processor, questions, video_frames=video_frames).to(model.device)
    options = settings.generate_options(processor.tokenizer)
    if settings.do_sample:
        options["seed"] = seed_of(questions[0].name, seed)
    ids = model.generate(**inputs, task="understand", **options)
    prompts = inputs["attention_mask"].sum(dim=1).tolist()
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, (list, tuple)) else {ends}
    answers = []
    for row, prompt in zip(ids[:, inputs["input_ids"].shape[1] :].tolist(), prompts, strict=True):
        end = next((at for at, token in enumerate(row) if token in ends), len(row))
        text = cut(processor.tokenizer.decode(row[:end], skip_special_tokens=True), settings.stop)
        answers.append(Answer(text, int(prompt), end))
    return answers


def cut(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the strings at which it stops."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def encode(
    processor: Any,
    questions: Sequence[Question],
    *,
    continuations: Sequence[str] | None = None,
    video_frames: int = VIDEO_FRAMES,
) -> Any:
    """The processor's inputs of some questions, each ready for its answer or with a `continuation` as its beginning."""
    clips = [clip for question in questions for clip in question.media("video")]
    options: dict[str, Any] = {}
    if clips:
        if len(questions) > 1:
            raise ValueError(f"Videos are taken one question at a time, but got {len(questions)}; see `batches`.")
        options = videos(processor, clips, video_frames, questions[0].name)
    names = ", ".join(question.name for question in questions)
    try:
        pictures = [[to_rgb(picture) for picture in question.media("image")] for question in questions]
        rendered = [
            processor.apply_chat_template(_messages(question), tokenize=False, add_generation_prompt=True)
            for question in questions
        ]
        if continuations is not None:
            rendered = [text + more for text, more in zip(rendered, continuations, strict=True)]
        return processor(text=rendered, images=pictures, task="understand", return_tensors="pt", **options)
    except ValueError as error:
        raise ValueError(f"{error} This was in {names}.") from error


def _messages(question: Question) -> list[dict[str, Any]]:
    """The conversation as a chat template takes it: parts without what they hold, pictures are handed over apart."""
    return [
        {
            "role": message["role"],
            "content": message["content"]
            if isinstance(message["content"], str)
            else [
                {"type": "text", "text": part["text"]} if part["type"] == "text" else {"type": part["type"]}
                for part in message["content"]
            ],
        }
        for message in question.messages
    ]


def videos(processor: Any, clips: Sequence[Any], frames: int, name: str) -> dict[str, Any]:
    """The processor's arguments of some videos: evenly taken frames, in the size in which pictures are seen."""
    from transformers.video_utils import load_video

    if not is_torchvision_available():
        raise ImportError(f"{name} has a video, which needs torchvision and a decoder: `pip install torchvision av`.")

    for clip in clips:
        if not isinstance(clip, (str, os.PathLike)):
            raise ValueError(f"{name} has a video that is a {type(clip).__name__}, but a path was expected.")

    def evenly(metadata: Any, **_: Any) -> Any:
        count = min(frames, metadata.total_num_frames)
        return torch.linspace(0, metadata.total_num_frames - 1, count).round().long().numpy()

    try:
        loaded = [load_video(str(clip), sample_indices_fn=evenly, backend="pyav") for clip in clips]
    except ImportError as error:
        raise ImportError(f"{name} has a video, which needs a decoder: `pip install av` ({error}).") from error
    sees = processor.image_processor
    return {
        "videos": [pixels for pixels, _ in loaded],
        "videos_kwargs": {
            "video_metadata": [metadata for _, metadata in loaded],
            "do_sample_frames": False,
            "size": dict(sees.size),
            "patch_size": sees.patch_size,
        },
    }


@torch.no_grad()
def score_batch(
    model: Any, processor: Any, questions: Sequence[Question], continuations: Sequence[str]
) -> list[tuple[float, bool]]:
    """Log-likelihood of each continuation as the answer's beginning, and whether it is the greedy answer.

    An answer begins without a space, so spaces that lead a continuation are not part of it.
    """
    stripped = [text.lstrip() for text in continuations]
    targets = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in stripped]
    for question, target, text in zip(questions, targets, continuations, strict=True):
        if not target:
            raise ValueError(f"{question.name}: the continuation {text!r} has no text whose likelihood could be told.")
    inputs = encode(processor, questions, continuations=stripped).to(model.device)
    longest = max(map(len, targets))
    logits = model(**inputs, logits_to_keep=longest + 1).logits.float()
    results = []
    for row, (target, question) in enumerate(zip(targets, questions, strict=True)):
        ids = torch.tensor(target, device=logits.device)
        # What the tokenizer makes of prompt and continuation together must be theirs, one after the other.
        if not torch.equal(inputs["input_ids"][row, -len(target) :], ids):
            raise ValueError(f"{question.name}: the continuation {stripped[row]!r} grows together with its prompt.")
        scores = logits[row, -len(target) - 1 : -1].log_softmax(dim=-1)
        greedy = bool((scores.argmax(dim=-1) == ids).all())
        results.append((float(scores.gather(1, ids[:, None]).sum()), greedy))
    return results


__all__ = [
    "Answer",
    "Question",
    "TextSettings",
    "answer_all",
    "answer_batch",
    "batches",
    "score_batch",
    "text_settings",
]
