"""The ways to compute a decode step give the same codes, and nothing of a request is computed twice."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoModel

from transformers_wallaroo import step_runners_wallaroo
from transformers_wallaroo.decode_step_wallaroo import (
    attention_mask,
    decode_step,
    fuse,
    layer_weights,
    linear,
    rotary_table,
    why_not_lean,
)
from transformers_wallaroo.decoding_wallaroo import DECODERS, StaticDecoder
from transformers_wallaroo.image_grid_wallaroo import EDIT, GENERATE

from drawing import PROMPTS, SOURCES, TASKS, assert_same, prepare, prepare_mixed, run
from reference import images, record_forwards

LEAN = ("static", "compiled")
BATCHES = [[0], [0, 1, 2], [2, 2]]


@pytest.fixture
def own(converted):
    """A model of the test's own."""
    return AutoModel.from_pretrained(converted).eval()


@pytest.fixture
def compiling(monkeypatch):
    """Compiled code without inductor, so that a compile takes no C++ compiler and little time."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step = torch.compile(decode_step, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(step_runners_wallaroo, "_compiled_step", lambda _: step)
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("indices", BATCHES)
def test_the_lean_step_equals_transformers_forward(model, processor, task, guidance_scale, indices):
    """Mixed sizes, padding and several images a prompt; worst difference of the logits 3.5e-5."""
    inputs = prepare(processor, task, indices)
    for sampling in ({"do_sample": False}, {"seed": 3, "num_return_sequences": 2}):
        plain = run(model, inputs, guidance_scale=guidance_scale, decoder="plain", **sampling)
        assert_same(run(model, inputs, guidance_scale=guidance_scale, decoder="static", **sampling), plain)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.usefixtures("compiling")
def test_the_compiled_step_equals_transformers_forward(model, processor, task, guidance_scale):
    inputs = prepare(processor, task, [0, 1, 2])
    plain = run(model, inputs, guidance_scale=guidance_scale, decoder="plain", do_sample=False)
    assert_same(run(model, inputs, guidance_scale=guidance_scale, decoder="compiled", do_sample=False), plain)


@pytest.mark.parametrize("decoder", ["plain", "static"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_pictures_to_draw_and_to_edit_in_one_batch(model, processor, decoder, guidance_scale):
    """Each image is what it is alone: own head, own adapter, own size."""
    inputs = prepare_mixed(processor)
    assert inputs["task_ids"].tolist() == [2, 1, 2]
    together = run(model, inputs, guidance_scale=guidance_scale, seed=[3, 4, 5], decoder=decoder)
    for index, task in enumerate(["edit", "generate", "edit"]):
        alone = run(model, prepare(processor, task, [index]), guidance_scale=guidance_scale, seed=3 + index)
        assert torch.equal(together.codes[index], alone.codes[0])


def test_heads_may_be_of_another_precision(own, processor):
    own.generation_head.double()
    inputs = prepare(processor, "generate", [0, 1])
    assert_same(run(own, inputs, seed=1, decoder="static"), run(own, inputs, seed=1, decoder="plain"))


@pytest.mark.parametrize("layer", ["fc1", "activation", None])
def test_what_hangs_on_a_head_is_called(own, processor, layer):
    """The lean step takes the weights of a head by themselves only where there is nothing else."""
    inputs = prepare(processor, "generate", [0])
    head = own.generation_head
    (head if layer is None else getattr(head, layer)).register_forward_hook(lambda _, __, hidden: hidden.flip(-1))
    assert_same(run(own, inputs, seed=1, decoder="static"), run(own, inputs, seed=1, decoder="plain"))


def test_equal_prompts_are_read_once(model, processor):
    """Four pictures of one prompt and one of another are three prompts to read: two, and none at all."""
    inputs = processor(text=["a cat"] * 4 + ["a dog"], task="generate", height=32, width=32, return_tensors="pt")
    with record_forwards(model) as forwards:
        together = run(model, inputs, seed=1)
    assert [len(kwargs["inputs_embeds"]) for kwargs in forwards] == [3]
    with record_forwards(model) as forwards:
        assert_same(run(model, inputs, seed=1, decoder="plain"), together)
    assert len(forwards[0]["inputs_embeds"]) == 3
    assert len(forwards[1]["inputs_embeds"]) == 10
    assert not torch.equal(together.codes[0], together.codes[1])


def test_a_source_is_seen_once(model, processor, monkeypatch):
    """Three edits of one picture: it goes through the vision tower and the VQ encoder once, and the black one of the
    unconditional prompts once."""
    seen = []
    encode, features = model.model.vq_model.encode, model.model.get_image_features
    monkeypatch.setattr(
        model.model.vq_model, "encode", lambda pixels: seen.append(("cells", len(pixels))) or encode(pixels)
    )
    monkeypatch.setattr(
        model.model,
        "get_image_features",
        lambda pixels, grid, **kwargs: seen.append(("patches", len(grid))) or features(pixels, grid, **kwargs),
    )
    picture = images(SOURCES[0])
    inputs = processor([picture] * 3, PROMPTS, task="edit", height=32, width=32, return_tensors="pt")
    together = run(model, inputs, seed=[1, 2, 3])
    assert sorted(seen) == [("cells", 2), ("patches", 2)]
    monkeypatch.undo()
    for index, prompt in enumerate(PROMPTS):
        inputs = processor(picture, prompt, task="edit", height=32, width=32, return_tensors="pt")
        assert torch.equal(run(model, inputs, seed=1 + index).codes[0], together.codes[index])


def test_whole_images_leave_the_batch(model, processor, monkeypatch):
    """6, 8 and 9 codes: 9 steps of three, then two, then one image, with two rows each."""
    rows = []
    advance = StaticDecoder.advance

    def counting(self, codes, row_ends):
        logits = advance(self, codes, row_ends)
        rows.append(len(self.state.next_slot))
        return logits

    monkeypatch.setattr(StaticDecoder, "advance", counting)
    run(model, prepare(processor, "generate", [0, 1, 2]), seed=1)
    assert rows == [6] * 5 + [4] * 2 + [2]


@pytest.mark.usefixtures("compiling")
def test_one_compile_serves_steps_prompts_and_images(model, processor):
    """After the first image of a size there is nothing left to compile; no graph breaks (`fullgraph`)."""

    def draw(prompt, seed, size):
        inputs = processor(text=prompt, task="generate", height=size, width=size, return_tensors="pt")
        return run(model, inputs, seed=seed, decoder="compiled")

    draw("a cat", 1, 64)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 0 < compiled <= 4
    draw("a dog beside a much longer fence", 2, 64)
    draw("a dog", 3, 96)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


def test_models_with_alike_layers_are_not_taken_for_each_other(converted, own, processor, monkeypatch):
    """Later layers are not guarded; models of one shape share the code and keep their weights, others get their own."""
    torch._dynamo.reset()
    guards = []

    def keep(found):
        kept = step_runners_wallaroo._not_of_later_layers(found)
        guards.extend((guard.name, keeps) for guard, keeps in zip(found, kept, strict=True))
        return kept

    step = torch.compile(
        step_runners_wallaroo._step_of_alike_layers,
        backend="aot_eager",
        fullgraph=True,
        options={"guard_filter_fn": keep},
    )
    other = AutoModel.from_pretrained(converted).eval()
    with torch.no_grad():
        for layer in other.model.language_model.layers[1:]:
            layer.mlp.down_proj.weight.mul_(3)
    inputs = prepare(processor, "generate", [0])
    expected = {each: run(each, inputs, do_sample=False, decoder="static") for each in (own, other)}
    seen = []
    monkeypatch.setattr(step_runners_wallaroo, "_compiled_step", lambda alike: seen.append(alike) or step)
    for each in (own, other, own, own.to(torch.float64), other):
        if each.dtype == torch.float64:
            expected[each] = run(each, inputs, do_sample=False, decoder="static")
        assert_same(run(each, inputs, do_sample=False, decoder="compiled"), expected[each])
    assert seen == [True] * 5
    for name in ("layers", "caches"):
        assert {keeps for guard, keeps in guards if f"{name}[0]" in guard} == {True}
        assert {keeps for guard, keeps in guards if f"{name}[1]" in guard} == {False}
    torch._dynamo.reset()


def test_layers_that_differ_are_told(own):
    layers = layer_weights(own)
    assert step_runners_wallaroo.layers_are_alike(layers)
    first, *rest = layers
    assert not step_runners_wallaroo.layers_are_alike([first._replace(input_norm=first.input_norm.double()), *rest])
    assert not step_runners_wallaroo.layers_are_alike([first._replace(down=(first.down[0], first.input_norm)), *rest])
    assert not step_runners_wallaroo.layers_are_alike([first._replace(out=torch.nn.Linear(2, 2)), *rest])
    assert not step_runners_wallaroo.layers_are_alike([first, first])


def test_many_kinds_of_requests_go_on_being_compiled(model, processor, monkeypatch):
    """torch's own limit of 8 graphs a process would be reached by the tasks, guidances and batches of one model."""
    limits = []

    def step(*args):
        limits.append(torch._dynamo.config.recompile_limit)
        return decode_step(*args)

    monkeypatch.setattr(step_runners_wallaroo, "_compiled_step", lambda _: step)
    run(model, prepare(processor, "generate", [0]), seed=1, decoder="compiled")
    assert limits == [step_runners_wallaroo.RECOMPILE_LIMIT] * 5
    assert torch._dynamo.config.recompile_limit < step_runners_wallaroo.RECOMPILE_LIMIT


def test_fused_projections_are_the_same_weights(own, model, processor, tmp_path):
    """They share memory, go on being trained and saved by their names, and give the same codes."""
    inputs = prepare(processor, "edit", [0, 1])
    expected = run(model, inputs, do_sample=False)
    assert len(layer_weights(own)[0].qkv) == 3
    before = {name: value.clone() for name, value in own.state_dict().items()}
    assert fuse(own) == 2 * len(own.model.language_model.layers)
    assert fuse(own) == 2 * len(own.model.language_model.layers)
    weights = layer_weights(own)[0]
    assert len(weights.qkv) == len(weights.gate_up) == 1
    assert_same(run(own, inputs, do_sample=False), expected)
    for name, value in own.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad():
        own.model.language_model.layers[0].self_attn.k_proj.weight.mul_(2)
    width = own.model.language_model.layers[0].self_attn.q_proj.out_features
    key = own.model.language_model.layers[0].self_attn.k_proj.weight
    assert torch.equal(weights.qkv[0][0][width : width + len(key)], key)
    own.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.model.language_model.layers[0].self_attn.k_proj.weight, key)
    assert len(layer_weights(loaded)[0].qkv) == 3
    moved = own.to(torch.float64).to(torch.float32)
    assert_same(run(moved, inputs, do_sample=False), run(loaded, inputs, do_sample=False))


def test_an_optimized_model_gives_the_same_codes(own, processor, tmp_path):
    """Its tables are of the weights as they are: not of those before training, and not in the saved file."""
    inputs = prepare(processor, "edit", [0, 1])
    expected = run(own, inputs, do_sample=False)
    files = set(own.state_dict())
    assert own.model.code_table(EDIT) is None
    assert own.optimize() is own
    table = own.model.code_table(EDIT)
    assert table.shape == (own.config.vq_config.num_embeddings, own.config.text_config.hidden_size)
    assert not torch.equal(table, own.model.code_table(GENERATE))
    assert set(own.state_dict()) == files
    assert_same(run(own, inputs, do_sample=False), expected)
    with torch.no_grad():
        own.model.editing_adapter.fc2.weight.mul_(3)
    assert own.model.code_table(EDIT) is None
    assert own.model.code_table(GENERATE) is not None
    other = run(own, inputs, do_sample=False)
    assert not torch.equal(other.codes[0], expected.codes[0])
    assert_same(run(own.optimize(), inputs, do_sample=False), other)
    own.save_pretrained(tmp_path)
    assert_same(run(AutoModel.from_pretrained(tmp_path), inputs, do_sample=False), other)


def test_tables_are_of_the_weights_as_they_are(own):
    """Also where something writes past autograd, or hangs on the adapter."""
    own.optimize()
    adapter = own.model.generation_adapter
    handle = adapter.fc2.register_forward_hook(lambda *_: None)
    assert own.model.code_table(GENERATE) is None
    handle.remove()
    assert own.model.code_table(GENERATE) is not None
    adapter.fc2.weight.data.mul_(-3)
    assert own.model.code_table(GENERATE) is None
    own.optimize()
    own.model.generation_adapter.fc1 = torch.nn.Linear(adapter.fc1.in_features, adapter.fc1.out_features)
    assert own.model.code_table(GENERATE) is None


def test_a_model_with_hooks_cannot_be_optimized(own):
    own.model.language_model.layers[1].mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"`optimize` is for the lean decode step, .*: a Qwen2MLP has a hook"):
        own.optimize()


def test_attention_mask():
    """Two rows, one with two slots of padding; new positions at 3 and 4."""
    slots = torch.tensor([[3, 4], [3, 4]])
    mask = attention_mask(torch.arange(6), torch.tensor([0, 2]), slots, 2, torch.float32)
    assert mask.shape == (2, 1, 4, 6)
    assert (mask[:, 0, ::2] == 0).int().tolist() == [
        [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]],
        [[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0]],
    ]
    assert torch.equal(mask[:, :, ::2], mask[:, :, 1::2])


def test_rotary_table_is_that_of_the_model(model):
    hidden = torch.zeros(1)
    cos, sin = rotary_table(model.model.language_model, 7, hidden)
    positions = torch.arange(7).expand(3, 1, -1)
    expected_cos, expected_sin = model.model.language_model.rotary_emb(hidden, positions)
    assert torch.equal(cos, expected_cos.reshape(-1, 7, cos.shape[-1])[0])
    half = sin.shape[-1] // 2
    assert torch.equal(sin[:, half:], expected_sin.reshape(-1, 7, sin.shape[-1])[0][:, half:])
    assert torch.equal(sin[:, :half], -sin[:, half:])


@pytest.mark.parametrize("decoder", ["static", "compiled"])
@pytest.mark.usefixtures("compiling")
def test_lora_layers_are_called_as_they_are_used_to_be(own, processor, decoder):
    """Row by row, not as one list of positions."""
    shapes = []
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(own, config).base_model.model
    layer = adapted.model.language_model.layers[0].self_attn.q_proj
    handle = layer.register_forward_hook(lambda _, given, __: shapes.append(tuple(given[0].shape[:-1])))
    inputs = prepare(processor, "generate", [0, 1])
    if decoder == "static":
        run(adapted, inputs, seed=1, decoder=decoder)
        assert shapes[-1] == (2, 1) and (4, 1) in shapes
    handle.remove()
    lean = run(adapted, inputs, seed=1, decoder=decoder)
    assert_same(lean, run(adapted, inputs, seed=1, decoder="plain"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_positions", [1, 2, 7, 8, 33])
def test_small_products_are_torchs_own(dtype, num_positions):
    """On either side of the limits at which a CPU gets the weights as the left factor."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator).to(dtype) for shape in ((num_positions, 48), (64, 48), (64,))
    )
    for given in (bias, None):
        found = linear(hidden, weight, given)
        torch.testing.assert_close(found, F.linear(hidden, weight, given))
        assert found.t().is_contiguous() == (num_positions == 1 or dtype == torch.bfloat16 or num_positions >= 8)


class TestTheChoice:
    def decoders(self, model, processor, monkeypatch, **kwargs):
        from transformers_wallaroo import generation_wallaroo

        made = []
        make = generation_wallaroo.make_decoder

        def noting(*args, **options):
            made.append(make(*args, **options))
            return made[-1]

        monkeypatch.setattr(generation_wallaroo, "make_decoder", noting)
        run(model, prepare(processor, "generate", [0]), seed=1, **kwargs)
        return type(made[0]).__name__

    def test_the_lean_step_by_default(self, model, processor, monkeypatch):
        assert self.decoders(model, processor, monkeypatch) == "StaticDecoder"

    @pytest.mark.parametrize("kwargs", [{"decoder": "plain"}, {"use_cache": False}, {"cache_implementation": "static"}])
    def test_transformers_forward_where_it_is_asked_for(self, model, processor, monkeypatch, kwargs):
        assert self.decoders(model, processor, monkeypatch, **kwargs) == "PlainDecoder"

    def test_transformers_forward_where_something_hangs_on_it(self, own, processor, monkeypatch):
        layer = own.model.language_model.layers[0]
        handle = layer.self_attn.register_forward_hook(lambda *_: None)
        assert why_not_lean(own) == "a Qwen2_5_VLAttention has a hook"
        assert self.decoders(own, processor, monkeypatch) == "PlainDecoder"
        with pytest.raises(
            ValueError, match=r"`decoder` cannot be 'static' here, since a Qwen2_5_VLAttention has a hook"
        ):
            run(own, prepare(processor, "generate", [0]), seed=1, decoder="static")
        handle.remove()
        assert why_not_lean(own) is None

    def test_hidden_states_that_were_asked_for_once_do_not_count(self, own, processor):
        """transformers leaves its hooks on the layers."""
        own(**processor(text="Hi", return_tensors="pt"), output_hidden_states=True)
        assert own.model.language_model.layers[0]._forward_hooks
        assert why_not_lean(own) is None

    @pytest.mark.parametrize("name", ["norm", "rotary_emb"])
    def test_hooks_beside_the_layers_count(self, own, name):
        getattr(own.model.language_model, name).register_forward_hook(lambda *_: None)
        assert why_not_lean(own).endswith("has a hook")

    def test_another_activation(self, own):
        own.config.text_config.hidden_act = "relu"
        assert why_not_lean(own) == "its activation is 'relu'"

    def test_a_hook_on_a_projection_is_called(self, own, processor):
        calls = []
        layer = own.model.language_model.layers[0]
        layer.mlp.up_proj.register_forward_hook(lambda *args: calls.append(len(args)))
        run(own, prepare(processor, "generate", [0]), seed=1)
        assert len(calls) == 6

    def test_autocast(self, model, processor, monkeypatch):
        with torch.autocast("cpu", torch.bfloat16):
            assert why_not_lean(model) == "autocast is on"
            assert self.decoders(model, processor, monkeypatch) == "PlainDecoder"

    def test_unknown(self, model, processor):
        with pytest.raises(ValueError, match=r"`decoder` must be one of 'plain', .* but got 'fast'"):
            run(model, prepare(processor, "generate", [0]), decoder="fast")
        assert DECODERS[0] == "plain"

    def test_graphs_need_a_gpu(self, model, processor):
        with pytest.raises(ValueError, match=r"`decoder` 'graphs' means CUDA graphs, but the model is on cpu"):
            run(model, prepare(processor, "generate", [0]), decoder="graphs")

    def test_not_for_text(self, model, processor):
        with pytest.raises(ValueError, match="`decoder` is for images"):
            model.generate(**processor(text="Hi", return_tensors="pt"), decoder="static")


def test_tasks_of_one_call_must_all_make_images(processor):
    with pytest.raises(ValueError, match=r"`task` mixes 'understand' with tasks that make images"):
        processor(text=["a", "b"], task=["understand", "generate"])
    with pytest.raises(ValueError, match="`task` must be one for all or one a prompt, but got 2 for 3 prompts"):
        processor(text=["a", "b", "c"], task=["generate", "generate"])
