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
from transformers.utils import ModelOutput, logging

from .decode_step_wallaroo import Guidance
from .decoding_wallaroo import (
    TO_DRAW,
    ImagePlan,
    PlainDecoder,
    Prompts,
    StaticDecoder,
    make_decoder,
    next_codes,
)
from .image_grid_wallaroo import TASKS, UNDERSTAND, ImageTask, Task, get_task, image_turn_length
from .speculative_wallaroo import decode_speculatively

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
    "image_guidance_scale": None,
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
        num_forwards (`torch.LongTensor` of shape `(num_images,)`): forwards that each image took, the prompt's among
            them; without `speculative_window` one a code.
    """

    sequences: torch.Tensor | None = None
    codes: list[torch.Tensor] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    num_forwards: torch.Tensor | None = None


# What the processor returns of each prompt, and of each source.
TEXT_NAMES = ("input_ids", "attention_mask", "mm_token_type_ids")
SOURCE_NAMES = ("pixel_values", "image_grid_thw", "source_pixel_values", "source_grid")
# What a branch of guidance reads: the prefixes of its text and of its sources among the processor's outputs.
CONDITIONAL, UNCONDITIONAL = ("", ""), ("unconditional_", "unconditional_")
# The source and not the instruction. A picture that is drawn has no source, so that this is its unconditional prompt.
IMAGE_ONLY = ("unconditional_", "")


def plan_guidance(scale: float, image_scale: float | None) -> tuple[Guidance, tuple[tuple[str, str], ...]]:
    """The guidance by these scales and its branches, as few as it can do with.

    With `image_scale` the logits are `u + image_scale * (i - u) + scale * (f - i)` of the unconditional prompt, the one
    with the image alone, and the full one.
    """
    if image_scale is None or image_scale == scale:
        pair = CONDITIONAL, UNCONDITIONAL
    elif scale == 0:
        pair, scale = (IMAGE_ONLY, UNCONDITIONAL), image_scale
    elif image_scale == 1:
        pair = CONDITIONAL, IMAGE_ONLY
    else:
        return Guidance(scale, image_scale), (CONDITIONAL, IMAGE_ONLY, UNCONDITIONAL)
    guidance = Guidance(scale)
    return guidance, pair[: guidance.num_branches()]


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


def _check_window(window: Any, output_flags: dict[str, bool], decoder: str | None) -> None:
    if isinstance(window, bool) or not isinstance(window, numbers.Integral) or window < 1:
        raise ValueError(f"`speculative_window` must be a positive int, such as 16, but got {window!r}.")
    if decoder in ("graphs", "compiled"):
        raise ValueError(f"`speculative_window` does not go with `decoder` {decoder!r} yet. Leave one of them out.")
    for name in ("output_logits", "output_scores"):
        if output_flags[name]:
            raise ValueError(
                f"`{name}` does not go with `speculative_window`, for a code is not drawn from the logits of one step."
            )


def _check_count(name: str, count: int, num_images: int) -> None:
    if count != num_images:
        raise ValueError(
            f"`{name}` must be one for all or one an image, but got {count} for {num_images} images "
            "(prompts times `num_return_sequences`)."
        )


def distinct_prompts(
    texts: Sequence[torch.Tensor], images: dict[str, torch.Tensor], edits: Sequence[bool]
) -> tuple[list[int], list[int], dict[str, torch.Tensor], list[int]]:
    """Which of some prompts are to be read: of equal ones the first.

    Args:
        texts: tensors of shape `(num_prompts, length)` that tell prompts apart.
        images: what the processor returned for the sources: `pixel_values`, `image_grid_thw`, `source_pixel_values`,
            `source_grid`.
        edits: whether a prompt has a source.

    Returns:
        Indices of the prompts to read, for each prompt its place among them, the sources of those alone, and for each
        of these a number that equal ones share.
    """
    source_of = {prompt: at for at, prompt in enumerate(at for at, edit in enumerate(edits) if edit)}
    _, same = first_of_equals([[value[at] for value in split_sources(images).values()] for at in range(len(source_of))])
    kept, rows = first_of_equals(
        [
            [*(text[prompt] for text in texts), torch.tensor([same[source_of[prompt]] if prompt in source_of else -1])]
            for prompt in range(len(texts[0]))
        ]
    )
    sources = [source_of[prompt] for prompt in kept if prompt in source_of]
    return kept, rows, select_sources(images, sources), [same[source] for source in sources]


def first_of_equals(entries: Sequence[Sequence[torch.Tensor]]) -> tuple[list[int], list[int]]:
    """Indices of the entries that are not equal to one before, and for each entry its place among them."""
    places: dict[tuple[bytes, ...], int] = {}
    kept: list[int] = []
    found: list[int] = []
    for index, parts in enumerate(entries):
        key = tuple(part.contiguous().view(torch.uint8).cpu().numpy().tobytes() for part in parts)
        if key not in places:
            places[key] = len(kept)
            kept.append(index)
        found.append(places[key])
    return kept, found


def split_sources(images: dict[str, torch.Tensor]) -> dict[str, Sequence[torch.Tensor]]:
    """The processor's tensors of the sources, a source each."""
    split: dict[str, Any] = dict(images)
    if "pixel_values" in images:
        split["pixel_values"] = images["pixel_values"].split(images["image_grid_thw"].prod(dim=-1).tolist())
    return split


def select_sources(images: dict[str, torch.Tensor], sources: Sequence[int]) -> dict[str, torch.Tensor]:
    """Those tensors for some of the sources alone."""
    return {
        name: (torch.cat if name == "pixel_values" else torch.stack)([values[source] for source in sources])
        for name, values in split_sources(images).items()
        if sources
    }


def codes_to_keep(
    region_mask: torch.Tensor, source_codes: Sequence[torch.Tensor | None], grids: Sequence[Sequence[int]]
) -> torch.Tensor:
    """`ImagePlan.given` of some prompts: the codes of their sources outside of the region.

    Args:
        region_mask (`torch.BoolTensor` of shape `(num_prompts, max_grid_height, max_grid_width)`): cells that are drawn
            anew.
        source_codes: `(grid_height * grid_width,)` a prompt, `None` where there is no source.
        grids: (grid_height, grid_width) of each image, in cells.
    """
    shape = tuple(region_mask.shape)
    if len(shape) != 3 or shape[0] != len(grids) or any(shape[1] < grid[0] or shape[2] < grid[1] for grid in grids):
        raise ValueError(
            f"`region_mask` must be cells of shape (num_prompts, grid_height, grid_width), here {len(grids)} prompts "
            f"with images of {[tuple(grid) for grid in grids[:4]]} cells, but got {shape}. Give the mask to the "
            "processor, in pixels, and pass on what it returns."
        )
    given = torch.full((len(grids), max(height * width for height, width in grids)), TO_DRAW)
    for index, ((height, width), codes) in enumerate(zip(grids, source_codes, strict=True)):
        drawn = region_mask[index, :height, :width].bool().flatten().cpu()
        if bool(drawn.all()):
            continue
        if codes is None or len(codes) != len(drawn):
            raise ValueError(
                f"`region_mask` keeps cells of prompt {index}, but that has no source of {height} x {width} cells to "
                "keep them of. It is for the task 'edit', whose source and image have one size."
            )
        given[index, : len(drawn)] = torch.where(drawn, TO_DRAW, codes.cpu())
    return given


def pad_left(tensors: Iterable[torch.Tensor], value: int) -> torch.Tensor:
    """Concatenates 2-D tensors of different lengths, padded at the left."""
    tensors = list(tensors)
    length = max(tensor.shape[1] for tensor in tensors)
    pad = torch.nn.functional.pad
    return torch.cat([pad(tensor, (length - tensor.shape[1], 0), value=value) for tensor in tensors])


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
        decoder: str | None = None,
        speculative_window: int | None = None,
        generation_mode: str | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | ModelOutput:
        """Answers, draws or edits: `model.generate(**processor(..., task=...), ...)`.

        Args:
            inputs, generation_config, logits_processor: as in transformers. For images a logits processor sees the
                codes so far `(num_images, n)` and scores `(num_images, num_embeddings)`.
            task (`str`, *optional*): `"understand"`, `"generate"` or `"edit"`; by default what the processor noted,
                which may be `"generate"` for some prompts and `"edit"` for others.
            seed (`int` or one an image, *optional*): an image depends on its own seed alone, whatever the batch. An
                int gives image `i` the seed `seed + i`. For text, an int; it seeds torch's global state for the time
                of the call, so it is not for threads.
            generator (`torch.Generator` or one an image, *optional*): instead of `seed`, for images.
            show_progress (`bool`, *optional*): a progress bar while images are made; by default where stderr is a
                terminal.
            row_ends (`bool`, *optional*): whether rows end with the row-end token; by default what the config says
                (checkpoints of stages 1 to 3a have none).
            decoder (`str`, *optional*): how the steps of an image are computed, see `make_decoder`: `"plain"`,
                `"static"`, `"graphs"` (CUDA graphs) or `"compiled"`; by default the best that needs no compiling:
                graphs on a GPU, else static. The codes are the same up to rounding.
            speculative_window (`int`, *optional*): guesses so many codes of an image at each step and keeps those that
                plain decoding might have drawn (`speculative_wallaroo.py`): fewer steps of more work each. The
                distribution of images is the same, the image of a seed another; greedy decoding gives the same codes.
            generation_mode (`str`, *optional*): what pipelines say: `"text"` or `"image"`; checked against the task.
                With `"image"` the `generation_config` and `max_new_tokens` that a pipeline fills in are passed over.
            kwargs: the processor's outputs and any generation argument of transformers. For images:
                `guidance_scale` (3; 1 runs no unconditional branch), `image_guidance_scale` (of edits: how much the
                source counts, apart from the instruction; without it as much, with it there is a third branch),
                `do_sample` (True), `temperature` (1), `top_k` (1000), `top_p` (1), `num_return_sequences`, `use_cache`,
                `cache_implementation`, `streamer`, `return_dict_in_generate`, `output_logits`, `output_scores`. A
                checkpoint's generation config may have other defaults than those in brackets, as `image_defaults`.

        Returns:
            For `"understand"` what transformers returns: prompt and answer ids. For images the ids of the image
            turns, or a [`WallarooGenerateOutput`] with `return_dict_in_generate=True`.
        """
        tasks = self._resolve_tasks(task, generation_mode, kwargs.get("task_ids"))
        if generation_mode == "image":  # what a pipeline adds of itself is for text
            generation_config = None
            kwargs.pop("max_new_tokens", None)
        if not isinstance(tasks[0], ImageTask):
            given = {"generator": generator, "decoder": decoder, "speculative_window": speculative_window}
            for name, value in given.items():
                if value is not None:
                    raise ValueError(f"`{name}` is for images; text goes by transformers' own arguments, and `seed`.")
            return self._generate_text(inputs, generation_config, logits_processor, seed, kwargs)
        if inputs is not None:
            kwargs["input_ids"] = inputs
        return self._generate_images(
            tasks,
            generation_config,
            logits_processor,
            kwargs,
            seed=seed,
            generator=generator,
            show_progress=show_progress,
            row_ends=self.config.row_ends if row_ends is None else row_ends,
            decoder_name=decoder,
            window=speculative_window,
        )

    def _resolve_tasks(
        self, name: str | None, generation_mode: str | None, task_ids: torch.Tensor | None
    ) -> list[Task]:
        """The task of each prompt, or one for all."""
        by_index = {task.index: task for task in TASKS.values()}
        noted = [] if task_ids is None else [by_index[index] for index in task_ids.tolist()]
        tasks = [get_task(name)] if name is not None else noted or [UNDERSTAND]
        if len({isinstance(task, ImageTask) for task in tasks}) > 1:
            raise ValueError(
                "The inputs mix 'understand' with tasks that make images; call `generate` once for text and once for "
                "images."
            )
        other = next((task for task in noted if name is not None and task.name != name), None)
        if other is not None:
            raise ValueError(
                f"`task` is {name!r}, but the inputs were prepared for {other.name!r}. "
                f"Build them with `processor(..., task={name!r})`."
            )
        if generation_mode not in (None, "image" if isinstance(tasks[0], ImageTask) else "text"):
            raise ValueError(
                f"`generation_mode` is {generation_mode!r}, but the inputs were prepared for the task "
                f"{tasks[0].name!r}. For images pass `task='generate'` or `task='edit'` to the processor, or to the "
                "pipeline call."
            )
        return tasks

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

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        *args: Any,
        inputs_embeds: torch.Tensor | None = None,  # transformers looks for the name
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As transformers', but what follows the prompt goes in as embeddings: it is text, and a forward that need not
        look for anything else can be compiled as a whole."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        goes_on = not is_first_iteration and kwargs.get("use_cache", True)
        if goes_on and inputs.get("past_key_values") is not None and inputs.get("input_ids") is not None:
            inputs["inputs_embeds"] = self.get_input_embeddings()(inputs.pop("input_ids").to(self.execution_device))
            inputs.pop("mm_token_type_ids", None)
        return inputs

    def _prefill(
        self, input_ids, generation_config, model_kwargs, is_first_iteration: bool = True, **kwargs: Any
    ) -> ModelOutput:
        """As transformers', which tells an assistant that its first forward is none: it would not see the pictures."""
        cache = model_kwargs.get("past_key_values")
        if generation_config.is_assistant and (cache is None or cache.get_seq_length() == 0):
            is_first_iteration = True
            self._check_features(model_kwargs.get("mm_encoder_outputs") or {})
        return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration, **kwargs)

    def _check_features(self, encoded: dict[str, Any]) -> None:
        """Raises where an assistant cannot read the pictures as the model that it assists has seen them."""
        own = self.config.text_config.hidden_size
        for outputs in encoded.values():
            width = own if outputs is None else outputs.pooler_output[0].shape[-1]
            if width != own:
                raise ValueError(
                    f"`assistant_model` has a hidden size of {own}, but transformers hands it the pictures as seen by "
                    f"the other model, with {width}. Take an assistant of the same width (quantised, or with fewer "
                    "layers), or `prompt_lookup_num_tokens`, which needs none."
                )

    def _generate_images(
        self,
        tasks: list[Any],
        generation_config,
        logits_processor,
        kwargs,
        *,
        seed,
        generator,
        show_progress,
        row_ends,
        decoder_name,
        window,
    ):
        for name, reason in NOT_FOR_IMAGES.items():
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"`{name}` is not for the task {tasks[0].name!r}: {reason}.")
        settings, output_flags = self._image_settings(
            generation_config, kwargs, edits=any(task.has_source for task in tasks)
        )
        if window is not None:
            _check_window(window, output_flags, decoder_name)
        scales = settings.pop("guidance_scale"), settings.pop("image_guidance_scale")
        repeats = settings.pop("num_return_sequences")
        use_cache = settings.pop("use_cache", True)
        streamer = kwargs.pop("streamer", None)
        own_cache = not use_cache or any(
            value is not None for value in (settings.get("cache_implementation"), kwargs.get("past_key_values"))
        )
        guidance, branches = plan_guidance(*scales)
        plan, tasks, prompts, conditional_ids = self._prepare_prompts(tasks, kwargs, branches, repeats, row_ends)
        self._check_room(prompts, plan, kwargs.get("past_key_values"))
        if streamer is not None:
            streamer.put(conditional_ids.cpu())
        generators = None
        if settings["do_sample"]:
            generators = make_generators(seed, generator, len(plan.grids), self.execution_device)

        def decode(model, _, *, generation_config, **model_kwargs):
            # transformers always makes a cache for a prompt that comes as embeddings.
            cache = model_kwargs["past_key_values"] if use_cache else None
            decoder = make_decoder(
                model,
                plan,
                tasks,
                guidance,
                cache,
                name=decoder_name,
                own_cache=own_cache,
                speculative=window is not None,
            )
            logits = decoder.start(prompts)
            # Made for codes, which have no prompt; those that `generate` has prepared count the prompt's rows.
            processors = model._get_logits_processor(
                generation_config, input_ids_seq_length=0, logits_processor=logits_processor, device=logits.device
            )
            return model._decode_images(
                decoder, logits, processors, generators, streamer, show_progress, window, **output_flags
            )

        config = GenerationConfig(
            **settings, num_return_sequences=1, guidance_scale=1.0, num_beams=1, max_new_tokens=plan.fed_positions() + 1
        )
        mask = torch.ones_like(prompts.positions[0]) if prompts.mask is None else prompts.mask
        return super().generate(
            inputs_embeds=prompts.embeds,
            attention_mask=mask,
            position_ids=prompts.positions,
            generation_config=config,
            custom_generate=decode,
            **kwargs,
        )

    @property
    def image_defaults(self) -> dict[str, Any]:
        """How images are sampled unless the call says otherwise: `IMAGE_DEFAULTS`, or in their place what the
        checkpoint's generation config has as `image_defaults`."""
        own = getattr(self.generation_config, "image_defaults", None) or {}
        unknown = sorted(set(own) - set(IMAGE_DEFAULTS))
        if unknown:
            raise ValueError(
                f"`image_defaults` in the checkpoint's generation config must be of {', '.join(IMAGE_DEFAULTS)}, but "
                f"has {', '.join(unknown)}."
            )
        return {**IMAGE_DEFAULTS, **own}

    def _image_settings(self, generation_config, kwargs, *, edits: bool) -> tuple[dict[str, Any], dict[str, bool]]:
        """Settings of this call (arguments, then `generation_config`, then what the checkpoint's own has as
        `image_defaults`, then `IMAGE_DEFAULTS`), taken out of `kwargs`; `edits` where there is an edit among the
        images."""
        given = {} if generation_config is None else generation_config.to_diff_dict()
        for name in ("transformers_version", *NOT_FOR_IMAGES):
            given.pop(name, None)
        named = set(GenerationConfig().to_dict()) | set(IMAGE_DEFAULTS)
        given.update({name: kwargs.pop(name) for name in list(kwargs) if name in named})
        settings = {**self.image_defaults, **{name: value for name, value in given.items() if value is not None}}
        if (settings.pop("num_beams", None) or 1) != 1:
            raise ValueError("`num_beams` must be 1 for images: they are sampled, or greedy with `do_sample=False`.")
        if not edits:
            if given.get("image_guidance_scale") is not None:
                raise ValueError(
                    "`image_guidance_scale` is for the task 'edit': a picture that is drawn has no source to be guided "
                    "by. Leave it out."
                )
            settings["image_guidance_scale"] = None
        for name in ("guidance_scale", "image_guidance_scale"):
            scale = settings[name]
            if scale is None and name == "image_guidance_scale":
                continue
            if isinstance(scale, bool) or not isinstance(scale, numbers.Real) or not math.isfinite(scale) or scale < 0:
                raise ValueError(f"`{name}` must be a number of at least 0, but got {scale!r}; 1 means none.")
        count = settings["num_return_sequences"]
        if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 1:
            raise ValueError(f"`num_return_sequences` must be a positive int, but got {count!r}.")
        if not settings["do_sample"]:
            for name in ("temperature", "top_k", "top_p"):  # of sampling alone; transformers warns of them
                settings.pop(name)
        flags = ("return_dict_in_generate", "output_logits", "output_scores")
        return settings, {name: bool(settings.pop(name, False)) for name in flags}

    def _take_inputs(self, kwargs, tasks) -> dict[str, torch.Tensor | None]:
        """The processor's outputs out of `kwargs`, `None` what is not there; raises where something is missing."""
        names = [f"{prefix}{name}" for prefix in ("", "unconditional_") for name in (*TEXT_NAMES, *SOURCE_NAMES)]
        given = {name: kwargs.pop(name, None) for name in (*names, "target_grid", "region_mask")}
        for name in ("task_ids", "original_sizes"):
            kwargs.pop(name, None)
        needed = ["input_ids", "mm_token_type_ids"]
        if any(task.has_source for task in tasks):
            needed += ["source_pixel_values", "source_grid"]
        missing = [name for name in (*needed, "target_grid") if given[name] is None]
        if missing:
            needing = next((task for task in tasks if task.has_source), tasks[0])
            raise ValueError(
                f"The task {needing.name!r} needs {', '.join(f'`{name}`' for name in missing)}. "
                f"Build the inputs with `processor(..., task={needing.name!r})` and pass all of them."
            )
        return given

    def _join_branches(
        self, given: dict[str, torch.Tensor | None], prefixes: Sequence[tuple[str, str]]
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Ids, types and mask of all branches as one left-padded batch, and the sources of all."""
        if any(of_text for of_text, _ in prefixes) and given["unconditional_input_ids"] is None:
            raise ValueError(
                "`guidance_scale` is not 1, but the inputs have no unconditional prompt. "
                "Pass all that the processor returned, or `guidance_scale=1`."
            )
        texts: list[dict[str, Any]] = [
            {name: given[f"{of_text}{name}"] for name in TEXT_NAMES} for of_text, _ in prefixes
        ]
        for text in texts:
            if text["attention_mask"] is None:
                if len(text["input_ids"]) > 1:
                    raise ValueError("`attention_mask` is needed for more than one prompt: it tells the padding.")
                text["attention_mask"] = torch.ones_like(text["input_ids"])
            if not bool(text["attention_mask"][:, -1].all()):
                raise ValueError("`input_ids` is padded at the right; prompts of different lengths are padded left.")
        padding = {"input_ids": self.config.generate_image_pad_token_id, "mm_token_type_ids": 0, "attention_mask": 0}
        joined = tuple(pad_left((text[name] for text in texts), value) for name, value in padding.items())
        sources: dict[str, Any] = {
            name: torch.cat([given[f"{of_sources}{name}"] for _, of_sources in prefixes])  # type: ignore[misc]
            for name in SOURCE_NAMES
            if given[name] is not None
        }
        return joined, sources

    def _prepare_prompts(
        self, tasks, kwargs, prefixes, repeats, row_ends
    ) -> tuple[ImagePlan, list[ImageTask], Prompts, torch.Tensor]:
        """Embeds the distinct prompts of all branches as one left-padded batch; takes the processor's outputs from
        `kwargs`. Returns the plan, the task of each image, the prompts, and the conditional ids."""
        given: dict[str, Any] = self._take_inputs(kwargs, tasks)
        (ids, types, mask), images = self._join_branches(given, prefixes)
        count, sizes = len(given["input_ids"]), given["target_grid"].tolist()
        tasks = list(tasks) if len(tasks) == count else [tasks[0]] * count
        grids = tuple((int(height), int(width)) for height, width in sizes for _ in range(repeats))
        oblong = [grid for grid in grids if grid[0] != grid[1]]
        if oblong and not row_ends:
            raise ValueError(
                f"`target_grid` asks for an image of {oblong[0][0]} x {oblong[0][1]} cells, but without row ends "
                "(`row_ends=False`, stages 1 to 3a) an image is a square."
            )
        edits = [task.has_source for task in tasks]
        kept, rows, images, same = distinct_prompts((ids, types, mask), images, edits * len(prefixes))
        device = self.execution_device
        ids, types, mask = (tensor[kept].to(device) for tensor in (ids, types, mask))
        positions, _ = self.model.get_rope_index(
            ids, types, image_grid_thw=images.get("image_grid_thw"), attention_mask=mask
        )
        encoded, source_codes = self._encode_sources(images, same)
        codes = None
        if given["region_mask"] is not None:
            # The sources are those of the edits among the kept prompts, in order; the first branch has the real ones.
            places = [sum(edits[prompt] for prompt in kept[:row]) for row in rows[:count]]
            own = [source_codes[place] if edit else None for place, edit in zip(places, edits, strict=True)]
            codes = codes_to_keep(given["region_mask"], own, sizes).repeat_interleave(repeats, dim=0)
        plan = ImagePlan(grids, row_ends, codes)
        # Without padding there is no mask, which lets attention take its fastest path.
        needs_mask = plan.mixes_widths or not bool(mask.all())
        prompts = Prompts(
            self.model.embed_inputs(ids, types, **encoded),
            mask if needs_mask else None,
            positions,
            torch.tensor(rows, device=device).repeat_interleave(repeats),
        )
        return plan, [task for task in tasks for _ in range(repeats)], prompts, given["input_ids"]

    def _encode_sources(
        self, images: dict[str, torch.Tensor], same: Sequence[int]
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """What `embed_inputs` takes for sources: features and latents, computed once for equal ones, which have one
        number in `same`; and their codes."""
        if "source_grid" not in images:
            return {}, []
        firsts = {number: at for at, number in reversed(list(enumerate(same)))}
        numbers = sorted(firsts)
        places = [numbers.index(number) for number in same]
        device, kept = self.execution_device, [firsts[number] for number in numbers]
        distinct = {name: value.to(device) for name, value in select_sources(images, kept).items()}
        encoded: dict[str, Any] = {"source_grid": images["source_grid"]}
        if "pixel_values" in distinct:
            features = self.model.get_image_features(
                distinct["pixel_values"], distinct["image_grid_thw"], return_dict=True
            )
            features.pooler_output = [features.pooler_output[place] for place in places]
            encoded["mm_encoder_outputs"] = {"image": features}
        codes, latents = self.model.encode_images(distinct["source_pixel_values"], distinct["source_grid"])
        encoded["source_latents"] = [latents[place] for place in places]
        return encoded, [codes[place] for place in places]

    def _check_room(self, prompts: Prompts, plan: ImagePlan, cache) -> None:
        """Raises where prompt and image do not fit the model's positions or the user's cache."""
        length = prompts.embeds.shape[1]
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
        decoder: PlainDecoder | StaticDecoder,
        logits: torch.Tensor,
        logits_processor: LogitsProcessorList,
        generators: Sequence[torch.Generator] | None,
        streamer: Any,
        show_progress: bool | None,
        window: int | None,
        *,
        return_dict_in_generate: bool,
        output_logits: bool,
        output_scores: bool,
    ) -> torch.Tensor | WallarooGenerateOutput:
        """The loop: logits processors, sampling, and the next step with its row ends."""
        plan = decoder.plan
        codes = torch.zeros(len(plan.grids), plan.num_codes, dtype=torch.long, device=logits.device)
        all_logits: list[torch.Tensor] = []
        all_scores: list[torch.Tensor] = []
        # `disable=None` is tqdm's own "only on a terminal".
        disable = None if show_progress is None else not show_progress
        forwards = torch.tensor([height * width for height, width in plan.grids])
        told = 0
        with logging.tqdm(total=plan.num_codes, desc="image", unit="code", disable=disable) as bar:

            def note(codes: torch.Tensor, known: int) -> None:
                """Tells of the codes that all images have by now."""
                nonlocal told
                known = min(known, plan.num_codes)
                bar.update(max(known - told, 0))
                for code in range(told, known):
                    if streamer is not None:
                        self._stream(streamer, codes[:, code], plan.row_end_after(code))
                told = max(told, known)

            if window is not None:
                assert isinstance(decoder, StaticDecoder)
                codes, forwards = decode_speculatively(decoder, logits, logits_processor, generators, window, note)
                note(codes, plan.num_codes)
            else:
                for code in range(plan.num_codes):
                    scores = logits_processor(codes[:, :code], logits)
                    codes[:, code] = sampled = next_codes(plan, code, scores, generators)
                    if output_logits:
                        all_logits.append(logits)
                    if output_scores:
                        all_scores.append(scores)
                    note(codes, code + 1)
                    if code + 1 < plan.num_codes:
                        logits = decoder.advance(sampled, plan.row_end_after(code))
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
            num_forwards=forwards.cpu(),
        )

    def _stream(self, streamer, codes: torch.Tensor, row_ends: list[bool | None]) -> None:
        """Hands the ids of a code an image to the streamer, then the row ends; an image without one gets padding."""
        streamer.put((codes + self.config.text_vocab_size).cpu())
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
