# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The decode loop: guidance, forced row ends, sampling. It runs inside transformers' own `generate`."""

import contextlib
import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import ModelOutput, logging

from .image_grid_wallaroo import TASKS, UNDERSTAND, ImageTask, Task, get_task, image_turn_length

logger = logging.get_logger(__name__)

# How an image is sampled unless the call says otherwise, by arguments or by a generation config that it passes:
# docs/protocol.md section 8. The generation config that is saved with a checkpoint is for text; its `image_defaults`
# alone, where it has them, stand in for some of these.
IMAGE_DEFAULTS: dict[str, Any] = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 1000,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "num_return_sequences": 1,
    "guidance_scale": 3.0,
}
# Arguments that have no meaning for an image, with the reason a user is given.
NOT_FOR_IMAGES: dict[str, str] = {
    **dict.fromkeys(
        ("max_new_tokens", "max_length", "min_new_tokens", "min_length"),
        "the length of an image follows from its size: set `height` and `width` in the processor",
    ),
    **dict.fromkeys(("stopping_criteria", "stop_strings"), "an image is made whole"),
    **dict.fromkeys(
        ("assistant_model", "prefix_allowed_tokens_fn", "custom_generate"), "images are decoded by their own loop"
    ),
    **dict.fromkeys(
        ("output_attentions", "output_hidden_states"), "call the model itself for them: `model(**inputs, ...)`"
    ),
}


@dataclass
class WallarooGenerateOutput(ModelOutput):
    """What `generate` returns for an image task with `return_dict_in_generate=True`.

    Attributes:
        sequences (`torch.LongTensor` of shape `(num_images, length)`): codes (`config.text_vocab_size` plus the code)
            and row ends of each image, right-padded where sizes differ.
        codes (`list[torch.LongTensor]`): `(grid_height, grid_width)` an image, values in `[0, num_embeddings)`.
        logits (`tuple[torch.FloatTensor]`, with `output_logits=True`): `(num_images, num_embeddings)` a code, in
            raster order, after guidance and before any logits processor. A row whose image is finished is undefined.
        scores (`tuple[torch.FloatTensor]`, with `output_scores=True`): the same after the logits processors.
    """

    sequences: torch.Tensor | None = None
    codes: list[torch.Tensor] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    scores: tuple[torch.Tensor, ...] | None = None


@dataclass(frozen=True)
class ImagePlan:
    """The images of one request: what is known before the first step.

    Attributes:
        grids: (grid_height, grid_width) of each image, in cells.
        row_ends: whether a row end is forced between two rows.
    """

    grids: tuple[tuple[int, int], ...]
    row_ends: bool

    @property
    def num_codes(self) -> int:
        """Codes of the largest image: the number of sampling steps."""
        return max(height * width for height, width in self.grids)

    @property
    def mixes_widths(self) -> bool:
        """Whether rows end at different steps, so that a step may need padding."""
        return self.row_ends and len({width for _, width in self.grids}) > 1

    def row_end_after(self, code: int) -> list[bool | None]:
        """For each image whether a row end follows its `code`-th code (from 0); `None` where the image is whole."""
        done = code + 1
        return [None if done >= height * width else self.row_ends and done % width == 0 for height, width in self.grids]

    def fed_positions(self) -> int:
        """Positions that decoding adds to the cache, padding included."""
        return sum(2 if True in self.row_end_after(code) else 1 for code in range(self.num_codes - 1))


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance of logits (paper section 3.4)."""
    return unconditional + guidance_scale * (conditional - unconditional)


def sample_codes(scores: torch.Tensor, generators: Sequence[torch.Generator] | None) -> torch.Tensor:
    """One code a row of `scores` (`(num_images, num_embeddings)`): the best without `generators`, else a draw.

    Row `i` draws from `generators[i]` alone, so that an image does not depend on its neighbours in the batch.
    """
    if generators is None:
        return scores.argmax(dim=-1)
    noise = torch.empty_like(scores)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    # The largest p/e with e ~ Exp(1) is a draw from p.
    return (scores.softmax(dim=-1) / noise).argmax(dim=-1)


def make_generators(
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    num_images: int,
    device: torch.device,
) -> list[torch.Generator]:
    """One generator an image, from seeds, generators, or torch's global state when neither is given.

    An int seeds image `i` with `seed + i`; one generator draws a seed for each image.
    """
    if seed is not None and generator is not None:
        raise ValueError("Pass `seed` or `generator`, not both.")
    if generator is not None and not isinstance(generator, torch.Generator):
        _check_count("generator", len(generator), num_images)
        return list(generator)
    if seed is None:
        device_of = torch.device("cpu") if generator is None else generator.device
        seeds = torch.randint(2**62, (num_images,), generator=generator, device=device_of).tolist()
    else:
        try:
            if isinstance(seed, Sequence):
                seeds = [operator.index(value) for value in seed]
            else:
                seeds = [operator.index(seed) + index for index in range(num_images)]
        except TypeError:
            raise ValueError(f"`seed` must be an int, or a list of one int an image, but got {seed!r}.") from None
        _check_count("seed", len(seeds), num_images)
    return [torch.Generator(device).manual_seed(value % 2**64) for value in seeds]


def _check_count(name: str, count: int, num_images: int) -> None:
    if count != num_images:
        raise ValueError(
            f"`{name}` must be one for all or one an image, but got {count} for {num_images} images "
            "(prompts times `num_return_sequences`)."
        )


def pad_left(tensors: Iterable[torch.Tensor], value: int) -> torch.Tensor:
    """Concatenates 2-D tensors of different lengths, padded at the left."""
    tensors = list(tensors)
    length = max(tensor.shape[1] for tensor in tensors)
    pad = torch.nn.functional.pad
    return torch.cat([pad(tensor, (length - tensor.shape[1], 0), value=value) for tensor in tensors])


class _Decoder:
    """State of one request: the rows of the batch (conditional ones first), their cache, mask and positions.

    It lives for one call; nothing of it is kept on the model.
    """

    def __init__(self, model, task: ImageTask, plan: ImagePlan, cache: Cache | None, repeats: int):
        self.model, self.task, self.plan, self.cache, self.repeats = model, task, plan, cache, repeats
        self.mask: torch.Tensor | None = None
        self.next_position: torch.Tensor  # of each row, known after the prefill
        # Embeddings and positions so far, kept only without a cache.
        self.history: list[torch.Tensor] = []
        self.history_positions: list[torch.Tensor] = []
        config = model.config
        eol = torch.tensor([config.eol_token_id], device=model.execution_device)
        self.row_end = model.get_input_embeddings()(eol)

    def prefill(self, embeds: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
        """Reads the prompts and returns the last hidden state of each row."""
        share = self.repeats > 1 and isinstance(self.cache, DynamicCache)
        repeats = self.repeats
        if repeats > 1 and not share:  # a cache that cannot be repeated afterwards reads each prompt `repeats` times
            embeds, positions = embeds.repeat_interleave(repeats, 0), positions.repeat_interleave(repeats, 1)
            mask = mask if mask is None else mask.repeat_interleave(repeats, 0)
        self.mask = mask
        hidden = self._forward(embeds, positions)
        self.next_position = positions.amax(dim=(0, 2)) + 1
        if share:
            assert self.cache is not None
            self.cache.batch_repeat_interleave(repeats)
            hidden = hidden.repeat_interleave(repeats, 0)
            self.next_position = self.next_position.repeat_interleave(repeats, 0)
            self.mask = mask if mask is None else mask.repeat_interleave(repeats, 0)
        return hidden

    def step(self, codes: torch.Tensor, row_ends: list[bool | None]) -> torch.Tensor:
        """Feeds the codes just sampled, each with its row end where one follows, and returns the last hidden state.

        Where rows end at different steps, an image without a row end gets a masked position before its code.
        """
        branches = len(self.next_position) // len(codes)
        embeds = self.model.model.embed_codes(codes.repeat(branches), self.task).unsqueeze(1).to(self.row_end.dtype)
        real = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        if True in row_ends:
            # Whole images (`None`) go on unread, as if their row ended.
            ends = torch.tensor([end is not False for end in row_ends], device=embeds.device).repeat(branches)
            both = torch.cat([embeds, self.row_end.to(embeds.device).expand(len(embeds), 1, -1)], dim=1)
            embeds = torch.where(ends[:, None, None], both, both.flip(1))
            real = torch.stack([ends, torch.ones_like(ends)], dim=1).long()
        last = self.next_position + real.sum(dim=1) - 1
        positions = last.unsqueeze(1) - torch.arange(embeds.shape[1] - 1, -1, -1, device=last.device)
        self.next_position = last + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, real.to(self.mask)], dim=1)
        return self._forward(embeds, positions.expand(3, -1, -1))

    def _forward(self, embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            self.history.append(embeds)
            self.history_positions.append(positions)
            embeds, positions = torch.cat(self.history, dim=1), torch.cat(self.history_positions, dim=2)
        outputs = self.model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
        )
        return outputs.last_hidden_state[:, -1]


class WallarooGenerationMixin(GenerationMixin):
    """`generate` for the three tasks. Understanding is transformers' own; images are decoded by `_decode_images`."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        task: str | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        show_progress: bool | None = None,
        row_ends: bool | None = None,
        generation_mode: str | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | ModelOutput:
        """Answers, draws or edits: `model.generate(**processor(..., task=...), ...)`.

        Args:
            inputs, generation_config, logits_processor: as in transformers. For images a logits processor sees the
                codes so far `(num_images, n)` and scores `(num_images, num_embeddings)`.
            task (`str`, *optional*): `"understand"`, `"generate"` or `"edit"`; by default what the processor noted.
            seed (`int` or one an image, *optional*): an image depends on its own seed alone, whatever the batch. An
                int gives image `i` the seed `seed + i`. For text, an int; it seeds torch's global state for the time
                of the call, so it is not for threads.
            generator (`torch.Generator` or one an image, *optional*): instead of `seed`, for images.
            show_progress (`bool`, *optional*): a progress bar while images are made; by default where stderr is a
                terminal.
            row_ends (`bool`, *optional*): whether rows end with the row-end token; by default what the config says
                (checkpoints of stages 1 to 3a have none).
            generation_mode (`str`, *optional*): what pipelines say: `"text"` or `"image"`; checked against the task.
                With `"image"` the `generation_config` and `max_new_tokens` that a pipeline fills in are passed over.
            kwargs: the processor's outputs and any generation argument of transformers. For images:
                `guidance_scale` (3; 1 runs no unconditional branch), `do_sample` (True), `temperature` (1), `top_k`
                (1000), `top_p` (1), `num_return_sequences`, `use_cache`, `cache_implementation`, `streamer`,
                `return_dict_in_generate`, `output_logits`, `output_scores`. A checkpoint's generation config may have
                other defaults than those in brackets, as `image_defaults`.

        Returns:
            For `"understand"` what transformers returns: prompt and answer ids. For images the ids of the image
            turns, or a [`WallarooGenerateOutput`] with `return_dict_in_generate=True`.
        """
        resolved = self._resolve_task(task, generation_mode, kwargs.get("task_ids"))
        if generation_mode == "image":  # what a pipeline adds of itself is for text
            generation_config = None
            kwargs.pop("max_new_tokens", None)
        if not isinstance(resolved, ImageTask):
            if generator is not None:
                raise ValueError("`generator` is for images; text sampling takes an int `seed`.")
            return self._generate_text(inputs, generation_config, logits_processor, seed, kwargs)
        if inputs is not None:
            kwargs["input_ids"] = inputs
        return self._generate_images(
            resolved,
            generation_config,
            logits_processor,
            kwargs,
            seed=seed,
            generator=generator,
            show_progress=show_progress,
            row_ends=self.config.row_ends if row_ends is None else row_ends,
        )

    def _resolve_task(self, name: str | None, generation_mode: str | None, task_ids: torch.Tensor | None) -> Task:
        indices = set() if task_ids is None else set(task_ids.tolist())
        noted = [task for task in TASKS.values() if task.index in indices]
        if len(noted) > 1:
            raise ValueError("The inputs mix tasks; call `generate` once a task.")
        task = get_task(name) if name is not None else noted[0] if noted else UNDERSTAND
        if noted and noted[0] is not task:
            raise ValueError(
                f"`task` is {task.name!r}, but the inputs were prepared for {noted[0].name!r}. "
                f"Build them with `processor(..., task={task.name!r})`."
            )
        if generation_mode not in (None, "image" if isinstance(task, ImageTask) else "text"):
            raise ValueError(
                f"`generation_mode` is {generation_mode!r}, but the inputs were prepared for the task {task.name!r}. "
                "For images pass `task='generate'` or `task='edit'` to the processor, or to the pipeline call."
            )
        return task

    def _generate_text(self, inputs, generation_config, logits_processor, seed, kwargs):
        kwargs = {key: value for key, value in kwargs.items() if key != "task_ids"}
        with contextlib.ExitStack() as stack:
            if seed is not None:
                if not isinstance(seed, numbers.Integral):
                    raise ValueError(f"`seed` must be an int for text, but got {seed!r}.")
                devices = [self.device] if self.device.type == "cuda" else []
                stack.enter_context(torch.random.fork_rng(devices))
                torch.manual_seed(int(seed))
            return super().generate(inputs, generation_config, logits_processor, **kwargs)

    def _generate_images(
        self, task, generation_config, logits_processor, kwargs, *, seed, generator, show_progress, row_ends
    ):
        for name, reason in NOT_FOR_IMAGES.items():
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"`{name}` is not for the task {task.name!r}: {reason}.")
        settings, output_flags = self._image_settings(generation_config, kwargs)
        guidance_scale, repeats = settings.pop("guidance_scale"), settings.pop("num_return_sequences")
        use_cache = settings.pop("use_cache", True)
        streamer = kwargs.pop("streamer", None)
        plan, prompt = self._prepare_prompt(task, kwargs, guidance_scale, repeats, row_ends)
        mask = prompt["attention_mask"]
        self._check_room(prompt, plan, kwargs.get("past_key_values"))
        if streamer is not None:
            streamer.put(prompt["conditional_ids"].cpu())
        generators = None
        if settings["do_sample"]:
            generators = make_generators(seed, generator, len(plan.grids), self.execution_device)

        def decode(model, _, *, generation_config, **model_kwargs):
            # transformers always makes a cache for a prompt that comes as embeddings.
            cache = model_kwargs["past_key_values"] if use_cache else None
            decoder = _Decoder(model, task, plan, cache, repeats)
            hidden = decoder.prefill(model_kwargs["inputs_embeds"], mask, model_kwargs["position_ids"])
            # Made for codes, which have no prompt; those that `generate` has prepared count the prompt's rows.
            processors = model._get_logits_processor(
                generation_config, input_ids_seq_length=0, logits_processor=logits_processor, device=hidden.device
            )
            return model._decode_images(
                decoder, hidden, processors, generators, guidance_scale, streamer, show_progress, **output_flags
            )

        config = GenerationConfig(
            **settings, num_return_sequences=1, guidance_scale=1.0, num_beams=1, max_new_tokens=plan.fed_positions() + 1
        )
        return super().generate(
            inputs_embeds=prompt["inputs_embeds"],
            attention_mask=torch.ones_like(prompt["position_ids"][0]) if mask is None else mask,
            position_ids=prompt["position_ids"],
            generation_config=config,
            custom_generate=decode,
            **kwargs,
        )

    def _image_settings(self, generation_config, kwargs) -> tuple[dict[str, Any], dict[str, bool]]:
        """Settings of this call (arguments, then `generation_config`, then what the checkpoint's own has as
        `image_defaults`, then `IMAGE_DEFAULTS`), taken out of `kwargs`."""
        given = {} if generation_config is None else generation_config.to_diff_dict()
        for name in ("transformers_version", *NOT_FOR_IMAGES):
            given.pop(name, None)
        named = set(GenerationConfig().to_dict()) | set(IMAGE_DEFAULTS)
        given.update({name: kwargs.pop(name) for name in list(kwargs) if name in named})
        own = getattr(self.generation_config, "image_defaults", None) or {}
        unknown = sorted(set(own) - set(IMAGE_DEFAULTS))
        if unknown:
            raise ValueError(
                f"`image_defaults` in the checkpoint's generation config must be of {', '.join(IMAGE_DEFAULTS)}, but "
                f"has {', '.join(unknown)}."
            )
        settings = {**IMAGE_DEFAULTS, **own, **{name: value for name, value in given.items() if value is not None}}
        if (settings.pop("num_beams", None) or 1) != 1:
            raise ValueError("`num_beams` must be 1 for images: they are sampled, or greedy with `do_sample=False`.")
        scale, count = settings["guidance_scale"], settings["num_return_sequences"]
        if isinstance(scale, bool) or not isinstance(scale, numbers.Real) or not math.isfinite(scale) or scale < 0:
            raise ValueError(f"`guidance_scale` must be a number of at least 0, but got {scale!r}; 1 means none.")
        if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 1:
            raise ValueError(f"`num_return_sequences` must be a positive int, but got {count!r}.")
        flags = ("return_dict_in_generate", "output_logits", "output_scores")
        return settings, {name: bool(settings.pop(name, False)) for name in flags}

    def _prepare_prompt(self, task, kwargs, guidance_scale, repeats, row_ends) -> tuple[ImagePlan, dict[str, Any]]:
        """Embeds the prompts of both branches as one left-padded batch; takes the processor's outputs from `kwargs`."""
        text_names = ("input_ids", "attention_mask", "mm_token_type_ids")
        image_names = ("pixel_values", "image_grid_thw", "source_pixel_values", "source_grid")
        branches = [
            {name: kwargs.pop(f"{prefix}{name}", None) for name in (*text_names, *image_names)}
            for prefix in ("", "unconditional_")
        ]
        target_grid = kwargs.pop("target_grid", None)
        kwargs.pop("task_ids", None)
        needed = ["input_ids", "mm_token_type_ids"] + (["source_pixel_values", "source_grid"] * task.has_source)
        missing = [name for name in needed if branches[0][name] is None] + ["target_grid"] * (target_grid is None)
        if missing:
            raise ValueError(
                f"The task {task.name!r} needs {', '.join(f'`{name}`' for name in missing)}. "
                f"Build the inputs with `processor(..., task={task.name!r})` and pass all of them."
            )
        if guidance_scale == 1:
            branches.pop()
        elif branches[1]["input_ids"] is None:
            raise ValueError(
                f"`guidance_scale` is {guidance_scale}, but the inputs have no unconditional prompt. "
                "Pass all that the processor returned, or `guidance_scale=1`."
            )
        for branch in branches:
            if branch["attention_mask"] is None:
                if len(branch["input_ids"]) > 1:
                    raise ValueError("`attention_mask` is needed for more than one prompt: it tells the padding.")
                branch["attention_mask"] = torch.ones_like(branch["input_ids"])
            if not bool(branch["attention_mask"][:, -1].all()):
                raise ValueError("`input_ids` is padded at the right; prompts of different lengths are padded left.")
        device = self.execution_device
        pad_id = self.config.generate_image_pad_token_id
        ids = pad_left((branch["input_ids"] for branch in branches), pad_id).to(device)
        types = pad_left((branch["mm_token_type_ids"] for branch in branches), 0).to(device)
        mask = pad_left((branch["attention_mask"] for branch in branches), 0).to(device)
        images = {
            name: torch.cat([branch[name] for branch in branches]).to(device)
            for name in image_names
            if branches[0][name] is not None
        }
        grids = tuple((int(height), int(width)) for height, width in target_grid.tolist() for _ in range(repeats))
        oblong = [grid for grid in grids if grid[0] != grid[1]]
        if oblong and not row_ends:
            raise ValueError(
                f"`target_grid` asks for an image of {oblong[0][0]} x {oblong[0][1]} cells, but without row ends "
                "(`row_ends=False`, stages 1 to 3a) an image is a square."
            )
        plan = ImagePlan(grids, row_ends)
        positions, _ = self.model.get_rope_index(
            ids, types, image_grid_thw=images.get("image_grid_thw"), attention_mask=mask
        )
        # Without padding there is no mask, which lets attention take its fastest path.
        needs_mask = plan.mixes_widths or not bool(mask.all())
        return plan, {
            "inputs_embeds": self.model.embed_inputs(ids, types, **images),
            "attention_mask": mask if needs_mask else None,
            "position_ids": positions,
            "conditional_ids": branches[0]["input_ids"],
        }

    def _check_room(self, prompt, plan, cache) -> None:
        """Raises where prompt and image do not fit the model's positions or the user's cache."""
        length = prompt["inputs_embeds"].shape[1]
        needed = length + plan.fed_positions()
        limit = self.config.text_config.max_position_embeddings
        if needed > limit:
            largest = max(plan.grids, key=lambda grid: grid[0] * grid[1])
            raise ValueError(
                f"A prompt of {length} tokens and an image of {largest[0]} x {largest[1]} cells need {needed} "
                f"positions, but the model has {limit} (`max_position_embeddings`). Take a smaller size."
            )
        if cache is None:
            return
        if cache.get_seq_length() > 0:
            raise ValueError("`past_key_values` must be empty for images: they are made from their whole prompt.")
        room = cache.get_max_length() if cache.layers else -1  # -1 where it grows
        if 0 < room < needed:
            raise ValueError(
                f"`past_key_values` holds {room} positions, but the prompt and the image need {needed}: "
                f"{length} and {plan.fed_positions()}."
            )

    def _decode_images(
        self,
        decoder: _Decoder,
        hidden: torch.Tensor,
        logits_processor: LogitsProcessorList,
        generators: Sequence[torch.Generator] | None,
        guidance_scale: float,
        streamer: Any,
        show_progress: bool | None,
        *,
        return_dict_in_generate: bool,
        output_logits: bool,
        output_scores: bool,
    ) -> torch.Tensor | WallarooGenerateOutput:
        """The loop: head, guidance, logits processors, sampling, and the next forward with its row ends."""
        plan, offset = decoder.plan, self.config.text_vocab_size
        head = self.head_of(decoder.task)
        codes = torch.zeros(len(plan.grids), plan.num_codes, dtype=torch.long, device=hidden.device)
        all_logits: list[torch.Tensor] = []
        all_scores: list[torch.Tensor] = []
        # `disable=None` is tqdm's own "only on a terminal".
        disable = None if show_progress is None else not show_progress
        for code in logging.tqdm(range(plan.num_codes), desc=f"{decoder.task.name}", unit="code", disable=disable):
            logits = head(hidden).float()
            if guidance_scale != 1:
                conditional, unconditional = logits.chunk(2)
                logits = guide(conditional, unconditional, guidance_scale)
            scores = logits_processor(codes[:, :code], logits)
            codes[:, code] = sample_codes(scores, generators)
            if output_logits:
                all_logits.append(logits)
            if output_scores:
                all_scores.append(scores)
            row_ends = plan.row_end_after(code)
            if streamer is not None:
                self._stream(streamer, codes[:, code] + offset, row_ends)
            if code + 1 < plan.num_codes:
                hidden = decoder.step(codes[:, code], row_ends)
        if streamer is not None:
            streamer.end()
        grids = [codes[index, : height * width].view(height, width) for index, (height, width) in enumerate(plan.grids)]
        sequences = self._join_sequences(grids, plan.row_ends)
        if not return_dict_in_generate:
            return sequences
        return WallarooGenerateOutput(
            sequences=sequences,
            codes=grids,
            logits=tuple(all_logits) if output_logits else None,
            scores=tuple(all_scores) if output_scores else None,
        )

    def _stream(self, streamer, ids, row_ends: list[bool | None]) -> None:
        """Hands a step's ids to the streamer, then the row ends; an image without one gets padding."""
        streamer.put(ids.cpu())
        if True in row_ends:
            pad, end = self._pad_id, self.config.eol_token_id
            streamer.put(torch.tensor([end if row_end else pad for row_end in row_ends]))

    @property
    def _pad_id(self) -> int:
        pad = self.generation_config.pad_token_id
        return self.config.generate_image_pad_token_id if pad is None else pad

    def _join_sequences(self, grids: list[torch.Tensor], row_ends: bool) -> torch.Tensor:
        lengths = [image_turn_length(grid.shape[0], grid.shape[1], row_ends) for grid in grids]
        sequences = grids[0].new_full((len(grids), max(lengths)), self._pad_id)
        for sequence, grid, length in zip(sequences, grids, lengths, strict=True):
            rows = grid + self.config.text_vocab_size
            if row_ends:
                rows = torch.nn.functional.pad(rows, (0, 1), value=self.config.eol_token_id)
            sequence[:length] = rows.flatten()[:length]
        return sequences


__all__ = ["WallarooGenerateOutput", "WallarooGenerationMixin"]
