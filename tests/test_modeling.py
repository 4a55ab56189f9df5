"""The model: routing, precision, gradients, tied weights, and the errors of wrong inputs."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel

from transformers_wallaroo import WallarooConfig, WallarooDataCollator, WallarooForConditionalGeneration
from transformers_wallaroo.image_grid_wallaroo import EDIT, TokenType

from reference import LOGITS, assert_close, images

SAMPLE = {"prompt": "a fox", "height": 32, "width": 48}


@pytest.fixture
def batch(processor):
    """One sample of each task."""
    generator = torch.Generator().manual_seed(0)
    collator = WallarooDataCollator(processor, unconditional_probability=0.0, generator=generator)
    return collator(
        [
            {"task": "generate", **SAMPLE, "image": images("t2i_target_0.png")},
            {
                "task": "edit",
                **SAMPLE,
                "image": images("edit_target_0.png"),
                "source_image": images("edit_source_0.png"),
            },
            {
                "task": "understand",
                "images": [images("understand.png")],
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Two shapes."}],
            },
        ]
    )


@pytest.fixture
def fresh_model(converted):
    """A model of its own, for tests that change it."""
    return AutoModel.from_pretrained(converted)


def tiny_config(model, **changes) -> WallarooConfig:
    settings = copy.deepcopy(model.config.to_dict())
    settings.update(changes)
    return WallarooConfig(**{name: value for name, value in settings.items() if name != "transformers_version"})


def test_mixed_batch_has_every_loss(model, batch):
    out = model(**batch)
    assert sorted(out.losses) == ["edit_image", "edit_text", "generate_image", "generate_text", "understand_text"]
    assert out.logits is None
    assert_close(out.loss, torch.stack(list(out.losses.values())).sum(), 2e-5)


def test_losses_of_a_mixed_batch_are_those_of_its_parts(model, batch, processor):
    """Rows do not see each other, nor their padding."""
    together = model(**batch).losses
    without = model(**{name: value for name, value in batch.items() if name != "task_ids"}).losses
    assert together.keys() == without.keys()  # rows tell their task by their codes
    for name in together:
        assert_close(without[name], together[name], 0)
    collator = WallarooDataCollator(processor, unconditional_probability=0.0)
    template = processor.templates["generate"]["en"][0]
    sample = {"task": "generate", **SAMPLE, "image": images("t2i_target_0.png"), "template": template}
    alone = model(**collator([sample])).losses
    chat = {
        "task": "understand",
        "messages": [{"role": "user", "content": "x" * 50}, {"role": "assistant", "content": "Two shapes."}],
    }
    mixed = model(**collator([chat, sample])).losses
    for name in alone:
        assert_close(mixed[name], alone[name], 1e-5)


def test_logits_only_at_labelled_positions(model, batch):
    """No head sees more positions than have its labels."""
    seen = {}
    hooks = [
        getattr(model, name).register_forward_pre_hook(
            lambda _module, args, name=name: seen.setdefault(name, []).append(args[0].shape[:-1].numel())
        )
        for name in ("lm_head", "generation_head", "editing_head")
    ]
    try:
        model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    types = batch["mm_token_type_ids"]
    codes = [int((types == kind).sum()) for kind in (TokenType.GENERATED_CODE, TokenType.EDITED_CODE)]
    assert seen["generation_head"] == codes[:1]
    assert seen["editing_head"] == codes[1:]
    assert sum(seen["lm_head"]) == int((batch["labels"] != -100).sum()) - sum(codes)


def test_logits_to_keep_and_head_of_the_task(model, processor, picture):
    inputs = processor(text="a fox", task="generate", height=32, width=48, return_tensors="pt")
    assert model(**inputs, logits_to_keep=1).logits.shape == (1, 1, 256)
    inputs = processor(text="What?", images=picture, return_tensors="pt")
    every = model(**inputs).logits
    assert every.shape == (*inputs["input_ids"].shape, 640)
    assert_close(model(**inputs, logits_to_keep=2).logits, every[:, -2:], LOGITS)


def test_prompts_without_codes_need_no_token_types(model, processor, picture):
    inputs = processor(text="What?", images=picture, return_tensors="pt")
    expected = model(**inputs).logits
    inputs.pop("mm_token_type_ids")
    inputs.pop("task_ids")
    assert_close(model(**inputs).logits, expected, 0)


def test_left_padding_changes_nothing(model, processor, picture):
    alone = processor(text="What?", images=picture, return_tensors="pt")
    padded = processor(text=["What?", "x" * 200], images=[picture, None], return_tensors="pt")
    assert padded["attention_mask"][0, 0] == 0
    assert_close(model(**padded).logits[0, -1], model(**alone).logits[0, -1], LOGITS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_the_vq_tokenizer_exact(converted, dtype, batch):
    low = AutoModel.from_pretrained(converted, dtype=dtype)
    dtypes = {name: value.dtype for name, value in low.state_dict().items()}
    assert {value for name, value in dtypes.items() if ".vq_model." in name} == {torch.float32}
    assert {value for name, value in dtypes.items() if ".vq_model." not in name} == {dtype}
    out = low(**batch)
    assert out.loss.dtype == torch.float32
    assert out.loss.isfinite()


@pytest.mark.parametrize("cast", [lambda model: model.to(torch.bfloat16), lambda model: model.half()])
def test_casting_passes_the_vq_tokenizer_over(fresh_model, model, cast):
    low = cast(fresh_model)
    assert low.lm_head.weight.dtype != torch.float32
    for name, value in model.model.vq_model.state_dict().items():
        assert torch.equal(low.model.vq_model.state_dict()[name], value)


def test_the_vq_tokenizer_is_always_frozen(fresh_model):
    parameters = list(fresh_model.model.vq_model.parameters())
    assert not any(parameter.requires_grad for parameter in parameters)
    fresh_model.requires_grad_(True).train()
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not fresh_model.model.vq_model.training
    assert fresh_model.lm_head.weight.requires_grad


def test_patches_are_embedded_as_by_the_convolution(model):
    """Worst difference 5e-6 of values up to 5; the weight keeps its five dimensions."""
    embed, vision = model.model.visual.patch_embed, model.config.vision_config
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.randn(24, values, generator=torch.Generator().manual_seed(0))
    assert embed.proj.weight.ndim == 5
    assert type(embed.proj) is not nn.Conv3d
    shape = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    expected = nn.Conv3d.forward(embed.proj, patches.unflatten(1, shape)).flatten(1)
    assert (embed(patches) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(fresh_model, batch, use_reentrant):
    fresh_model.train()
    fresh_model(**batch, use_cache=False).loss.backward()
    expected = {name: value.grad.clone() for name, value in fresh_model.named_parameters() if value.grad is not None}
    assert len(expected) > 50
    fresh_model.zero_grad()
    fresh_model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    fresh_model.enable_input_require_grads()
    fresh_model(**batch, use_cache=False).loss.backward()
    for name, value in fresh_model.named_parameters():
        if name in expected:
            assert_close(value.grad, expected[name], 1e-5)


def test_tied_embeddings(model, tmp_path):
    """The text head is the embedding table, before and after saving; the image heads are their own."""
    tied = WallarooForConditionalGeneration(tiny_config(model, tie_word_embeddings=True))
    assert tied.lm_head.weight is tied.model.language_model.embed_tokens.weight
    tied.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight
    for name, value in tied.state_dict().items():
        assert torch.equal(loaded.state_dict()[name].to(value.dtype), value)


def test_tiny_model_initialises_its_parts(model):
    """From a config alone every weight is finite, and the new parts start as torch's own linear layers."""
    torch.manual_seed(0)
    fresh = WallarooForConditionalGeneration(tiny_config(model))
    assert all(value.isfinite().all() for value in fresh.state_dict().values())
    for part in (fresh.generation_head, fresh.editing_head, fresh.model.source_adapter):
        for layer in (part.fc1, part.fc2):
            bound = layer.in_features**-0.5
            assert layer.weight.abs().max() <= bound
            assert abs(layer.weight.std() / (bound / 3**0.5) - 1) < 0.1
    assert fresh.lm_head.weight.std() < 1.5 * fresh.config.text_config.initializer_range


def test_device_map_auto(converted, model, processor):
    placed = AutoModel.from_pretrained(converted, device_map="auto")
    inputs = processor(
        text="a fox", images=images("edit_source_0.png"), task="edit", height=32, width=48, return_tensors="pt"
    )
    assert torch.equal(placed.generate(**inputs, seed=1), model.generate(**inputs, seed=1))


PARTS = ("visual", "vq_model", "source_adapter", "editing_adapter", "language_model.embed_tokens")


@pytest.mark.parametrize("waiting", [*(f"model.{part}" for part in PARTS), "lm_head", "editing_head"])
def test_offloaded_parts_give_the_same(converted, model, processor, tmp_path, waiting):
    """Weights that wait on disk are fetched when they are needed, those of the VQ tokenizer too."""
    device_map = {name: "disk" if name == waiting else "cpu" for name, _ in model.named_children() if name != "model"}
    device_map |= {f"model.{name}": "cpu" for name, _ in model.model.named_children() if name != "language_model"}
    language_model = model.model.language_model
    device_map |= {f"model.language_model.{name}": "cpu" for name, _ in language_model.named_children()}
    device_map[waiting] = "disk"
    placed = AutoModel.from_pretrained(converted, device_map=device_map, offload_folder=tmp_path)
    inputs = processor(
        text="a fox", images=images("edit_source_0.png"), task="edit", height=32, width=48, return_tensors="pt"
    )
    sequences = placed.generate(**inputs, seed=1)
    assert torch.equal(sequences, model.generate(**inputs, seed=1))
    assert_close(placed.decode_image_tokens(sequences)[0], model.decode_image_tokens(sequences)[0], 1e-5)


def test_an_offloaded_layer_gives_the_same(converted, model, processor, tmp_path):
    names = ["model.visual", "model.language_model.embed_tokens", "model.language_model.layers.0", "lm_head"]
    names += ["model.language_model.layers.1", "model.language_model.norm", "model.language_model.rotary_emb"]
    names += [
        "model.generation_adapter",
        "model.editing_adapter",
        "model.source_adapter",
        "generation_head",
        "editing_head",
    ]
    device_map = {**dict.fromkeys(names, "cpu"), "model.vq_model": "cpu"}
    device_map["model.language_model.layers.1"] = "disk"
    device_map["editing_head"] = "disk"
    placed = AutoModel.from_pretrained(converted, device_map=device_map, offload_folder=tmp_path)
    inputs = processor(
        text="a fox", images=images("edit_source_0.png"), task="edit", height=32, width=48, return_tensors="pt"
    )
    assert torch.equal(placed.generate(**inputs, seed=1), model.generate(**inputs, seed=1))


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_attention_names(converted, name):
    loaded = AutoModel.from_pretrained(converted, attn_implementation=name)
    assert loaded.config._attn_implementation == loaded.model.language_model.config._attn_implementation == name


def test_flash_attention_is_declared():
    assert WallarooForConditionalGeneration._supports_flash_attn
    assert WallarooForConditionalGeneration._supports_sdpa


def test_return_dict_false_gives_a_tuple(model, batch):
    loss, *_ = model(**batch, return_dict=False)
    assert_close(loss, model(**batch).loss, 0)


def test_codes_pass_through_the_table_of_one_id_space(model):
    """A code `c` is the id `text_vocab_size + c`: embedded by the codebook and the task's adapter."""
    codes = torch.tensor([[3, 250]])
    ids = codes + model.config.text_vocab_size
    types = torch.full_like(ids, TokenType.EDITED_CODE)
    embedded = model.model.embed_inputs(ids, types)
    codebook = nn.functional.normalize(model.model.vq_model.quantize.embedding.weight, dim=-1)
    assert_close(embedded, model.model.editing_adapter(codebook[codes]), 1e-6)
    assert_close(model.model.embed_codes(codes, EDIT), embedded, 0)


class TestErrors:
    def test_codes_out_of_range(self, model):
        types = torch.full((1, 1), int(TokenType.GENERATED_CODE))
        with pytest.raises(ValueError, match=r"`input_ids` holds codes from 256 to 256, .*\[0, 256\)"):
            model(input_ids=torch.tensor([[640 + 256]]), mm_token_type_ids=types)
        with pytest.raises(ValueError, match="need `target_pixel_values`"):
            model(input_ids=torch.tensor([[547]]), mm_token_type_ids=types)
        with pytest.raises(ValueError, match=r"`codes` must lie in \[0, 256\), but got values from 0 to 256"):
            model.model.vq_model.decode(torch.tensor([[[0, 256]]]))

    def test_codes_without_token_types(self, model):
        with pytest.raises(ValueError, match="`mm_token_type_ids` is needed"):
            model(input_ids=torch.tensor([[640]]))

    def test_pictures_that_do_not_fit_their_placeholders(self, model, processor, picture):
        inputs = processor(text="What?", images=picture, return_tensors="pt")
        types = inputs["mm_token_type_ids"].clone()
        types[0, (types[0] == 1).nonzero()[0]] = 0
        with pytest.raises(ValueError, match="marks 19 positions as IMAGE, but the pixel inputs give 20 features"):
            model.model.embed_inputs(
                inputs["input_ids"],
                types,
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
            )
        inputs.pop("pixel_values")
        with pytest.raises(ValueError, match="marks 20 positions as IMAGE, but the pixel inputs give 0 features"):
            model(**inputs)

    def test_targets_that_do_not_fit_their_placeholders(self, model, batch):
        batch["target_grid"] = torch.tensor([[2, 3], [2, 2]])
        with pytest.raises(ValueError, match="`target_grid` describes 10 cells, but `mm_token_type_ids` has 12"):
            model(**batch)

    def test_targets_without_labels(self, model, batch):
        batch.pop("labels")
        with pytest.raises(ValueError, match=r"`target_pixel_values` came without `labels`.*label_smoothing_factor"):
            model(**batch)

    def test_sequences_of_other_shapes(self, model):
        with pytest.raises(
            ValueError, match=r"`sequences` must be ids of shape .* of shapes \[\(2, 3\)\].*out\.sequences"
        ):
            model.decode_image_tokens([torch.zeros(2, 3, dtype=torch.long)])

    def test_ids_and_embeddings(self, model):
        with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
            model()

    def test_shared_positions(self, model):
        with pytest.raises(AttributeError, match="shared by every request"):
            model.model.rope_deltas = torch.zeros(1)
