"""Recorded steps, on a CPU by a recorder that does again what it was given, and on a GPU by CUDA's own graphs."""

import pytest
import torch

from transformers_wallaroo import decoding_wallaroo, generation_wallaroo
from transformers_wallaroo.decoding_wallaroo import GraphedStep, StaticDecoder

from drawing import TASKS, assert_same, prepare, run


def record_on_cpu(step, put_back):
    """What a CUDA graph does: it reads and writes the tensors that it was recorded with, and returns nothing new."""
    returned = step()
    put_back()
    written = torch.full_like(returned, torch.nan)
    return lambda: written.copy_(step()), written, returned


@pytest.fixture
def recorder(monkeypatch):
    """Graphs without a GPU; a list of what was recorded: images in the batch, and whether rows end."""
    recorded = []
    prepare_graph = GraphedStep._prepare

    def noting(self, parts, state, codes, ends, *rest):
        recorded.append((len(codes), ends is not None))
        return prepare_graph(self, parts, state, codes, ends, *rest)

    monkeypatch.setattr(decoding_wallaroo, "can_graph", lambda _: True)
    monkeypatch.setattr(GraphedStep, "record", staticmethod(record_on_cpu))
    monkeypatch.setattr(GraphedStep, "_prepare", noting)
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


def test_a_graph_serves_all_steps_of_a_batch(model, processor, recorder):
    """6, 8 and 9 codes in rows of 3, 2 and 3: two graphs for three images, then for two, then one for the last."""
    run(model, prepare(processor, "generate", [0, 1, 2]), seed=1, decoder="graphs")
    assert recorder == [(3, False), (3, True), (2, True), (2, False), (1, False)]


def test_one_argument_turns_graphs_off(model, processor, recorder):
    for decoder in ("static", "plain"):
        run(model, prepare(processor, "generate", [0]), seed=1, decoder=decoder)
    assert not recorder


def test_guessing_ahead_has_no_graphs(model, processor, recorder):
    """Their windows would all have to be as long as the cache."""
    inputs = prepare(processor, "generate", [0])
    guessed = model.generate(**inputs, do_sample=False, speculative_window=4)
    assert torch.equal(guessed, model.generate(**inputs, do_sample=False, decoder="static"))
    assert not recorder


def record_wrongly(step, put_back):
    """A graph that is off by a code."""
    replay, written, returned = record_on_cpu(step, put_back)

    def replay_wrongly():
        replay()
        written.copy_(written.roll(1, -1))

    return replay_wrongly, written, returned


def record_nothing(step, put_back):
    """What an allocator without memory, or an operation that waits for the host, does to a recording."""
    step()
    put_back()
    step()
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    "record, reason",
    [
        (record_wrongly, "a graph of the decode step gave logits that are off by"),
        (record_nothing, "operation not permitted when stream is capturing"),
    ],
)
class TestGraphsThatFail:
    @pytest.fixture(autouse=True)
    def failing(self, recorder, record, monkeypatch):
        recorder.clear()
        monkeypatch.setattr(GraphedStep, "record", staticmethod(record))

    def test_the_default_goes_on_without(self, model, processor, recorder, reason, monkeypatch):
        warnings = []
        monkeypatch.setattr(decoding_wallaroo.logger, "warning", lambda text, *values: warnings.append(text % values))
        inputs = prepare(processor, "edit", [0, 1])
        assert_same(run(model, inputs, seed=1), run(model, inputs, seed=1, decoder="plain"))
        (warning,) = warnings
        assert warning.startswith("This image is drawn without CUDA graphs, which is slower: ")
        assert reason in warning and "Pass `decoder='static'`" in warning
        assert recorder == [(2, False)]

    def test_who_asks_for_graphs_is_told(self, model, processor, reason):
        with pytest.raises(RuntimeError, match=reason):
            run(model, prepare(processor, "generate", [0]), seed=1, decoder="graphs")


@pytest.mark.usefixtures("recorder")
class TestHooks:
    @pytest.fixture(autouse=True)
    def hooked(self, model):
        handle = model.model.language_model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: None)
        yield
        handle.remove()

    def test_the_default_calls_them(self, model, processor, recorder):
        run(model, prepare(processor, "generate", [0]), seed=1)
        assert not recorder

    @pytest.mark.parametrize("decoder", ["graphs", "compiled"])
    def test_a_graph_would_not(self, model, processor, decoder):
        with pytest.raises(ValueError, match=f"`decoder` cannot be '{decoder}' here: a CUDA graph repeats what a GPU"):
            run(model, prepare(processor, "generate", [0]), seed=1, decoder=decoder)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_cuda_graphs(model, processor, monkeypatch, task, guidance_scale):
    made = []
    make = generation_wallaroo.make_decoder
    monkeypatch.setattr(generation_wallaroo, "make_decoder", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    inputs = prepare(processor, task, [0, 1, 2])
    model.to("cuda")
    try:
        on_gpu = run(model, inputs.to("cuda"), guidance_scale=guidance_scale, do_sample=False)
        static = run(model, inputs.to("cuda"), guidance_scale=guidance_scale, do_sample=False, decoder="static")
    finally:
        model.to("cpu")
    assert isinstance(made[0], StaticDecoder) and isinstance(made[0].run, GraphedStep) and not made[0].run.given_up
    assert_same(on_gpu, static)
