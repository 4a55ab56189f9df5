"""Recorded steps, on a CPU by a recorder that does again what it was given, and on a GPU by CUDA's own graphs."""

from functools import partial

import pytest
import torch
from PIL import Image
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import AutoModel

from transformers_wallaroo import decoding_wallaroo, step_runners_wallaroo
from transformers_wallaroo.step_runners_wallaroo import Recording

from drawing import SOURCES, TASKS, assert_same, prepare, prepare_mixed, run
from reference import images


def record_on_cpu(step, put_back):
    """What a CUDA graph does: operations alone, on the tensors that it was recorded with, and no Python."""
    step()
    put_back()
    with torch.no_grad():
        graph = make_fx(step)()
        put_back()
    written = torch.full_like(graph(), torch.nan)
    put_back()
    return lambda: written.copy_(graph()), written


@pytest.fixture
def recorder(monkeypatch):
    """Graphs without a GPU, from the first step on; a list of what was recorded: images, and whether rows end."""
    recorded = []

    def note(replay, codes, ends, logits):
        recorded.append((len(codes), ends is not None))
        return Recording(replay, codes, ends, logits)

    monkeypatch.setattr(step_runners_wallaroo, "can_graph", lambda _: True)
    monkeypatch.setattr(decoding_wallaroo, "can_graph", lambda _: True)
    monkeypatch.setattr(step_runners_wallaroo, "STEPS_BEFORE_A_GRAPH", 0)
    monkeypatch.setattr(step_runners_wallaroo, "_without_graphs", set())
    monkeypatch.setattr(step_runners_wallaroo, "record_cuda_graph", record_on_cpu)
    monkeypatch.setattr(step_runners_wallaroo, "Recording", note)
    return recorded


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("indices", [[0], [0, 1, 2], [2, 2]])
def test_graphs_give_the_codes_of_transformers_forward(model, processor, recorder, task, guidance_scale, indices):
    """They are the default where they can be. All tasks, mixed sizes, padding, several images a prompt."""
    inputs = prepare(processor, task, indices)
    for sampling in ({"do_sample": False}, {"seed": 3, "num_return_sequences": 2}):
        plain = run(model, inputs, guidance_scale=guidance_scale, decoder="plain", **sampling)
        assert not recorder
        assert_same(run(model, inputs, guidance_scale=guidance_scale, **sampling), plain)
        assert recorder
        recorder.clear()


def with_region(processor):
    """Half of a source's codes are given."""
    mask = Image.new("L", images(SOURCES[0]).size, 0)
    mask.paste(255, (0, 0, mask.width, mask.height // 2))
    return prepare(processor, "edit", [0], region_mask=mask)


@pytest.mark.parametrize(
    "request_of, sampling",
    [
        (prepare_mixed, {"guidance_scale": 3.0}),
        (prepare_mixed, {"guidance_scale": 1.0}),
        (with_region, {"guidance_scale": 3.0}),
        (partial(prepare, task="edit", indices=[0, 1]), {"guidance_scale": 3.0, "image_guidance_scale": 1.5}),
    ],
    ids=["mixed", "mixed, no guidance", "region", "three branches"],
)
class TestAllFastPaths:
    @pytest.mark.parametrize("fused", [False, True])
    @pytest.mark.parametrize("decoder", ["static", "graphs"])
    def test_they_give_the_codes_of_transformers_forward(
        self, converted, processor, recorder, request_of, sampling, fused, decoder
    ):
        model = AutoModel.from_pretrained(converted).eval()
        inputs = request_of(processor)
        plain = run(model, inputs, decoder="plain", do_sample=False, **sampling)
        if fused:
            model.optimize()
        assert_same(run(model, inputs, decoder=decoder, do_sample=False, **sampling), plain)
        assert bool(recorder) == (decoder == "graphs")

    @pytest.mark.parametrize("window", [3, 16])
    def test_guessing_ahead_gives_them_too(self, model, processor, request_of, sampling, window):
        inputs = request_of(processor)
        plain = model.generate(**inputs, decoder="plain", do_sample=False, **sampling)
        guessed = model.generate(**inputs, speculative_window=window, do_sample=False, **sampling)
        assert torch.equal(guessed, plain)


def test_a_graph_serves_all_steps_of_a_batch(model, processor, recorder):
    """6, 8 and 9 codes in rows of 3, 2 and 3: two graphs for three images, then for two, then one for the last."""
    run(model, prepare(processor, "generate", [0, 1, 2]), seed=1, decoder="graphs")
    assert recorder == [(3, False), (3, True), (2, True), (2, False), (1, False)]


def test_one_argument_turns_graphs_off(model, processor, recorder):
    for decoder in ("static", "plain"):
        run(model, prepare(processor, "generate", [0]), seed=1, decoder=decoder)
    assert not recorder
    run(model, prepare(processor, "generate", [0]), seed=1)
    assert recorder


def test_a_batch_of_few_steps_has_no_graphs(model, processor, recorder, monkeypatch):
    """6, 8 and 9 codes are 5 steps of three images, 2 of two and 1 of one."""
    monkeypatch.setattr(step_runners_wallaroo, "STEPS_BEFORE_A_GRAPH", 3)
    run(model, prepare(processor, "generate", [0, 1, 2]), seed=1)
    assert recorder == [(3, True), (3, False)]


def test_guessing_ahead_has_no_graphs(model, processor, recorder):
    """Their windows would all have to be as long as the cache."""
    inputs = prepare(processor, "generate", [0])
    guessed = model.generate(**inputs, do_sample=False, speculative_window=4)
    assert torch.equal(guessed, model.generate(**inputs, do_sample=False, decoder="static"))
    assert not recorder


def record_by_heart(step, put_back):
    """A graph that always gives what it gave when it was recorded."""
    written = step()
    put_back()
    return lambda: None, written


def record_nothing(step, put_back):
    """What an allocator without memory, or an operation that waits for the host, does to a recording."""
    step()
    put_back()
    step()
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    "record, reason, steps",
    [
        (record_by_heart, "a graph of the decode step gave logits that are off by", 2),
        (record_nothing, "operation not permitted when stream is capturing", 1),
    ],
)
class TestGraphsThatFail:
    @pytest.fixture(autouse=True)
    def tried(self, recorder, record, monkeypatch):
        assert not recorder
        tried = []
        monkeypatch.setattr(
            step_runners_wallaroo, "record_cuda_graph", lambda *given: tried.append(given) or record(*given)
        )
        return tried

    def test_the_default_goes_on_without_for_good(self, model, processor, tried, reason, steps, monkeypatch):
        warnings = []
        monkeypatch.setattr(step_runners_wallaroo.logger, "warning", warnings.append)
        inputs = prepare(processor, "edit", [0, 1])
        plain = run(model, inputs, seed=1, decoder="plain")
        assert_same(run(model, inputs, seed=1), plain)
        (warning,) = warnings
        assert warning.startswith("Images are drawn without CUDA graphs from here on, which is slower: ")
        assert reason in warning and "Pass `decoder='static'`" in warning
        assert len(tried) <= steps
        tried.clear()
        assert_same(run(model, inputs, seed=1), plain)
        assert len(warnings) == 1 and not tried

    def test_who_asks_for_graphs_is_told(self, model, processor, tried, reason, steps):
        with pytest.raises(RuntimeError, match=reason):
            run(model, prepare(processor, "generate", [0]), seed=1, decoder="graphs")
        assert len(tried) <= steps


@pytest.mark.parametrize(
    "place",
    [
        "model.language_model.layers.0.mlp.up_proj",
        "generation_head",
        "generation_head.activation",
        "model.generation_adapter",
        "model.generation_adapter.fc1",
        "model.vq_model.quantize.embedding",
    ],
)
class TestHooks:
    @pytest.fixture(autouse=True)
    def calls(self, model, place):
        calls = []
        handle = model.get_submodule(place).register_forward_hook(lambda *_: calls.append(1))
        yield calls
        handle.remove()

    @pytest.mark.parametrize("decoder", [None, "static"])
    def test_they_are_called(self, model, processor, recorder, calls, decoder):
        run(model, prepare(processor, "generate", [0]), seed=1, decoder=decoder)
        assert not recorder
        assert len(calls) >= 5

    @pytest.mark.usefixtures("recorder")
    def test_a_graph_would_not(self, model, processor):
        with pytest.raises(ValueError, match="`decoder` cannot be 'graphs' here: a CUDA graph repeats what a GPU"):
            run(model, prepare(processor, "generate", [0]), seed=1, decoder="graphs")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
class TestOnAGpu:
    @pytest.fixture(autouse=True)
    def on_gpu(self, model, monkeypatch):
        monkeypatch.setattr(step_runners_wallaroo, "STEPS_BEFORE_A_GRAPH", 0)
        monkeypatch.setattr(step_runners_wallaroo, "_without_graphs", set())
        model.to("cuda")
        yield
        model.to("cpu")

    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
    @pytest.mark.parametrize("decoder", [None, "graphs", "compiled"])
    def test_cuda_graphs(self, model, processor, task, guidance_scale, decoder):
        inputs = prepare(processor, task, [0, 1, 2]).to("cuda")
        sampling = {"guidance_scale": guidance_scale, "do_sample": False}
        static = run(model, inputs, decoder="static", **sampling)
        assert_same(run(model, inputs, decoder=decoder, **sampling), static)
        assert not step_runners_wallaroo._without_graphs

    def test_a_recording_that_fails_leaves_nothing_behind(self, model, processor, monkeypatch):
        inputs = prepare(processor, "generate", [0, 1]).to("cuda")
        static = run(model, inputs, seed=1, decoder="static")
        step = decoding_wallaroo.decode_step

        def waiting(*arguments):
            logits = step(*arguments)
            logits.sum().item()  # what no graph may hold
            return logits

        monkeypatch.setattr(decoding_wallaroo, "decode_step", waiting)
        assert_same(run(model, inputs, seed=1), static)
        assert step_runners_wallaroo._without_graphs
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        monkeypatch.undo()
        assert_same(run(model, inputs, seed=1), static)
