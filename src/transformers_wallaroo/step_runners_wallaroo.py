# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The lean decode step run faster: by torch.compile, or recorded as a CUDA graph."""

import functools
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging
from transformers.utils.import_utils import is_torch_greater_or_equal

from .decode_step_wallaroo import LayerWeights, Parts, StepState, decode_step

logger = logging.get_logger(__name__)

# Variants of the step that torch.compile may make in one process: each model, task and precision has some of its own.
RECOMPILE_LIMIT = 64
# What a guard is about, where it is about a layer after the first.
_LATER_LAYER = re.compile(r"\b(?:layers|caches)\[[1-9]\d*\]")


def _step_of_alike_layers(*arguments: Any) -> torch.Tensor:
    """`decode_step` under another name: what is compiled with fewer guards is not to be found for other models."""
    return decode_step(*arguments)


@functools.cache
def _compiled_step(alike: bool) -> Callable[..., torch.Tensor]:
    """The compiled step. Where all layers are alike only the first is guarded: guards of each tensor of each layer took
    a third of a step of 28 small layers."""
    if not alike:
        return torch.compile(decode_step)
    options: dict[str, Any] = {"guard_filter_fn": _not_of_later_layers, "size_asserts": False}
    return torch.compile(_step_of_alike_layers, options=options)


def _not_of_later_layers(guards: Sequence[Any]) -> list[bool]:
    return [_LATER_LAYER.search(guard.name) is None for guard in guards]


def layers_are_alike(layers: Sequence[LayerWeights]) -> bool:
    """Whether the weights of all layers are plain tensors of their own that differ in nothing but their values."""
    looks, places = set(), []
    for layer in layers:
        weights: list[torch.Tensor | None] = [layer.input_norm, layer.post_norm]
        for projection in (*layer.qkv, layer.out, *layer.gate_up, layer.down):
            if not isinstance(projection, tuple):
                return False
            weights += projection
        looks.add(
            tuple(
                None if w is None else (type(w), w.shape, w.stride(), w.dtype, w.device, w.requires_grad)
                for w in weights
            )
        )
        places += [w.data_ptr() for w in weights if w is not None]
    # Of a layer that stands in two places torch would keep one, and remember that by a guard of the later.
    return len(looks) == 1 and len(set(places)) == len(places)


class CompiledStep:
    """`decode_step` for one request, compiled once for all steps, prompts and images of one size; anew for another
    task, for another number of images (twice, then for all numbers, in float32 on a CPU for those on either side of
    `POSITIONS_OF_LEFT`) and with guidance for without."""

    def __init__(self) -> None:
        self.marked: StepState | None = None
        self.run: Callable[..., torch.Tensor] | None = None

    def __call__(
        self,
        parts: Parts,
        state: StepState,
        codes: torch.Tensor,
        ends: torch.Tensor | None,
        window: torch.Tensor,
        padded: bool,
    ) -> torch.Tensor:
        torch._dynamo.maybe_mark_dynamic(window, 0)
        if state is not self.marked:
            for each in (state.cos, state.sin):
                torch._dynamo.maybe_mark_dynamic(each, 0)
            for cache in state.caches:
                torch._dynamo.maybe_mark_dynamic(cache, 1)
            self.marked = state
        if self.run is None:
            self.run = _compiled_step(layers_are_alike(parts.layers))
        # torch's own limit is 8 graphs of a function in a process, and beyond it there is no compiling any more.
        with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
            return self.run(parts, state, codes, ends, window, padded)


# torch records one graph at a time.
_recording = threading.Lock()
# How far the logits of a graph may be from those of the step that it was recorded of, of the largest: both run the same
# kernels, whose sums may differ in their order.
GRAPH_TOLERANCE = 0.02
# A graph costs a few steps. The first ones of a batch go without, and a batch of a few steps has none.
STEPS_BEFORE_A_GRAPH = 4
# Devices on which a graph has failed: the default does not try again in this process.
_without_graphs: set[torch.device] = set()


def can_graph(device: torch.device) -> bool:
    """Whether steps on this device can be recorded as graphs."""
    return device.type == "cuda"


def graphs_by_default(device: torch.device) -> bool:
    """Whether they are without being asked for. Before torch 2.12 a recording that fails harms the allocator."""
    recent = is_torch_greater_or_equal("2.12", accept_dev=True)
    return can_graph(device) and recent and device not in _without_graphs


@functools.cache
def _side_stream(_: torch.device) -> Any:
    """A device's stream for recordings: libraries keep working memory for each stream they have seen."""
    return torch.cuda.Stream()


def record_cuda_graph(
    run: Callable[[], torch.Tensor], put_back: Callable[[], None]
) -> tuple[Callable[[], Any], torch.Tensor]:
    """Records `run` on the current device as a CUDA graph; `put_back` takes back what a run has moved.

    Returns:
        What plays the graph, and the tensor that it writes.
    """
    before = torch.cuda.current_stream()
    stream = _side_stream(before.device)
    try:
        stream.wait_stream(before)
        with torch.cuda.stream(stream):
            run()
            put_back()
        before.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Of other threads only what would spoil a recording is refused meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            written = run()
    finally:
        # torch leaves the side stream current where a recording fails.
        torch.cuda.set_stream(before)
        before.wait_stream(stream)
    return graph.replay, written


@dataclass
class Recording:
    """What was recorded of a step: `replay` does it again with what is in `codes` and `ends` by then, into `logits`."""

    replay: Callable[[], Any]
    codes: torch.Tensor
    ends: torch.Tensor | None
    logits: torch.Tensor
    checked: bool = False

    def __call__(self, codes: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
        self.codes.copy_(codes)
        if self.ends is not None:
            assert ends is not None
            self.ends.copy_(ends)
        self.replay()
        return self.logits.clone()


class GraphedStep:
    """`decode_step`, or the compiled one, recorded as a CUDA graph and played again at each step of one request.

    There are two graphs, without and with row ends, for each number of images in the batch. A graph is compared with
    the step itself the next time it could serve, when codes and positions are others than it was recorded with.

    Args:
        run: what to record.
        required: whether to raise where a graph cannot be recorded or computes something else; otherwise the request
            goes on without graphs, with a warning, and so do all later ones on that device.
    """

    def __init__(self, run: Callable[..., torch.Tensor], *, required: bool):
        self.run, self.required = run, required
        self.given_up = False
        self.images = self.steps = 0  # how many images, and steps of so many
        self.recordings: dict[bool, Recording] = {}

    def __call__(
        self, parts: Parts, state: StepState, codes: torch.Tensor, ends: torch.Tensor | None, *rest: Any
    ) -> torch.Tensor:
        key = ends is not None
        if len(codes) != self.images:
            self.images, self.steps, self.recordings = len(codes), 0, {}
        self.steps += 1
        with torch.cuda.device(codes.get_device()):  # streams and graphs belong to the current one
            recording = self.recordings.get(key)
            if recording is not None and recording.checked:
                return recording(codes, ends)
            if not self.given_up and self.steps > STEPS_BEFORE_A_GRAPH:
                try:
                    self._prepare(key, parts, state, codes, ends, *rest)
                except RuntimeError as error:  # torch's own for whatever goes wrong on a GPU, want of memory too
                    self._give_up(error, codes.device)
            return self.run(parts, state, codes, ends, *rest)

    def _prepare(
        self,
        key: bool,
        parts: Parts,
        state: StepState,
        codes: torch.Tensor,
        ends: torch.Tensor | None,
        *rest: Any,
    ) -> None:
        """Records this step, or checks what was recorded of one before. Nothing is moved by it; the slots that are
        written are written anew. Raises `RuntimeError` where a graph computes something else."""
        moved = [(each, each.clone()) for each in (state.next_slot, state.next_position)]

        def put_back() -> None:
            for each, before in moved:
                each.copy_(before)

        try:
            recording = self.recordings.get(key)
            if recording is None:
                codes, ends = codes.clone(), None if ends is None else ends.clone()
                with _recording:
                    replay, logits = record_cuda_graph(lambda: self.run(parts, state, codes, ends, *rest), put_back)
                self.recordings[key] = Recording(replay, codes, ends, logits)
                return
            played = recording(codes, ends)
            put_back()
            expected = self.run(parts, state, codes, ends, *rest)
        finally:
            put_back()
        off = float((played - expected).abs().max() / expected.abs().max())
        if not off <= GRAPH_TOLERANCE:
            raise RuntimeError(f"a graph of the decode step gave logits that are off by {off:.2g} of the largest.")
        recording.checked = True

    def _give_up(self, error: RuntimeError, device: torch.device) -> None:
        if self.required:
            raise error
        self.given_up, self.recordings = True, {}
        _without_graphs.add(device)
        logger.warning(
            f"Images are drawn without CUDA graphs from here on, which is slower: {error} Pass `decoder='static'` to "
            "do so without this message."
        )
