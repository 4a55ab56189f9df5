"""Quantised weights: the language model alone, all decoders, saved and loaded, and how far they drift."""

import pytest
import torch
from torch import nn
from transformers import AutoModel, BitsAndBytesConfig, TorchAoConfig

import transformers_wallaroo
from transformers_wallaroo import WallarooProcessor
from transformers_wallaroo.decode_step_wallaroo import fuse
from transformers_wallaroo.modeling_wallaroo import UNQUANTIZED, quantize_language_model

quantization = pytest.importorskip("torchao.quantization", reason="`make test` installs torchao for these tests")

CONFIGS = {
    "int8": lambda: quantization.Int8WeightOnlyConfig(),
    "int4": lambda: quantization.IntxWeightOnlyConfig(
        weight_dtype=torch.int4, granularity=quantization.granularity.PerGroup(32)
    ),
}
# Of the largest logit, guided, at the first code: seen 0.8 % and 4.2 %.
DRIFT = {"int8": 0.02, "int4": 0.06}


def load(path=None, **kwargs):
    return AutoModel.from_pretrained(path or transformers_wallaroo.tiny_path(), dtype=torch.bfloat16, **kwargs).eval()


@pytest.fixture(scope="module")
def requests():
    processor = WallarooProcessor.from_pretrained(transformers_wallaroo.tiny_path())
    prompts = ["a red circle and a blue star", "三个绿色的正方形"]
    drawing = processor(text=prompts, task="generate", height=48, width=64, return_tensors="pt")
    pictures = processor.image_processor.postprocess(
        [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))]
    )
    asking = processor(text="what is in the picture?", images=pictures[0], return_tensors="pt")
    return drawing, asking


@pytest.mark.parametrize("name", CONFIGS)
def test_it_loads_draws_answers_and_is_saved(name, requests, tmp_path):
    drawing, asking = requests
    whole = load()
    config = TorchAoConfig(CONFIGS[name]())
    model = load(quantization_config=config)
    assert config.modules_to_not_convert is None
    kinds = {}
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            kinds.setdefault(".language_model." in module_name, set()).add(type(module.weight) is nn.Parameter)
    assert kinds == {True: {False}, False: {True}}
    assert fuse(model) == 0
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    static, plain = (model.generate(**drawing, **options, decoder=decoder) for decoder in ("static", "plain"))
    assert torch.equal(static.sequences, plain.sequences)
    exact = whole.generate(**drawing, **options).logits[0]
    drift = float((static.logits[0] - exact).abs().max() / exact.abs().max())
    assert 0 < drift <= DRIFT[name]
    answer = model.generate(**asking, max_new_tokens=8)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.generate(**drawing, **options).sequences, static.sequences)
    assert torch.equal(loaded.generate(**asking, max_new_tokens=8), answer)


def test_what_a_config_names_is_what_counts():
    named = TorchAoConfig(quantization.Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head"])
    assert quantize_language_model(named).modules_to_not_convert == ["lm_head"]
    assert quantize_language_model({"quant_method": "torchao"})["modules_to_not_convert"] == list(UNQUANTIZED)
    assert quantize_language_model({"load_in_8bit": True})["llm_int8_skip_modules"] == list(UNQUANTIZED)
    assert quantize_language_model(BitsAndBytesConfig(load_in_4bit=True)).llm_int8_skip_modules == list(UNQUANTIZED)


def test_every_part_but_the_language_model_is_named(converted):
    names = {name for name, _ in AutoModel.from_pretrained(converted).named_modules()}
    assert set(UNQUANTIZED) <= names
    children = {name for name in names if name.count(".") == (1 if name.startswith("model.") else 0)} - {"", "model"}
    assert children - set(UNQUANTIZED) == {"model.language_model"}
