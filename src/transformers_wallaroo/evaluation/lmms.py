# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Wallaroo as a model of lmms-eval: `python -m lmms_eval --model wallaroo --tasks ...`.

lmms-eval finds it by the entry point in `lmms_plugin.py`. `WallarooChat` answers whole conversations, with pictures
where they stand in the text, and is what it takes; `WallarooSimple` (`--force_simple`) takes a text with its pictures
before it, and scores the choices of tasks that compare likelihoods. docs/evaluation-understanding.md has the commands.
"""

import json
import mimetypes
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers.utils import logging

from ..embedded import checkpoint_hash, load_checkpoint, tiny_path
from .answer_store import AnswerStore, computed_by, fingerprint
from .answering import VIDEO_FRAMES, Answer, Question, answer_all, score_batch, text_settings
from .picture_requests import PictureOptions, make_pictures

try:
    from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
    from lmms_eval.api.model import lmms
    from lmms_eval.models.model_utils.progress import make_progress
except ImportError as missing:
    raise ImportError(
        "Wallaroo's model for lmms-eval needs lmms-eval 0.7 or newer: `pip install 'lmms-eval>=0.7.3'`. From a clone, "
        f"`make test-lmms` makes an environment without its models for GPUs. ({missing})"
    ) from missing

logger = logging.get_logger(__name__)

# Tasks of lmms-eval that want pictures; nothing in a task says so. They read `{"text": ..., "images": [path]}`.
IMAGE_TASKS = ("WISE", "babyvision_gen", "gedit_bench", "imgedit", "kris_bench", "structeditbench")
# lmms-eval gives it to every task that names no `until`: it parts the examples of few-shot prompts. An answer in
# paragraphs would end with its first.
FEWSHOT_DELIMITER = "\n\n"
# Batches whose pictures are in memory together, among which those of one length find each other.
WINDOW = 16
PADDING = "__padding_only__"  # lmms-eval's mark of requests that only fill up the last process
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PICTURE_OPTIONS = tuple(field.name for field in fields(PictureOptions))


class WallarooChat(lmms):
    """Answers and pictures for lmms-eval, from conversations.

    Args:
        pretrained: folder or Hub name; the embedded `wallaroo-tiny` by default.
        device: such as `"cuda:0"`; a GPU by default where there is one. Under `accelerate launch` each process takes
            its own.
        dtype: `"auto"`, `"float32"`, `"bfloat16"` or `"float16"`; `"auto"` is float32 on a CPU, else the checkpoint's.
        batch_size: questions at once; it changes the time, not the answers.
        seed: of pictures and of answers that are sampled, together with each request's name.
        max_new_tokens: longest answer where a task does not say.
        system_prompt: instead of the chat template's own.
        min_pixels, max_pixels: fewest and most pixels in which a picture is seen; by default the checkpoint's.
        video_frames: of each video.
        answers_dir: a folder that keeps the answers, so that a run that was stopped goes on from there.
        image_tasks: further tasks that want pictures, joined by `+`; `"all"` for every task of the run.
        image_dir: where pictures go, `IMAGE_DIR/TASK/DOCUMENT.png`; those of an earlier run are taken over.
        paper: pictures in the settings of the published numbers.
        picture_options: single settings of pictures, see `PictureOptions`.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: Any = None,
        seed: int = 0,
        max_new_tokens: int = 1024,
        system_prompt: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video_frames: int = VIDEO_FRAMES,
        answers_dir: str | None = None,
        image_tasks: str = "",
        image_dir: str = "wallaroo-images",
        paper: bool = False,
        **picture_options: Any,
    ):
        super().__init__()
        self.batch_size = _batch_size(batch_size, max_batch_size)
        self.seed, self.max_new_tokens, self.video_frames = int(seed), int(max_new_tokens), int(video_frames)
        self.system_prompt = self._resolve_system_prompt(system_prompt) if system_prompt else None
        self.image_tasks = {*IMAGE_TASKS, *str(image_tasks).split("+")} - {""}
        self.image_dir = Path(image_dir)
        unknown = sorted(set(picture_options) - set(PICTURE_OPTIONS))
        if unknown:
            raise ValueError(
                f"`model_args` has {', '.join(map(repr, unknown))}, which Wallaroo does not know. For pictures there "
                f"are {', '.join(PICTURE_OPTIONS)}; the rest is in the docstring of {type(self).__name__}."
            )
        if dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(map(repr, DTYPES))}, but got {dtype!r}.")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        started = int(os.environ.get("WORLD_SIZE", 1))
        if started != self._world_size:
            raise ValueError(
                f"`WORLD_SIZE` says that {started} processes were started, but accelerate sees {self._world_size}, so "
                "that their answers would not come together. On CPUs set the environment variable "
                "ACCELERATE_USE_CPU=true; on GPUs each process needs one of its own."
            )
        if self._world_size > 1:
            device = str(self.accelerator.device)
        self._model, self.processor = load_checkpoint(pretrained, device=device, dtype=DTYPES[dtype])
        sees = self.processor.image_processor.size
        sees = {
            "shortest_edge": min_pixels or sees["shortest_edge"],
            "longest_edge": max_pixels or sees["longest_edge"],
        }
        self.processor.image_processor.size = sees
        make_options = PictureOptions.of_paper if paper else PictureOptions
        self.picture_options = make_options(**picture_options)
        path = tiny_path() if pretrained is None else Path(pretrained)
        commit = getattr(self._model.config, "_commit_hash", None)
        self.checkpoint = checkpoint_hash(path) if path.is_dir() else f"{pretrained} {commit}"
        self.store = None if answers_dir is None else AnswerStore(answers_dir, self.rank)

    @property
    def model(self) -> Any:
        return self._model

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def config(self) -> Any:
        return self._model.config

    @property
    def device(self) -> torch.device:
        return self.accelerator.device if self._world_size > 1 else self._model.device

    # ------------------------------------------------------------------ what lmms-eval calls

    def generate_until(self, requests: Sequence[Instance]) -> list[Any]:
        """Answers, with their counts of tokens; for tasks that want pictures, where these are."""
        results: list[Any] = [""] * len(requests)
        wanted = [index for index, request in enumerate(requests) if not request.metadata.get(PADDING)]
        names = dict(zip(wanted, _names([requests[index] for index in wanted]), strict=True))
        if self.rank == 0 and any(self._wants_picture(requests[index]) for index in wanted):
            logger.warning(f"Pictures go to {self.image_dir.resolve()}.")
        with make_progress(total=len(wanted), desc="Wallaroo", disable=self.rank != 0) as bar:
            for start in range(0, len(wanted), WINDOW * self.batch_size):
                some = wanted[start : start + WINDOW * self.batch_size]
                questions = {index: self._question(requests[index], names[index]) for index in some}
                drawn = [index for index in some if self._wants_picture(requests[index])]
                told = [index for index in some if index not in set(drawn)]
                for index, path in zip(drawn, self._pictures([questions[i] for i in drawn], bar.update), strict=True):
                    results[index] = json.dumps({"text": "", "images": [str(path)]}, ensure_ascii=False)
                for index, answer in zip(told, self._answers([questions[i] for i in told], bar.update), strict=True):
                    counts = TokenCounts(input_tokens=answer.input_tokens, output_tokens=answer.output_tokens)
                    results[index] = GenerationResult(answer.text, counts)
        return results

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        raise NotImplementedError(
            "Tasks that compare likelihoods need lmms-eval's simple interface: add --force_simple to the command."
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError(
            f"The task {requests[0].task_name!r} asks in several rounds, which Wallaroo's plug-in does not do."
        )

    # ------------------------------------------------------------------ requests

    def _arguments(self, request: Instance) -> tuple[Callable[[Any], list[dict[str, Any]]], dict[str, Any], Any]:
        """What makes the conversation of a document, the task's generation options, and the document."""
        _, doc_to_messages, options, doc_id, task, split = request.args
        return doc_to_messages, options, self.task_dict[task][split][doc_id]

    def _question(self, request: Instance, name: str) -> Question:
        to_messages, options, doc = self._arguments(request)
        settings = text_settings(options, max_new_tokens=self.max_new_tokens, no_stop=(FEWSHOT_DELIMITER,))
        return Question(name, self._with_system_prompt(to_messages(doc)), settings)

    def _with_system_prompt(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.system_prompt is None or (messages and messages[0]["role"] == "system"):
            return messages
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def _wants_picture(self, request: Instance) -> bool:
        return "all" in self.image_tasks or request.task_name in self.image_tasks

    def _pictures(self, questions: Sequence[Question], told: Callable[[int], Any]) -> list[Path]:
        """Files of the pictures that are asked for."""
        return make_pictures(
            self.model,
            self.processor,
            questions,
            self.image_dir,
            checkpoint=self.checkpoint,
            options=self.picture_options,
            batch_size=self.batch_size,
            seed=self.seed,
            on_pictures=told,
        )

    def _answers(self, questions: Sequence[Question], told: Callable[[int], Any]) -> list[Answer]:
        """The answers: those that are kept from before, and the model's to the rest."""
        store, known, keys = self.store, {}, []
        if store is not None:
            options = {"seed": self.seed, "frames": self.video_frames, **computed_by(self.model, self.processor)}
            keys = [fingerprint(question, self.checkpoint, options) for question in questions]
            known = {index: kept for index, key in enumerate(keys) if (kept := store.get(key)) is not None}
            told(len(known))
        open_ones = [index for index in range(len(questions)) if index not in known]

        def keep(pairs: list[tuple[int, Answer]]) -> None:
            if store is not None:
                store.add({keys[open_ones[at]]: answer for at, answer in pairs})
            told(len(pairs))

        answers = answer_all(
            self.model,
            self.processor,
            [questions[index] for index in open_ones],
            batch_size=self.batch_size,
            seed=self.seed,
            video_frames=self.video_frames,
            on_answers=keep,
        )
        known.update(zip(open_ones, answers, strict=True))
        return [known[index] for index in range(len(questions))]


class WallarooSimple(WallarooChat):
    """The same from a text with its pictures before it (`--force_simple`), and likelihoods of given answers."""

    is_simple = True

    def _arguments(self, request: Instance) -> tuple[Callable[[Any], list[dict[str, Any]]], dict[str, Any], Any]:
        context, options, doc_to_visual, doc_id, task, split = request.args
        return partial(_messages, context, doc_to_visual), options, self.task_dict[task][split][doc_id]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        """Negative log-likelihood of each request's continuation as an answer, and whether it is the greedy answer.

        lmms-eval takes the choice whose number is the least, whatever its base class says of them. And it makes a
        string of a bare pair (0.7.3), but takes out what a `GenerationResult` holds.
        """
        questions, continuations = [], []
        for request in requests:
            context, target, *where = request.args
            name = f"{request.task_name}/{request.doc_id}"
            doc, visual = None, None
            if where:  # not of tasks that weigh a choice by its likelihood without a question
                visual, doc_id, task, split = where
                doc = self.task_dict[task][split][doc_id]
            questions.append(Question(name, self._with_system_prompt(_messages(context, visual, doc))))
            continuations.append(target(doc) if callable(target) else target)
        results: list[Any] = []
        with make_progress(total=len(requests), desc="Wallaroo", disable=self.rank != 0) as bar:
            for start in range(0, len(requests), self.batch_size):
                chosen = slice(start, start + self.batch_size)
                scored = score_batch(self.model, self.processor, questions[chosen], continuations[chosen])
                results += [GenerationResult((-score, greedy)) for score, greedy in scored]
                bar.update(len(scored))
        return results


def _names(requests: Sequence[Instance]) -> list[str]:
    """What the requests are called: task and document, and which repetition of it."""
    seen: Counter[str] = Counter()
    names = []
    for request in requests:
        name = f"{request.task_name}/{request.doc_id}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _messages(context: str, doc_to_visual: Callable[[Any], Any] | None, doc: Any) -> list[dict[str, Any]]:
    """One user turn: pictures and videos, then the text."""
    found = (doc_to_visual(doc) if doc_to_visual is not None else None) or []
    parts: list[Mapping[str, Any]] = [{"type": _kind(visual), "url": visual} for visual in found]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": context}]}]


def _kind(visual: Any) -> str:
    """`"image"`, or `"video"` for a path of another kind of file."""
    kind = mimetypes.guess_type(visual)[0] or "video" if isinstance(visual, str) else "image"
    return "image" if kind.startswith("image") else "video"


def _batch_size(batch_size: int | str, max_batch_size: Any) -> int:
    """The number of requests at once."""
    if max_batch_size is not None or not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise ValueError(
            f"`batch_size` must be a positive int, such as 8, but got {batch_size!r} with `max_batch_size` "
            f"{max_batch_size!r}: Wallaroo's plug-in does not look for the largest by itself."
        )
    return int(batch_size)


__all__ = ["IMAGE_TASKS", "WallarooChat", "WallarooSimple"]
