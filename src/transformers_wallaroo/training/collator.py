# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Samples of the three tasks to one batch of `model(**batch)` (docs/protocol.md sections 4 to 7 and 12)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..image_grid_wallaroo import TASKS, UNDERSTAND, ImageTask, get_task
from ..image_processing_wallaroo import to_rgb
from ..modeling_wallaroo import IGNORE_INDEX
from ..processing_wallaroo import ImageRequest, WallarooProcessor
from ..prompts_wallaroo import (
    CODE_PAD,
    IMAGE_PAD,
    IMAGE_PLACEHOLDER,
    PICTURE_MARKS,
    SYSTEM_PROMPT,
    TURN_END,
    TURN_START,
    VISION_BLOCK,
    VISION_END,
    VISION_START,
    TooLongError,
    check_prompt,
    fill,
)
from .conversations import turns_of
from .data.drops import DROP_REASONS, DroppedSample
from .packing import EncodedSample, fill_rows, pack, pad


class WallarooDataCollator:
    """Turns samples into a batch for `model(**batch)`, which then holds `loss` and `losses`.

    A sample is a dict: `{"task": "generate", "prompt", "image"}`, `{"task": "edit", "prompt", "source_image",
    "image"}` or `{"task": "understand", "messages" (or "conversations"), "images"}`, optionally with `template`,
    `height` and `width` in pixels, `source_mask` (bool a source cell, raster order), `seed`, `origin`, by which
    errors name it, and `dropped`, what was left out in its place (`DROP_REASONS` -> count). A sample of a cached data
    set (see `encode_dataset`) has `codes`, int `(grid_height, grid_width)`, in place of `image`, and `source_latents`
    and `black_latents`, float32 `(cells, embed_dim)`, beside `source_image`.

    A conversation whose answers hold pictures teaches the text head when to make one (`task="auto"`): before each
    `<image>` of an assistant turn stand the marks of `PICTURE_MARKS`, those of `"generate"` or those of `"edit"`.

    Args:
        processor (`WallarooProcessor`): tokens, templates and sizes.
        mask_ratio (`float`): share of the source cells of an edit that are hidden (paper section 4.1).
        unconditional_probability (`float`): share of image samples with an empty prompt, and a black source.
        generator (`torch.Generator`, *optional*): for templates, masks and dropout; torch's global state else. In a
            data loader's workers it is seeded from the loader's own seed, which differs by worker and epoch. A sample
            that brings a `seed` does not use it: what it becomes depends on its seed alone.
        decision_probability (`float`): share of image samples that become such conversations of one turn: the prompt
            (half of the time in its template), with the source of an edit, answered by the picture. They count as
            `"understand"`.
        pack_length (`int`, *optional*): tokens a row that samples are packed into, without seeing each other; 0 makes
            one row of them all, which flash attention needs. By default each sample is a row of its own.
        code_offset (`int`, *optional*): id of code 0, `config.text_vocab_size`; for samples with `codes`.
        source_positions (`str`): `config.source_positions`; for packed rows, whose positions are made here.
        limits (`dict[str, int]`, *optional*): most tokens of a sample, by task; `processor.max_length` else.
        min_side (`int`): longest side in pixels below which an image to be learned by `generate` is not wanted.
        max_ratio (`float`, *optional*): longest side over shortest above which it is not.
        drop (`bool`): leave samples out that break `limits`, `min_side` or `max_ratio`, and count them by
            `DROP_REASONS` in `batch["dropped"]`; else they raise. Whatever is wrong otherwise always raises.
    """

    def __init__(
        self,
        processor: WallarooProcessor,
        mask_ratio: float = 0.6,
        unconditional_probability: float = 0.1,
        generator: torch.Generator | None = None,
        *,
        decision_probability: float = 0.0,
        pack_length: int | None = None,
        code_offset: int | None = None,
        source_positions: str = "1d",
        limits: Mapping[str, int] | None = None,
        min_side: int = 0,
        max_ratio: float | None = None,
        drop: bool = False,
    ):
        shares = {
            "mask_ratio": mask_ratio,
            "unconditional_probability": unconditional_probability,
            "decision_probability": decision_probability,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], but got {value!r}.")
        unknown = sorted(set(limits or {}) - set(TASKS))
        if unknown:
            raise ValueError(f"`limits` may name the tasks {', '.join(TASKS)}, but got {', '.join(unknown)}.")
        self.processor = processor
        self.mask_ratio = mask_ratio
        self.unconditional_probability = unconditional_probability
        self.decision_probability = decision_probability
        self.generator = generator
        self.pack_length = pack_length
        self.code_offset = code_offset
        self.source_positions = source_positions
        self.limits = dict(limits or {})
        self.min_side = min_side
        self.max_ratio = max_ratio
        self.drop = drop
        self._worker_seed: int | None = None

    def __call__(self, samples: Sequence[Mapping[str, Any] | None]) -> dict[str, torch.Tensor]:
        """Encodes samples of any mixture of tasks; see `WallarooForConditionalGeneration.forward`.

        `None` among them stands for no sample (see `PaddedDataset`).
        """
        if not samples:
            raise ValueError("`samples` must hold at least one sample.")
        self._part_from_other_workers()
        dropped = dict.fromkeys(DROP_REASONS, 0)
        encoded = []
        for index, sample in enumerate(samples):
            if sample is None:
                continue
            for reason, count in (sample.get("dropped") or {}).items() if isinstance(sample, Mapping) else ():
                dropped[reason] += count
            try:
                encoded.append(self.encode(sample, index))
            except DroppedSample as error:
                if not self.drop:
                    raise
                dropped[error.reason] += 1
        if not encoded:
            encoded = [self._nothing()]
        if self.pack_length is None:
            rows = [[sample] for sample in encoded]
        else:
            lengths = [len(sample.ids) for sample in encoded]
            rows = [[encoded[i] for i in row] for row in fill_rows(lengths, self.pack_length or sum(lengths))]
        in_order = [sample for row in rows for sample in row]
        pixels = self._pixels(in_order)
        if self.pack_length is None:
            batch = pad(in_order, self.processor.tokenizer.pad_token_id)
        else:
            batch = pack(
                rows,
                pixels["image_grid_thw"].tolist() if "image_grid_thw" in pixels else [],
                self.processor.image_processor.merge_size,
                self.processor.tokenizer.pad_token_id,
                source_positions=self.source_positions,
            )
        batch.update(pixels)
        if self.drop:
            batch["dropped"] = torch.tensor([dropped[reason] for reason in DROP_REASONS])
        return batch

    def _part_from_other_workers(self) -> None:
        """Gives the generator of a data loader's worker a stream of its own: each starts with the same copy."""
        worker = torch.utils.data.get_worker_info()
        if self.generator is not None and worker is not None and worker.seed != self._worker_seed:
            self._worker_seed = worker.seed
            self.generator.manual_seed(worker.seed)

    def encode(self, sample: Mapping[str, Any], index: int = 0) -> EncodedSample:
        """One sample as tokens; errors name the sample's place in the batch, and its `origin`."""
        origin = sample.get("origin") if isinstance(sample, Mapping) else None
        place = f"Sample {index}" if origin is None else f"Sample {index} ({origin})"
        try:
            if not isinstance(sample, Mapping) or "task" not in sample:
                raise ValueError(f"it must be a dict with a 'task', but is {sample!r}.")
            task = get_task(sample["task"])
            encoded = (
                self._encode_image_sample(task, sample) if isinstance(task, ImageTask) else self._encode_chat(sample)
            )
            name = encoded.task.name
            limit = self.limits.get(name, self.processor.max_length)
            if len(encoded.ids) > limit:
                raise TooLongError(
                    f"it has {len(encoded.ids)} tokens, but the limit is {limit} "
                    f"({'`limits`' if name in self.limits else '`processor.max_length`'})."
                )
        except TooLongError as error:
            raise DroppedSample("too_long", f"{place}: {error}") from error
        except DroppedSample as error:
            raise DroppedSample(error.reason, f"{place}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        return encoded

    def _nothing(self) -> EncodedSample:
        """What stands in a batch whose samples were all dropped: the system turn, with nothing to learn."""
        ids = self.processor.tokenize(f"{TURN_START}system\n{SYSTEM_PROMPT}{TURN_END}\n")
        types = self.processor.token_types(ids, UNDERSTAND)
        return EncodedSample(UNDERSTAND, ids, [IGNORE_INDEX] * len(ids), types)

    # ------------------------------------------------------------------ images

    def _encode_image_sample(self, task: ImageTask, sample: Mapping[str, Any]) -> EncodedSample:
        self._check_names(task, sample)
        generator = self.generator if sample.get("seed") is None else torch.Generator().manual_seed(int(sample["seed"]))
        processor, prompt = self.processor, check_prompt(sample["prompt"], "prompt")
        codes = None if sample.get("codes") is None else torch.as_tensor(sample["codes"])
        target = None if codes is not None else to_rgb(sample["image"], "image")
        source = to_rgb(sample["source_image"], "source_image") if task.has_source else None
        template = sample.get("template")
        decides = self.decision_probability and (torch.rand((), generator=generator).item() < self.decision_probability)
        if template is None:
            templates = processor.templates_for(task, prompt)
            template = templates[int(torch.randint(len(templates), (), generator=generator))]
        height, width = self._size(task, sample, codes, target)
        [request] = processor.image_requests(
            task, [prompt], source, height=height, width=width, template=template, layout="training"
        )
        if decides and IMAGE_PLACEHOLDER not in prompt:  # which a conversation would take for a picture
            plain = torch.rand((), generator=generator).item() < 0.5
            said = prompt if plain else fill(template, prompt=prompt, target_w=request.width, target_h=request.height)
            return self._encode_decision(task, said, source, target)
        dropped = torch.rand((), generator=generator).item() < self.unconditional_probability
        if dropped:
            prompt, request = "", processor.without_source(request)
        prompt_ids = processor.encode_prompt(request, prompt)
        turn_ids = processor.tokenize(processor.image_turn_text(request))
        types = processor.token_types(prompt_ids + turn_ids, task)
        if codes is not None:
            turn_ids = self._with_codes(turn_ids, codes)
        # The start mark is the first token of the answer, so it is learned as well.
        labels = [IGNORE_INDEX] * (len(prompt_ids) - 1) + prompt_ids[-1:] + turn_ids
        size = (request.height, request.width)
        encoded = EncodedSample(task, prompt_ids + turn_ids, labels, types, target=target, size=size)
        if request.source is not None:
            encoded.seen, encoded.source = [request.source], request.source
            encoded.source_mask = self._source_mask(sample, request, generator)
            encoded.source_latents = self._source_latents(sample, "black_latents" if dropped else "source_latents")
        return encoded

    def _encode_decision(self, task: ImageTask, said: str, source: Any, target: Any) -> EncodedSample:
        """A request that is answered by a picture; without its pixels (`target`) the answer ends where they begin."""
        content = [{"type": "image", "image": source}] * (source is not None) + [{"type": "text", "text": said}]
        answer = [{"type": "text", "text": PICTURE_MARKS[task.name]}, {"type": "image", "image": target}]
        cut = target is None
        if cut:
            answer = [{"type": "text", "text": PICTURE_MARKS[task.name] + VISION_START}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        encoded = self._encode_chat({"messages": messages})
        if cut:
            end = len(self._tokenize_chat(f"{TURN_END}\n"))
            encoded.ids, encoded.labels = encoded.ids[:-end], encoded.labels[:-end]
            encoded.types = self.processor.token_types(encoded.ids, UNDERSTAND)
        return encoded

    @staticmethod
    def _check_names(task: ImageTask, sample: Mapping[str, Any]) -> None:
        """Raises where the sample lacks what its task needs, or has what it does not take."""
        image = "codes" if sample.get("codes") is not None else "image"
        names = ("prompt", image, *(("source_image",) if task.has_source else ()))
        missing = [name for name in names if sample.get(name) is None]
        if missing:
            raise ValueError(f"the task {task.name!r} needs {', '.join(map(repr, missing))}.")
        misplaced = [name for name in ("source_image", "source_mask", "source_latents") if sample.get(name) is not None]
        if misplaced and not task.has_source:
            raise ValueError(f"the task {task.name!r} takes no {', '.join(map(repr, misplaced))}; is it an edit?")
        if isinstance(sample.get("source_image"), (list, tuple)):
            raise ValueError("`source_image` must be one picture: an edit is trained with one source picture.")

    def _size(self, task: ImageTask, sample: Mapping[str, Any], codes, target) -> tuple[int | None, int | None]:
        """Size in pixels of the image to be learned, where the sample says it or nothing else settles it."""
        height, width = sample.get("height"), sample.get("width")
        if codes is not None:
            factor = self.processor.image_processor.downsample_factor
            from_codes = codes.shape[0] * factor, codes.shape[1] * factor
            if (height or from_codes[0], width or from_codes[1]) != from_codes:
                raise ValueError(
                    f"`codes` is a grid of {tuple(codes.shape)}, an image of {from_codes} pixels, but `height` and "
                    f"`width` are {height} and {width}."
                )
            return from_codes
        if task.has_source:
            return height, width
        if max(target.size) < self.min_side:
            raise DroppedSample("too_small", f"its longest side is {max(target.size)} pixels, below {self.min_side}.")
        ratio = max(target.size) / min(target.size)
        if self.max_ratio is not None and ratio > self.max_ratio:
            raise DroppedSample("bad_ratio", f"its sides have the ratio {ratio:.2f}, above {self.max_ratio}.")
        if height is None and width is None:
            return self.processor.image_processor.bucket_of(target.height, target.width)
        return height, width

    def _with_codes(self, turn_ids: list[int], codes: torch.Tensor) -> list[int]:
        """The image turn with codes in place of its placeholders."""
        if self.code_offset is None:
            raise ValueError("it has `codes`, so the collator needs `code_offset`: pass `config.text_vocab_size`.")
        placeholder = self.processor.tokenizer.convert_tokens_to_ids(CODE_PAD)
        remaining = iter(codes.flatten().tolist())
        return [self.code_offset + next(remaining) if token == placeholder else token for token in turn_ids]

    @staticmethod
    def _source_latents(sample: Mapping[str, Any], name: str) -> torch.Tensor | None:
        if sample.get("source_latents") is None:
            return None
        if sample.get(name) is None:
            raise ValueError(
                f"it has `source_latents` but no {name!r}, which the unconditional sample needs. Encode the data set "
                "anew, or set `unconditional_probability` to 0."
            )
        return torch.as_tensor(np.asarray(sample[name]), dtype=torch.float32)

    def _source_mask(self, sample: Mapping[str, Any], request: ImageRequest, generator) -> torch.Tensor:
        """The sample's own mask, or a random one that keeps `int((1 - mask_ratio) * cells)` cells."""
        grid_height, grid_width = request.grid(self.processor.image_processor.downsample_factor)
        cells = grid_height * grid_width
        given = sample.get("source_mask")
        if given is not None:
            try:
                mask = torch.as_tensor(given).bool().flatten()
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(f"`source_mask` must be bools, one a source cell, but got {given!r}.") from error
            if len(mask) != cells:
                raise ValueError(f"`source_mask` has {len(mask)} values, but the source has {cells} cells.")
            return mask
        mask = torch.ones(cells, dtype=torch.bool)
        # Rounded first, for 1 - 0.6 is not the same float as 0.4 for every ratio.
        kept = int(round(1 - self.mask_ratio, 9) * cells)
        mask[torch.randperm(cells, generator=generator)[:kept]] = False
        return mask

    # ------------------------------------------------------------------ understanding

    def _encode_chat(self, sample: Mapping[str, Any]) -> EncodedSample:
        """Every assistant turn is learned, its end mark and newline included; of a picture in it that it begins."""
        if sample.get("videos") is not None or sample.get("video") is not None:
            raise ValueError("videos are no training samples yet; take their frames as 'images'.")
        images = sample.get("images", sample.get("image"))
        images = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
        turns, placed = turns_of(sample, len(images))
        seen = [to_rgb(image) for image in images or placed]
        ids: list[int] = []
        labels: list[int] = []
        remaining = iter(seen)
        given = set(self.processor.tokenizer.convert_tokens_to_ids([IMAGE_PAD, VISION_END]))
        for role, text in turns:
            head = self._tokenize_chat(f"{TURN_START}{role}\n")
            body = self._tokenize_chat(self._expand(text, remaining) + f"{TURN_END}\n")
            ids += head + body
            learned = [IGNORE_INDEX if role != "assistant" or token in given else token for token in body]
            labels += [IGNORE_INDEX] * len(head) + learned
        return EncodedSample(UNDERSTAND, ids, labels, self.processor.token_types(ids, UNDERSTAND), seen=seen)

    def _tokenize_chat(self, text: str) -> list[int]:
        """As the processor tokenizes a chat: size indicators in it are what the tokenizer says, whatever the layout."""
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _expand(self, text: str, images: Any) -> str:
        """Gives each vision block as many placeholders as the vision tower makes of its picture."""
        parts = text.split(VISION_BLOCK)
        expanded = parts[0]
        for part in parts[1:]:
            expanded += self.processor.vision_block(next(images)) + part
        return expanded

    # ------------------------------------------------------------------ pixels

    def _pixels(self, samples: Sequence[EncodedSample]) -> dict[str, torch.Tensor]:
        image_processor = self.processor.image_processor
        batch: dict[str, torch.Tensor] = {}
        seen = [image for sample in samples for image in sample.seen]
        if seen:
            batch.update(image_processor(seen, return_tensors="pt"))
        edits = [sample for sample in samples if sample.source is not None]
        cached = [sample.source_latents for sample in edits if sample.source_latents is not None]
        if cached and len(cached) < len(edits):
            raise ValueError(
                f"`samples` has {len(edits)} edits, but only {len(cached)} of them with `source_latents`: encode all "
                "data sets of a mixture, or none."
            )
        pixels_of = {"target": [sample for sample in samples if sample.target is not None]}
        if cached:
            factor = image_processor.downsample_factor
            batch["source_latents"] = torch.nn.utils.rnn.pad_sequence(cached, batch_first=True)
            batch["source_grid"] = torch.tensor([sample.size for sample in edits]) // factor
        else:
            pixels_of["source"] = edits
        for name, chosen in pixels_of.items():
            if chosen:
                pixels, grid = image_processor.preprocess_cells(
                    [getattr(sample, name) for sample in chosen], [sample.size for sample in chosen]
                )
                batch[f"{name}_pixel_values"] = torch.from_numpy(pixels)
                batch[f"{name}_grid"] = torch.from_numpy(grid)
        masks = [sample.source_mask for sample in edits if sample.source_mask is not None]
        if masks:
            batch["source_mask"] = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
        return batch


__all__ = ["DROP_REASONS", "DroppedSample", "WallarooDataCollator"]
