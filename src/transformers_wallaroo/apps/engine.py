# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""One loaded checkpoint that answers, draws and edits, for the command, the web page and the server."""

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteriaList
from transformers.utils import logging

from ..auto_wallaroo import MAX_PICTURES, ChooseMarks, PictureMarks
from ..conversations_wallaroo import AutoRequest
from ..embedded import checkpoint_hash, load_checkpoint, tiny_path, versions
from ..image_grid_wallaroo import EDIT, GENERATE, UNDERSTAND, ImageTask
from ..image_processing_wallaroo import to_mask, to_rgb
from .pictures import picture_hash
from .streaming import AnswerStreamer, ImageStreamer, Stopped, StopWhen

MAX_NEW_TOKENS = 512
# Of `speculative_window`: memory grows with it, and what is faster than this is not known.
MAX_WINDOW = 64
# Stands for the neighbours of a picture in its batch where they are nobody's business.
NOT_TOLD = "not told"
# What a job may say of an edit alone.
OF_EDITS = ("region_mask", "mask_path", "original_size", "keep_source")
# What a job may say of sampling; the rest is the checkpoint's. All jobs of a batch must say the same.
SAMPLING = (
    "guidance_scale",
    "image_guidance_scale",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "speculative_window",
)


@dataclass(frozen=True)
class ImageJob:
    """One picture to be made.

    Attributes:
        prompt: what to draw, or what to change in `source`.
        source: the picture to edit; without one a picture is drawn.
        source_path: where the source lies, for the note that the file will hold.
        height, width: in pixels, multiples of the checkpoint's cell; or `aspect_ratio`, such as `"16:9"`, width first.
            Without any: the processor's usual size, for an edit the nearest to the source's shape.
        seed: the same seed, prompt and settings give the same picture.
        negative_prompt: what guidance leads away from.
        sampling: arguments of `generate` out of `SAMPLING`; what is not there is as the checkpoint has it.
        region_mask: of an edit, what is drawn anew: white in a picture, true in an array of bools, of the size of the
            source or of the image; cells that it does not touch keep the source's codes.
        mask_path: where the mask lies, for the note.
        original_size: whether an edit comes back in its source's size, with nothing cropped.
        keep_source: whether an edit has the source's own pixels outside of `region_mask`.
    """

    prompt: str
    source: Image.Image | None = None
    source_path: str | None = None
    height: int | None = None
    width: int | None = None
    aspect_ratio: str | float | None = None
    seed: int = 0
    negative_prompt: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    region_mask: Any = None
    mask_path: str | None = None
    original_size: bool = False
    keep_source: bool = False

    def __post_init__(self):
        unknown = sorted(set(self.sampling) - set(SAMPLING))
        if unknown:
            raise ValueError(f"`sampling` may have {', '.join(SAMPLING)}, but got {', '.join(unknown)}.")
        window = self.sampling.get("speculative_window")
        if isinstance(window, int) and window > MAX_WINDOW:
            raise ValueError(
                f"`speculative_window` must be at most {MAX_WINDOW} codes, but got {window}: memory grows with it, and "
                "pictures are not made faster."
            )
        of_edits = {
            "image_guidance_scale": self.sampling.get("image_guidance_scale") is not None,
            "region_mask": self.region_mask is not None,
            "original_size": self.original_size,
            "keep_source": self.keep_source,
        }
        for name, given in of_edits.items():
            if given and self.source is None:
                raise ValueError(f"`{name}` is for edits, but the job has no `source`.")
        if self.keep_source and self.region_mask is None:
            raise ValueError("`keep_source` needs a `region_mask`: outside of it the source's pixels are kept.")

    @property
    def task(self) -> ImageTask:
        return GENERATE if self.source is None else EDIT


@dataclass(frozen=True)
class AnswerEnd:
    """How an answer ended.

    Attributes:
        prompt_tokens: of the conversation, pictures included.
        new_tokens: that were written, the one that ends the answer included.
        reason: `"stop"` where the checkpoint ended it, `"length"` at `max_new_tokens`, `"stopped"` where `stop` said
            so.
    """

    prompt_tokens: int
    new_tokens: int
    reason: str


@dataclass(frozen=True)
class MadeImage:
    """A picture and all that its making depended on, as `save_picture` writes it into the file."""

    picture: Image.Image
    info: dict[str, Any]


class Engine:
    """A checkpoint that is loaded once and used by many callers; one of them at a time has the model.

    Args:
        model, processor: as `load_checkpoint` returns them.
        name: what users call the checkpoint.
        path: its folder, for its fingerprint; `None` where there is none.
    """

    def __init__(self, model: Any, processor: Any, *, name: str, path: str | Path | None = None):
        self.model, self.processor, self.name, self.path = model, processor, name, path
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        optimize: bool = True,
    ) -> "Engine":
        """Loads a folder or a name on the Hub, by default the embedded checkpoint; `optimize` as `model.optimize()`."""
        logging.disable_progress_bar()
        try:
            model, processor = load_checkpoint(checkpoint, device=device, dtype=dtype)
        finally:
            logging.enable_progress_bar()
        if optimize:
            model.optimize()
        path = tiny_path() if checkpoint is None else Path(checkpoint)
        name = "wallaroo-tiny" if checkpoint is None else str(checkpoint)
        return cls(model, processor, name=name, path=path if path.is_dir() else None)

    # ------------------------------------------------------------------ what it is

    @cached_property
    def checkpoint_hash(self) -> str:
        """Tells the checkpoint from others, see `embedded.checkpoint_hash`; the commit where it came from the Hub."""
        if self.path is not None:
            return checkpoint_hash(self.path, quick=True)
        return getattr(self.model.config, "_commit_hash", None) or "unknown"

    @property
    def cell(self) -> int:
        """Pixels along the side of a cell: heights and widths are multiples of it."""
        return self.processor.image_processor.downsample_factor

    @property
    def usual_sizes(self) -> list[tuple[int, int]]:
        """Heights and widths in pixels that the checkpoint was trained with."""
        return [(height, width) for _, height, width in self.processor.image_processor.buckets]

    # ------------------------------------------------------------------ text

    def stream_answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int | None = None,
        stop: Callable[[], bool] | None = None,
        on_end: Callable[[AnswerEnd], None] | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The answer to a conversation, in pieces as they come.

        Args:
            messages: as chat templates take them; a part of a content is `{"type": "text", "text": ...}` or
                `{"type": "image", "image": ...}`.
            stop: asked at each token; where it says yes, the answer ends there.
            on_end: told how a whole answer ended, after its last piece.
            options: arguments of transformers' `generate`.
        """
        inputs = self.prepare_answer(messages).to(self.model.device)
        plain = ChooseMarks(PictureMarks.of(self.model), [False], [False])  # an answer in words alone
        options = {"max_new_tokens": max_new_tokens, "seed": seed, "logits_processor": [plain], **options}
        ids = yield from self._stream(inputs, stop, options)
        if on_end is not None:
            on_end(self._end(inputs["input_ids"].shape[1], ids, max_new_tokens))

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        picture: Mapping[str, Any] | None = None,
        make: Callable[[ImageJob], MadeImage] | None = None,
        max_pictures: int = MAX_PICTURES,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stop: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Iterator[str | MadeImage]:
        """The answer to a conversation, in which the model draws and edits where it sees fit (`task="auto"`).

        Args:
            messages: as for `stream_answer`; answers may hold pictures, with the `task` that made them. An edit changes
                the last picture; its `name` is noted as the path of the source.
            picture: what pictures are to be, as fields of [`ImageJob`]; a later picture of the answer has the next
                seed.
            make: makes a picture; `self.make` by default.
            max_pictures: of the answer.
            max_new_tokens: of each stretch of text.
            stop: as for `stream_answer` and `make`.
            options: arguments of transformers' `generate`, of the text.

        Yields:
            Pieces of text as they come, and pictures once they are made.
        """
        marks, fields = PictureMarks.of(self.model), dict(picture or {})
        first_seed, request = fields.pop("seed", 0), AutoRequest.of(messages, {})
        processors = options.pop("logits_processor", None) or ()
        for number in itertools.count():
            can_draw, can_edit = (
                number < max_pictures and self.processor.can_make(request, task) for task in (GENERATE, EDIT)
            )
            can_draw = can_draw and marks.may_draw(bool(request.pictures))
            inputs = self.processor.prepare_answers([request]).to(self.model.execution_device)
            of_text = {
                "max_new_tokens": max_new_tokens,
                **options,
                "logits_processor": [*processors, ChooseMarks(marks, [can_draw], [can_edit])],
                "eos_token_id": list(marks.stops),
            }
            ids = yield from self._stream(inputs, stop, of_text)
            text, task = marks.read(ids, can_edit=can_edit)
            if task is None or (stop is not None and stop()):
                return
            job = self._job_of(request, task, {**fields, "seed": first_seed + number})
            made = self.make([job], stop=stop)[0] if make is None else make(job)
            yield made
            said = self.processor.tokenizer.decode(text, skip_special_tokens=True).strip()
            parts: list[dict[str, Any]] = [{"type": "text", "text": said}] if said else []
            request = request.continued([*parts, {"type": "image", "image": made.picture, "task": task}])

    @staticmethod
    def _job_of(request: AutoRequest, task: str, fields: dict[str, Any]) -> ImageJob:
        """The picture that a request is for; what is of edits alone is left out of a drawing."""
        if task == EDIT.name:
            return ImageJob(
                request.prompt, source=to_rgb(request.pictures[-1]), source_path=request.last_name, **fields
            )
        sampling = {name: value for name, value in fields.get("sampling", {}).items() if name != "image_guidance_scale"}
        kept = {name: value for name, value in fields.items() if name not in OF_EDITS}
        return ImageJob(request.prompt, **{**kept, "sampling": sampling})

    def _stream(
        self, inputs: Mapping[str, Any], stop: Callable[[], bool] | None, options: Mapping[str, Any]
    ) -> Generator[str, None, torch.Tensor]:
        """Writes the text of an answer, in pieces as they come; in the end gives its ids."""
        streamer = AnswerStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        left = threading.Event()
        written: list[torch.Tensor] = []
        failed: list[BaseException] = []
        criteria = StoppingCriteriaList([StopWhen(lambda: left.is_set() or (stop is not None and stop()))])

        def run() -> None:
            try:
                with self._lock:
                    ids = self.model.generate(
                        **inputs, task=UNDERSTAND.name, streamer=streamer, stopping_criteria=criteria, **options
                    )
                written.append(ids[0, inputs["input_ids"].shape[1] :])
            except BaseException as error:  # noqa: BLE001 (raised again by the reader)
                failed.append(error)
                streamer.end()

        writer = threading.Thread(target=run, daemon=True)
        writer.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            left.set()
            writer.join()
        if failed:
            raise failed[0]
        return written[0]

    def prepare_answer(self, messages: Sequence[Mapping[str, Any]]) -> Any:
        """The processor's inputs of a conversation, which raises for what is wrong with it."""
        return self.processor.apply_chat_template(
            _as_parts(messages), tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )

    def _end(self, prompt_tokens: int, ids: torch.Tensor, max_new_tokens: int) -> AnswerEnd:
        ends = self.model.generation_config.eos_token_id
        if int(ids[-1]) in (ends if isinstance(ends, list) else [ends]):
            return AnswerEnd(prompt_tokens, len(ids), "stop")
        return AnswerEnd(prompt_tokens, len(ids), "length" if len(ids) >= max_new_tokens else "stopped")

    def answer(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """The whole answer to a conversation; arguments as for `stream_answer`."""
        return "".join(self.stream_answer(messages, **options)).strip()

    # ------------------------------------------------------------------ pictures

    def make(
        self,
        jobs: Sequence[ImageJob],
        *,
        on_code: Callable[[int, int], None] | None = None,
        on_rows: Callable[[list[Image.Image | None]], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> list[MadeImage]:
        """Makes some pictures as one batch, in which sizes, seeds and tasks may differ.

        Args:
            on_code: gets how many codes are known of every picture, and how many the largest has.
            on_rows: gets what there is of each picture whenever a row of one is finished.
            stop: asked at each code; where it says yes, the call ends in [`Stopped`].
        """
        if not jobs:
            return []
        sampling = dict(jobs[0].sampling)
        if any(dict(job.sampling) != sampling for job in jobs):
            raise ValueError("`jobs` of one batch must have the same `sampling`. Make them in several calls.")
        inputs = self.prepare(jobs)
        grids = [(int(height), int(width)) for height, width in inputs["target_grid"].tolist()]

        def show(streamer: ImageStreamer) -> None:
            assert on_rows is not None
            on_rows([streamer.picture(self.model, self.processor, index) for index in range(len(jobs))])

        streamer = ImageStreamer(
            grids,
            self.model.config.text_vocab_size,
            on_code=on_code,
            on_rows=None if on_rows is None else show,
            stop=stop,
        )
        with self._lock:
            if stop is not None and stop():
                raise Stopped
            sequences = self.model.generate(
                **inputs.to(self.model.device),
                seed=[job.seed for job in jobs],
                streamer=streamer,
                show_progress=False,
                **sampling,
            )
            pixels = self.model.decode_image_tokens(sequences)
        image_processor = self.processor.image_processor
        sizes = [(height * self.cell, width * self.cell) for height, width in grids]
        made = []
        for job, picture, size, note in zip(
            jobs,
            image_processor.postprocess(pixels, inputs.get("original_sizes")),
            sizes,
            _batch_notes(jobs, sizes),
            strict=True,
        ):
            if job.keep_source:
                picture = image_processor.keep_outside(picture, job.source, job.region_mask)
            made.append(MadeImage(picture, {**self.describe(job, size), "batch": note}))
        return made

    def size_of(self, job: ImageJob) -> tuple[int, int]:
        """Height and width in pixels that a job's picture will have; raises for a size that cannot be made."""
        sources = None if job.source is None else [job.source]
        [request] = self.processor.image_requests(
            [job.task], [job.prompt], sources, job.height, job.width, job.aspect_ratio
        )
        return request.height, request.width

    def prepare(self, jobs: Sequence[ImageJob]) -> Any:
        """The processor's inputs of some jobs, which raises for what is wrong with one of them."""
        sources = [job.source for job in jobs]
        return self.processor(
            text=[job.prompt for job in jobs],
            images=sources if any(source is not None for source in sources) else None,
            task=[job.task.name for job in jobs],
            height=[job.height for job in jobs],
            width=[job.width for job in jobs],
            aspect_ratio=[job.aspect_ratio for job in jobs],
            negative_prompt=[job.negative_prompt for job in jobs],
            region_mask=[job.region_mask for job in jobs],
            original_size=[job.original_size for job in jobs],
            return_tensors="pt",
        )

    def describe(self, job: ImageJob, size: tuple[int, int]) -> dict[str, Any]:
        """What the file of a picture that is made in `size` (height, width) will say, but for its batch."""
        settings = {**self.model.image_defaults, **job.sampling}
        settings.pop("num_return_sequences")
        if settings["image_guidance_scale"] is None or job.source is None:
            settings.pop("image_guidance_scale")  # a drawing has none, whatever the checkpoint's default
        device = self.model.device
        on_gpu = device.type == "cuda"
        return {
            **_request_of(job, size),
            "sampling": settings,
            "checkpoint": self.name,
            "checkpoint_hash": self.checkpoint_hash,
            "device": device.type,
            # Sums over threads, and kernels of another GPU, may round otherwise.
            **({"gpu": torch.cuda.get_device_name(device)} if on_gpu else {"threads": torch.get_num_threads()}),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "versions": versions(),
        }


def _request_of(job: ImageJob, size: tuple[int, int]) -> dict[str, Any]:
    """What was asked for, as a file notes it."""
    request: dict[str, Any] = {
        "task": job.task.name,
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "height": size[0],
        "width": size[1],
        "seed": job.seed,
    }
    if job.source is not None:
        path = {} if job.source_path is None else {"path": job.source_path}
        request["source"] = {**path, "sha256": picture_hash(job.source)}
        request.update(original_size=job.original_size, keep_source=job.keep_source)
    if job.region_mask is not None:
        path = {} if job.mask_path is None else {"path": job.mask_path}
        request["region_mask"] = {**path, "sha256": picture_hash(Image.fromarray(to_mask(job.region_mask)))}
    return request


def _batch_notes(jobs: Sequence[ImageJob], sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """For each job its place in the batch, whose size and prompts rounding may depend on. Its neighbours are named
    unless they are the same with the seeds that follow one another."""
    requests = [_request_of(job, size) for job, size in zip(jobs, sizes, strict=True)]
    first = requests[0]
    alike = all({**first, "seed": first["seed"] + index} == request for index, request in enumerate(requests))
    notes: list[dict[str, Any]] = [{"index": index, "size": len(jobs)} for index in range(len(jobs))]
    if not alike:
        for index, note in enumerate(notes):
            note["others"] = [*requests[:index], *requests[index + 1 :]]
    return notes


def _as_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose content is always a list of parts, as the chat template wants them."""
    checked = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant") or not isinstance(content, (str, list, tuple)):
            raise ValueError(
                "`messages` must have a `role` (system, user or assistant) and a `content` (a string, or a list of "
                f"parts) each, but got the role {role!r} with a content of type {type(content).__name__}."
            )
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        checked.append({**message, "content": parts})
    return checked


__all__ = ["MAX_WINDOW", "SAMPLING", "AnswerEnd", "Engine", "ImageJob", "MadeImage", "Stopped"]
