# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`generate(task="auto")`: the text head answers, and where it starts a picture, a head for images goes on.

The choice that paper section 6 misses. The text head writes `<|generate_start|>` where a picture is to come, and, in a
checkpoint that was trained for it (`config.decides_edits`), after that `<|pixel_start|>` for an edit of the last
picture or `<|vision_start|>` for a new one. Other checkpoints edit wherever there is a picture.
"""

import copy
import itertools
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.utils import ModelOutput, logging

from .generation_wallaroo import SOURCE_NAMES, TEXT_NAMES, WallarooGenerationMixin, select_sources
from .image_grid_wallaroo import AUTO, EDIT, GENERATE, UNDERSTAND

logger = logging.get_logger(__name__)

# Arguments of the pictures.
OF_IMAGES = (
    "guidance_scale",
    "image_guidance_scale",
    "generator",
    "decoder",
    "speculative_window",
    "row_ends",
    "show_progress",
)
# What the processor returns for the texts, and what it notes, beside the prompts of the images.
OF_TEXT = (*TEXT_NAMES, "pixel_values", "image_grid_thw")
NOTED = ("task_ids", "requests", "has_picture", "generate_prompts", "edit_prompts")
# How pictures may be sampled, by `image_options`.
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "use_cache", "cache_implementation")
# Arguments that have none here.
NOT_FOR_AUTO = (
    "num_return_sequences",
    "num_beams",
    "return_dict_in_generate",
    "output_logits",
    "output_scores",
    "output_attentions",
    "output_hidden_states",
    "past_key_values",
)
MAX_PICTURES = 4


@dataclass(frozen=True)
class AnswerPart:
    """A stretch of text, or a picture.

    Attributes:
        task: `"understand"` for text, else the task that made the picture.
        ids (`torch.LongTensor` of shape `(length,)`): of the text without its end, or of the image turn.
        codes (`torch.LongTensor` of shape `(grid_height, grid_width)`): of a picture.
        pixel_values (`torch.FloatTensor` of shape `(3, height, width)`): of a picture, about [-1, 1].
    """

    task: str
    ids: torch.Tensor
    codes: torch.Tensor | None = None
    pixel_values: torch.Tensor | None = None


@dataclass
class WallarooAutoOutput(ModelOutput):
    """What `generate(task="auto")` returns; `processor.post_process_auto` makes texts and pictures of it.

    Attributes:
        answers (`list[list[AnswerPart]]`): for each prompt the parts of its answer, in their order.
        tasks (`list[str]`): for each prompt what was chosen first: `"generate"` or `"edit"` where the answer has a
            picture, else `"understand"`.
    """

    answers: list[list[AnswerPart]] | None = None
    tasks: list[str] | None = None


@dataclass(frozen=True)
class PictureMarks:
    """The tokens by which the text head says what is to come.

    Attributes:
        start: begins a picture.
        draw, edit: which one; `None` where the checkpoint does not say.
        ends: of an answer.
    """

    start: int
    draw: int | None
    edit: int | None
    ends: tuple[int, ...]

    @classmethod
    def of(cls, model: Any, ends: int | Sequence[int] | None = None) -> "PictureMarks":
        """Those of a model; `ends` in place of what its generation config says."""
        config = model.config
        given: Any = model.generation_config.eos_token_id if ends is None else ends
        listed = tuple(given) if isinstance(given, (list, tuple)) else () if given is None else (int(given),)
        draw, edit = (
            (config.vision_start_token_id, config.pixel_start_token_id) if config.decides_edits else (None, None)
        )
        return cls(config.generate_start_token_id, draw, edit, listed)

    @property
    def stops(self) -> tuple[int, ...]:
        """Where text stops."""
        return (*self.ends, *((self.start,) if self.draw is None else (self.draw, self.edit)))

    def may_draw(self, has_picture: bool) -> bool:
        """Whether a new picture can be meant: beside another only where the marks say which."""
        return self.draw is not None or not has_picture

    def read(self, ids: torch.Tensor, *, can_edit: bool) -> tuple[torch.Tensor, str | None]:
        """Text `(length,)` without what ends it, and the task of the picture that is to come, if any.

        Args:
            ids: what the text head has written, with whatever padding follows.
            can_edit: whether there is a picture to edit; where the marks do not say which, it is edited then.
        """
        found = torch.isin(ids, torch.tensor(self.stops, device=ids.device)).nonzero()
        end = int(found[0]) if len(found) else len(ids)
        last = int(ids[end]) if len(found) else None
        text = ids[:end]
        if self.draw is not None and len(text) and int(text[-1]) == self.start:
            text = text[:-1]  # also where the text was cut right after it
        if last is None or last in self.ends:
            return text, None
        edits = can_edit if self.draw is None else last == self.edit
        return text, (EDIT if edits else GENERATE).name


class ChooseMarks(LogitsProcessor):
    """Lets the marks of pictures be written only where they mean something.

    Args:
        marks: see [`PictureMarks`].
        can_draw, can_edit: of each prompt, whether a picture may be drawn, or the last one edited, next.
    """

    def __init__(self, marks: PictureMarks, can_draw: Sequence[bool], can_edit: Sequence[bool]):
        self.marks, self.can_draw, self.can_edit = marks, torch.tensor(can_draw), torch.tensor(can_edit)

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        marks, scores = self.marks, scores.clone()
        can_draw, can_edit = self.can_draw.to(scores.device), self.can_edit.to(scores.device)
        scores[~(can_draw | can_edit), marks.start] = -torch.inf
        if marks.draw is None:
            return scores
        after = input_ids[:, -1] == marks.start
        of_draw, of_edit = scores[:, marks.draw].clone(), scores[:, marks.edit].clone()
        scores[:, [marks.draw, marks.edit]] = -torch.inf
        scores[after] = -torch.inf
        for mark, kept, allowed in ((marks.draw, of_draw, can_draw), (marks.edit, of_edit, can_edit)):
            scores[after & allowed, mark] = kept[after & allowed]
        return scores


def is_auto(name: str | None, task_ids: torch.Tensor | None) -> bool:
    """Whether a call is for `"auto"`, by its task or by what the processor noted."""
    noted = task_ids is not None and bool((task_ids == AUTO.index).all())
    if name is None or (name == AUTO.name and (noted or task_ids is None)):
        return noted or name == AUTO.name
    if noted or name == AUTO.name:
        other = f"`task` is {name!r}, but the inputs were prepared for " + ("'auto'" if noted else "another task")
        raise ValueError(f"{other}. Build them with `processor(..., task={name!r})`.")
    return False


def is_input(name: str) -> bool:
    """Whether an argument is of what the processor returns for `"auto"`."""
    parts = name.removeprefix("generate_").removeprefix("edit_").removeprefix("unconditional_")
    return name in (*OF_TEXT, *NOTED) or (parts != name and parts in (*TEXT_NAMES, *SOURCE_NAMES, "target_grid"))


def select_prompts(inputs: Mapping[str, torch.Tensor], rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """Some of the prompts of an image task, each of which has one source or none."""
    chosen: dict[str, torch.Tensor] = {}
    for prefix in ("", "unconditional_"):
        of_prefix = [name for name in inputs if name.startswith("unconditional_") == bool(prefix)]
        sources = {name: inputs[name] for name in of_prefix if name.removeprefix(prefix) in SOURCE_NAMES}
        chosen |= {name: inputs[name][list(rows)] for name in of_prefix if name not in sources}
        bare = {name.removeprefix(prefix): value for name, value in sources.items()}
        chosen |= {f"{prefix}{name}": value for name, value in select_sources(bare, rows).items()}
    return chosen


def write_texts(
    model: Any,
    inputs: Mapping[str, Any],
    can_draw: Sequence[bool],
    can_edit: Sequence[bool],
    *,
    marks: PictureMarks | None = None,
    logits_processor: Sequence[Any] | None = None,
    generation_config: GenerationConfig | None = None,
    **options: Any,
) -> list[tuple[torch.Tensor, str | None]]:
    """Writes the text of some answers up to their end, or to where a picture is to come.

    Args:
        inputs: as `processor.prepare_answers` or `processor(task="auto")` gives them.
        can_draw, can_edit: see [`ChooseMarks`].
        options: arguments of `generate`.

    Returns:
        For each prompt what `PictureMarks.read` gives.
    """
    marks = PictureMarks.of(model) if marks is None else marks
    processors = [*(logits_processor or ()), ChooseMarks(marks, can_draw, can_edit)]
    ends: dict[str, Any] = {"eos_token_id": list(marks.stops)}
    if generation_config is not None:  # which does not go with arguments of the same names
        config = copy.deepcopy(generation_config)
        ends, options = {"generation_config": config}, config.update(**options, **ends)
    ids = model.generate(
        **{name: inputs[name] for name in OF_TEXT if inputs.get(name) is not None},
        task=UNDERSTAND.name,
        logits_processor=LogitsProcessorList(processors),
        **ends,
        **options,
    )[:, inputs["input_ids"].shape[1] :]
    return [marks.read(row, can_edit=editable) for row, editable in zip(ids, can_edit, strict=True)]


def _check_image_options(options: Mapping[str, Any]) -> None:
    """Raises for what `image_options` and the arguments of pictures cannot say here."""
    unknown = sorted(set(options) - {*OF_IMAGES, *SAMPLING})
    if unknown:
        raise ValueError(
            f"`image_options` may have {', '.join(SAMPLING)} and the arguments of pictures ({', '.join(OF_IMAGES)}), "
            f"but got {', '.join(unknown)}."
        )
    generator = options.get("generator")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"`generator` must be one `torch.Generator` for the task 'auto', but got {generator!r}.")


class AutoCall:
    """One call of `generate(task="auto")`.

    Args:
        model: the model.
        text_options, image_options: arguments of `generate` for the texts and for the pictures.
        seed, processor, max_pictures: see `WallarooAutoGenerationMixin.generate`.
    """

    def __init__(
        self,
        model: Any,
        text_options: dict[str, Any],
        image_options: dict[str, Any],
        *,
        seed: Any,
        processor: Any,
        max_pictures: Any,
    ):
        config = text_options.get("generation_config")
        for name in NOT_FOR_AUTO:
            for value in (text_options.pop(name, None), getattr(config, name, None)):
                if value not in (None, False) and (value is True or value != 1):
                    raise ValueError(f"`{name}` is not for the task 'auto', whose answers are texts and pictures.")
        _check_image_options(image_options)
        if seed is not None and image_options.get("generator") is not None:
            raise ValueError("Pass `seed` or `generator`, not both.")
        most: Any = (1 if processor is None else MAX_PICTURES) if max_pictures is None else max_pictures
        if isinstance(most, bool) or not isinstance(most, numbers.Integral) or int(most) < 0:
            raise ValueError(f"`max_pictures` must be a whole number from 0 on, but got {max_pictures!r}.")
        if processor is None and int(most) > 1:
            raise ValueError(
                f"`max_pictures` is {most}, but without `processor` an answer ends with its first picture: pass the "
                "processor, which reads pictures for what comes after them."
            )
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, numbers.Integral)):
            raise ValueError(f"`seed` must be an int for the task 'auto', but got {seed!r}.")
        self.model, self.processor, self.most = model, processor, int(most)
        self.text_options, self.image_options = text_options, image_options
        self.seed = seed
        ends = text_options.pop("eos_token_id", None)
        self.marks = PictureMarks.of(model, getattr(config, "eos_token_id", None) if ends is None else ends)

    def run(self, given: Mapping[str, Any]) -> WallarooAutoOutput:
        """The answers to the prompts of `processor(task="auto")`."""
        count = len(given["input_ids"])
        answers: list[list[AnswerPart]] = [[] for _ in range(count)]
        rows = list(range(count))
        for number in itertools.count():
            new: list[list[AnswerPart]] = [[] for _ in rows]
            chosen = self._say(given, number < self.most, new)
            self._make(given, chosen, [row + number * count for row in rows], new)
            for row, parts in zip(rows, new, strict=True):
                answers[row] += parts
            going = [place for place, task in enumerate(chosen) if task is not None]
            if self.processor is None or not going:
                break
            requests = {place: given["requests"][place].continued(self._as_message(new[place])) for place in going}
            going = [place for place in going if self._has_room(requests[place])]
            if not going:
                break
            rows = [rows[place] for place in going]
            given = self.processor.prepare_auto([requests[place] for place in going]).to(self.model.execution_device)
        tasks = [next((part.task for part in parts if part.codes is not None), UNDERSTAND.name) for parts in answers]
        return WallarooAutoOutput(answers=answers, tasks=tasks)

    def _has_room(self, request: Any) -> bool:
        """Whether an answer can go on after a picture; what there is of it stays where it cannot."""
        try:
            self.processor.prepare_answers([request])
        except ValueError as error:
            logger.warning(f"An answer ends after a picture, since there is no room for more: {error}")
            return False
        return True

    def _say(self, given, may_make: bool, new: Sequence[list[AnswerPart]]) -> list[str | None]:
        """Writes a stretch of text for each prompt; the tasks of the pictures that follow."""
        can_draw, can_edit = (
            [may_make and row in set(given[f"{task.name}_prompts"].tolist()) for row in range(len(new))]
            for task in (GENERATE, EDIT)
        )
        has_picture = given["has_picture"].tolist()
        can_draw = [can and self.marks.may_draw(has) for can, has in zip(can_draw, has_picture, strict=True)]
        written = write_texts(
            self.model, given, can_draw, can_edit, marks=self.marks, seed=self.seed, **self.text_options
        )
        for (text, _), parts in zip(written, new, strict=True):
            if len(text):
                parts.append(AnswerPart(UNDERSTAND.name, text))
        return [task for _, task in written]

    def _make(self, given, chosen: Sequence[str | None], offsets: Sequence[int], new: Sequence[list[AnswerPart]]):
        """Makes the pictures that were chosen."""
        for task in (GENERATE, EDIT):
            rows = [row for row, name in enumerate(chosen) if name == task.name]
            if not rows:
                continue
            inputs = {
                name.removeprefix(f"{task.name}_"): value
                for name, value in given.items()
                if name.startswith(f"{task.name}_") and value is not None and name not in NOTED
            }
            known = given[f"{task.name}_prompts"].tolist()
            places = [known.index(row) for row in rows]
            options = dict(self.image_options)
            if not task.has_source:
                options.pop("image_guidance_scale", None)
            seeds = None if self.seed is None else [self.seed + offsets[row] for row in rows]
            made = self.model.generate(
                **select_prompts(inputs, places),
                task=task.name,
                seed=seeds,
                return_dict_in_generate=True,
                **options,
            )
            pixels = self.model.decode_image_tokens(made.sequences, options.get("row_ends"))
            for index, row in enumerate(rows):
                part = AnswerPart(task.name, made.sequences[index], made.codes[index], pixels[index])
                new[row].append(part)

    def _as_message(self, parts: Sequence[AnswerPart]) -> list[dict[str, Any]]:
        """Parts of an answer as those of a message."""
        message = []
        for part in parts:
            value = self.processor.read_part(part)
            is_text = isinstance(value, str)
            message.append(
                {"type": "text", "text": value} if is_text else {"type": "image", "image": value, "task": part.task}
            )
        return message


class WallarooAutoGenerationMixin(WallarooGenerationMixin):
    """`generate` that may choose the task by itself."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        task: str | None = None,
        processor: Any = None,
        max_pictures: int | None = None,
        image_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | ModelOutput:
        """Answers, draws or edits: `model.generate(**processor(..., task=...), ...)`.

        Args:
            inputs, generation_config, logits_processor: as in transformers.
            task (`str`, *optional*): `"understand"`, `"generate"` or `"edit"`, whose arguments and results
                `WallarooGenerationMixin.generate` tells of; or `"auto"`, with which the model answers, and draws or
                edits where it sees fit. By default what the processor noted.
            processor (`WallarooProcessor`, *optional*): for `"auto"`: with it an answer may go on after a picture,
                which the model then sees; without it the answer ends there.
            max_pictures (`int`, *optional*): for `"auto"`, most pictures of an answer: 4, or 1 without `processor`.
            image_options (`dict`, *optional*): for `"auto"`, how its pictures are sampled (`do_sample`, `top_k`, ...).
            kwargs: the processor's outputs and any argument of generation. For `"auto"`, `guidance_scale`,
                `image_guidance_scale`, `generator`, `decoder`, `speculative_window`, `row_ends` and `show_progress` are
                of the pictures; `seed` (an int) is of both, and picture `k` of the answer to prompt `i` of `n` has the
                seed `seed + i + k * n`; all else is of the texts.

        Returns:
            As `WallarooGenerationMixin.generate`; for `"auto"` a [`WallarooAutoOutput`].
        """
        own = {"processor": processor, "max_pictures": max_pictures, "image_options": image_options}
        if not is_auto(task, kwargs.get("task_ids")):
            for name, value in own.items():
                if value is not None:
                    raise ValueError(f"`{name}` is for the task 'auto'.")
            return super().generate(inputs, generation_config, logits_processor, task=task, **kwargs)
        kwargs |= {"input_ids": inputs} if inputs is not None else {}
        given = {name: kwargs.pop(name) for name in list(kwargs) if is_input(name)}
        needed = ("input_ids", "has_picture", "generate_prompts", "edit_prompts", *(["requests"] if processor else []))
        missing = [name for name in needed if given.get(name) is None]
        if missing:
            raise ValueError(
                f"The task 'auto' needs {', '.join(f'`{name}`' for name in missing)}. Build the inputs with "
                "`processor(..., task='auto')` or `processor.apply_chat_template(..., task='auto')`, and pass all of "
                "them."
            )
        pictures = {name: kwargs.pop(name, None) for name in OF_IMAGES}
        pictures = {name: value for name, value in pictures.items() if value is not None} | dict(image_options or {})
        kwargs |= {"generation_config": generation_config, "logits_processor": logits_processor}
        seed = kwargs.pop("seed", None)
        call = AutoCall(self, kwargs, pictures, seed=seed, processor=processor, max_pictures=max_pictures)
        return call.run(given)


__all__ = [
    "MAX_PICTURES",
    "AnswerPart",
    "ChooseMarks",
    "PictureMarks",
    "WallarooAutoGenerationMixin",
    "WallarooAutoOutput",
    "write_texts",
]
