"""Properties of decoding: cached == uncached, batched == one by one, an image depends on its own seed, and errors."""

import threading

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoProcessor,
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
)
from transformers.utils import logging

import transformers_wallaroo
from transformers_wallaroo.decode_step_wallaroo import guide
from transformers_wallaroo.decoding_wallaroo import ImagePlan, sample_codes
from transformers_wallaroo.generation_wallaroo import make_generators

from drawing import SIZES, SOURCES, TASKS, Recorder, prepare, run
from reference import GUIDED_LOGITS, LOGITS, assert_close, images, record_forwards


class OnlyCode(LogitsProcessor):
    """Leaves one code, and remembers what it was shown."""

    def __init__(self, code):
        self.code, self.shown = code, []

    def __call__(self, input_ids, scores):
        self.shown.append(input_ids.clone())
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([self.code]), 0.0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("indices", [[0], [0, 1, 2]])
def test_cached_equals_uncached(model, processor, task, guidance_scale, indices):
    """Worst difference of the logits 2.7e-5."""
    inputs = prepare(processor, task, indices)
    with record_forwards(model) as forwards:
        cached = run(model, inputs, guidance_scale=guidance_scale, do_sample=False, decoder="plain")
    assert forwards[-1]["inputs_embeds"].shape[1] <= 2
    with record_forwards(model) as forwards:
        uncached = run(model, inputs, guidance_scale=guidance_scale, do_sample=False, use_cache=False)
    assert forwards[-1]["inputs_embeds"].shape[1] > inputs["input_ids"].shape[1]
    assert torch.equal(cached.sequences, uncached.sequences)
    for index in range(len(indices)):
        steps = cached.codes[index].numel()
        for one, other in zip(cached.logits[:steps], uncached.logits[:steps], strict=True):
            assert_close(one[index], other[index], GUIDED_LOGITS)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("sampling", [{"do_sample": False}, {"seed": [5, 6, 7]}])
def test_batch_equals_one_by_one(model, processor, task, guidance_scale, sampling):
    """Prompts, languages, sizes and sources differ; logits differ by at most 2.9e-5."""
    together = run(model, prepare(processor, task, [0, 1, 2]), guidance_scale=guidance_scale, **sampling)
    for index in range(3):
        own = {"seed": sampling["seed"][index]} if "seed" in sampling else sampling
        alone = run(model, prepare(processor, task, [index]), guidance_scale=guidance_scale, **own)
        assert torch.equal(together.codes[index], alone.codes[0])
        length = alone.sequences.shape[1]
        assert torch.equal(together.sequences[index, :length], alone.sequences[0])
        assert (together.sequences[index, length:] == processor.tokenizer.pad_token_id).all()
        for step, logits in enumerate(alone.logits):
            assert_close(together.logits[step][index], logits[0], GUIDED_LOGITS)


def test_understanding_batch_equals_one_by_one(model, processor):
    questions = ["What is this?", "Compare the two pictures, please.", "Say hello."]
    pictures = [[images(SOURCES[0])], [images(SOURCES[1]), images(SOURCES[2])], None]
    inputs = processor(text=questions, images=pictures, return_tensors="pt")
    together = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
    for index, question in enumerate(questions):
        inputs = processor(text=question, images=pictures[index], return_tensors="pt")
        alone = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)[:, inputs["input_ids"].shape[1] :]
        assert torch.equal(together[index], alone[0])


def test_understanding_cached_equals_uncached(model, processor, picture):
    inputs = processor(text="What is this?", images=picture, return_tensors="pt")
    assert torch.equal(
        model.generate(**inputs, max_new_tokens=8), model.generate(**inputs, max_new_tokens=8, use_cache=False)
    )


def test_understanding_keeps_transformers_own_decoding(model, processor, picture):
    """Beams, several answers a question and a static cache see the picture once for each row; assisted decoding reads
    candidates with the prompt, and several new tokens at once."""
    inputs = processor(text="What is this?", images=picture, return_tensors="pt")
    greedy = model.generate(**inputs, max_new_tokens=6)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, cache_implementation="static"), greedy)
    longer = model.generate(**inputs, max_new_tokens=16)
    for lookup in (2, 7):
        assert torch.equal(model.generate(**inputs, max_new_tokens=16, prompt_lookup_num_tokens=lookup), longer)
    beams = model.generate(**inputs, max_new_tokens=6, num_beams=3, num_return_sequences=2)
    assert beams.shape[0] == 2
    many = model.generate(**inputs, max_new_tokens=6, do_sample=True, top_k=1, num_return_sequences=3)
    assert torch.equal(many, greedy.expand(3, -1))


def test_understanding_with_an_assistant(converted, model, processor, picture):
    """Its answers are the model's own, whether it guesses right or wrong, and it sees the picture."""
    inputs = processor(text="What is this?", images=picture, return_tensors="pt")
    greedy = model.generate(**inputs, max_new_tokens=12)
    right, wrong = (AutoModel.from_pretrained(converted).eval() for _ in range(2))
    with torch.no_grad():
        wrong.lm_head.weight.neg_()
    for assistant in (right, wrong):
        assistant.generation_config.assistant_confidence_threshold = 0.0
        with record_forwards(model) as forwards:
            answer = model.generate(**inputs, task="understand", max_new_tokens=12, assistant_model=assistant)
        assert torch.equal(answer, greedy)
        # All guesses of one that has seen the same are right.
        assert (len(forwards) <= 2) == (assistant is right)


def test_an_assistant_of_another_width_is_refused(model, processor, picture):
    values = model.config.to_dict()
    for part, name in (("text_config", "hidden_size"), ("text_config", "num_attention_heads")):
        values[part][name] *= 2
    values["vision_config"]["out_hidden_size"] *= 2
    assistant = type(model)(type(model.config).from_dict(values))
    inputs = processor(text="What is this?", images=picture, return_tensors="pt")
    expected = r"`assistant_model` has a hidden size of \d+, but .* Take an assistant of the same width"
    if not hasattr(model, "_prepare_multimodal_encoder_kwargs_for_generation"):
        # transformers 5.17 hands an assistant the pixels, so that any width will do.
        answer = model.generate(**inputs, max_new_tokens=4, assistant_model=assistant.eval())
        assert torch.equal(answer, model.generate(**inputs, max_new_tokens=4))
        return
    with pytest.raises(ValueError, match=expected):
        model.generate(**inputs, max_new_tokens=4, assistant_model=assistant)


@pytest.mark.parametrize("task", ["understand", "generate"])
def test_a_quantised_cache(task):
    """transformers' own, by hqq in 8 bits: `wallaroo-tiny` answers and draws as before; images by the plain decoder."""
    pytest.importorskip("hqq", reason="hqq, which quantises caches, is not installed")
    model = AutoModel.from_pretrained(transformers_wallaroo.tiny_path()).eval()
    processor = AutoProcessor.from_pretrained(transformers_wallaroo.tiny_path())
    inputs = processor(text="a red circle", task=task, return_tensors="pt")
    length = {"max_new_tokens": 12} if task == "understand" else {}
    bits = {"backend": "hqq", "nbits": 8, "axis_key": 1, "axis_value": 1, "q_group_size": 32, "residual_length": 8}
    plain, quantised = (
        model.generate(**inputs, **length, **cache, do_sample=False)
        for cache in ({}, {"cache_implementation": "quantized", "cache_config": bits})
    )
    assert torch.equal(quantised, plain)


def test_understanding_compiles_as_a_whole(model, processor, picture):
    """One graph for all steps after the prompt, as transformers compiles them on a GPU; and a compiled `forward`."""
    inputs = processor(text="What is this?", images=picture, return_tensors="pt")
    greedy = model.generate(**inputs, max_new_tokens=6)
    options = CompileConfig(backend="aot_eager", fullgraph=True, mode=None)
    options._compile_all_devices = True
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    try:
        whole = model.generate(**inputs, max_new_tokens=6, cache_implementation="static", compile_config=options)
        assert torch.equal(whole, greedy)
        assert counters["stats"]["unique_graphs"] == 1
    finally:
        torch._dynamo.reset()


def test_a_conversation_goes_on_from_its_cache(model, processor, picture):
    """A second turn on the cache of the first gives what reading everything anew gives."""
    first = processor(text="What is this?", images=picture, return_tensors="pt")
    cache = DynamicCache(config=model.config.text_config)
    answer = model.generate(**first, max_new_tokens=4, past_key_values=cache)
    follow_up = torch.tensor(
        [processor.tokenize("<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n")]
    )
    ids = torch.cat([answer, follow_up], dim=1)
    types = torch.nn.functional.pad(first["mm_token_type_ids"], (0, ids.shape[1] - first["input_ids"].shape[1]))
    inputs = {**first, "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types}
    anew = model.generate(**inputs, max_new_tokens=4)
    for name in ("pixel_values", "image_grid_thw"):
        if name == "pixel_values":
            inputs.pop(name)
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, past_key_values=cache), anew)


def test_forward_step_by_step_on_a_cache(model, processor, picture):
    """`model(...)` called by hand, without positions: the offset found at prefill travels with the cache."""
    inputs = processor(text="What is this?", images=picture, return_tensors="pt")
    cache = DynamicCache(config=model.config.text_config)
    model(**inputs, past_key_values=cache, use_cache=True)
    token = torch.tensor([[7]])
    stepped = model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1]
    ids = torch.cat([inputs["input_ids"], token], dim=1)
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 1))
    whole = {**inputs, "input_ids": ids, "mm_token_type_ids": types, "attention_mask": torch.ones_like(ids)}
    assert_close(stepped, model(**whole).logits[:, -1], LOGITS)


@pytest.mark.parametrize("task", TASKS)
def test_return_sequences_are_the_images_of_their_seeds(model, processor, task):
    """Two prompts, three images each: image `i` is the one of seed `7 + i`."""
    together = run(model, prepare(processor, task, [0, 1]), seed=7, num_return_sequences=3)
    assert len(together.codes) == 6
    for image in range(6):
        alone = run(model, prepare(processor, task, [image // 3]), seed=7 + image)
        assert torch.equal(together.codes[image], alone.codes[0])
    assert not torch.equal(together.codes[0], together.codes[1])


def test_an_image_does_not_depend_on_its_neighbours(model, processor):
    one = run(model, prepare(processor, "generate", [0, 1]), seed=[3, 4])
    other = run(model, prepare(processor, "generate", [2, 0]), seed=[9, 3])
    assert torch.equal(one.codes[0], other.codes[1])


def test_seeds_and_generators(model, processor):
    inputs = prepare(processor, "generate", [0])

    def codes(**kwargs):
        return run(model, inputs, **kwargs).codes[0]

    assert torch.equal(codes(seed=11), codes(seed=11))
    assert torch.equal(codes(seed=11), codes(seed=[11]))
    assert torch.equal(codes(seed=11), codes(generator=[torch.Generator().manual_seed(11)]))
    assert not torch.equal(codes(seed=11), codes(seed=12))
    generator = torch.Generator().manual_seed(1)
    first, second = codes(generator=generator), codes(generator=generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, codes(generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(2)
    first = codes()
    torch.manual_seed(2)
    assert torch.equal(first, codes())


def test_a_seed_of_text_repeats_the_answer_and_leaves_the_global_state(model, processor):
    inputs = processor(text="Say hello.", return_tensors="pt")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    answers = [model.generate(**inputs, max_new_tokens=8, do_sample=True, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(answers[0], answers[1])
    assert answers[0].tolist() != answers[2].tolist()


def test_samples_follow_the_distribution():
    """20 000 draws a row: frequencies within four standard errors of the softmax; masked codes never drawn."""
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf], [0.0, 0.0, 0.0, 3.0, 0.0]])
    generators = [torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)]
    draws = torch.stack([sample_codes(scores, generators) for _ in range(20_000)])
    for row in range(2):
        expected = scores[row].softmax(-1)
        observed = draws[:, row].bincount(minlength=5) / len(draws)
        assert ((observed - expected).abs() <= 4 * (expected * (1 - expected) / len(draws)).sqrt()).all()
        assert observed[expected == 0].sum() == 0


def test_guide():
    conditional, unconditional = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    assert guide(conditional, unconditional, 3.0).tolist() == [[7.0, -1.0]]
    assert torch.equal(guide(conditional, unconditional, 1.0), conditional)


def test_no_guidance_costs_no_second_branch(model, processor):
    inputs = prepare(processor, "edit", [0])
    with record_forwards(model) as forwards:
        run(model, inputs, guidance_scale=1, do_sample=False)
    assert {len(kwargs["inputs_embeds"]) for kwargs in forwards} == {1}
    with record_forwards(model) as forwards:
        run(model, inputs, guidance_scale=2, do_sample=False)
    assert {len(kwargs["inputs_embeds"]) for kwargs in forwards} == {2}
    conditional_only = {name: value for name, value in inputs.items() if not name.startswith("unconditional_")}
    assert run(model, conditional_only, guidance_scale=1, do_sample=False).codes[0].shape == (2, 3)


def test_no_forward_is_spent_on_row_ends(model, processor):
    """6 codes need 6 forwards, the prefill included; a row end rides with the code before it."""
    with record_forwards(model) as forwards:
        run(model, prepare(processor, "generate", [0]), do_sample=False, decoder="plain")
    assert [kwargs["inputs_embeds"].shape[1] for kwargs in forwards[1:]] == [1, 1, 2, 1, 1]


def test_guidance_zero_is_the_unconditional_prompt(model, processor):
    inputs = prepare(processor, "generate", [0], negative_prompt="blurred")
    negative = processor(text="blurred", task="generate", height=32, width=48, return_tensors="pt")
    expected = run(model, negative, guidance_scale=1, do_sample=False)
    assert torch.equal(run(model, inputs, guidance_scale=0, do_sample=False).codes[0], expected.codes[0])


def test_sequences_are_codes_and_row_ends(model, processor):
    out = run(model, prepare(processor, "generate", [0, 1]), seed=1)
    offset, eol = model.config.text_vocab_size, model.config.eol_token_id
    for sequence, codes in zip(out.sequences.tolist(), out.codes, strict=True):
        rows = [[code + offset for code in row] for row in codes.tolist()]
        expected = [token for row in rows for token in [*row, eol]][:-1]
        assert sequence[: len(expected)] == expected
        assert codes.dtype == torch.long
        assert codes.min() >= 0
        assert codes.max() < model.config.vq_config.num_embeddings
    assert torch.equal(model.generate(**prepare(processor, "generate", [0, 1]), seed=1), out.sequences)


def test_decoded_pictures_have_their_own_sizes(model, processor):
    out = run(model, prepare(processor, "generate", [0, 1, 2]), seed=1)
    pictures = processor.post_process_multimodal_output(
        model.decode_image_tokens(out.sequences), generation_mode="image"
    )
    assert [(picture.height, picture.width) for picture in pictures] == SIZES
    for index, codes in enumerate(out.codes):
        pixels = model.model.vq_model.decode(codes[None])[0]
        assert_close(model.decode_image_tokens(out.sequences)[index], pixels, 1e-5)


@pytest.mark.parametrize("repeats", [1, 2])
def test_static_cache_equals_dynamic(model, processor, repeats):
    inputs = prepare(processor, "edit", [0, 1])
    dynamic = run(model, inputs, seed=3, num_return_sequences=repeats)
    static = run(model, inputs, seed=3, num_return_sequences=repeats, cache_implementation="static")
    assert torch.equal(static.sequences, dynamic.sequences)


def test_eager_attention_equals_sdpa(converted, model, processor):
    """Logits differ by at most 2e-5."""
    eager = AutoModel.from_pretrained(converted, attn_implementation="eager")
    inputs = prepare(processor, "edit", [0, 1])
    one, other = (run(each, inputs, do_sample=False) for each in (eager, model))
    assert torch.equal(one.sequences, other.sequences)
    assert_close(one.logits[0], other.logits[0], GUIDED_LOGITS)


def test_two_threads_generate_as_if_alone(model, processor, picture):
    jobs = [
        (prepare(processor, "generate", [0, 1]), {"seed": 1}),
        (prepare(processor, "edit", [1, 2]), {"seed": 2}),
        (processor(text="What is this?", images=picture, return_tensors="pt"), {"max_new_tokens": 12}),
        (
            processor(text=["Hi", "Tell me what you see"], images=[None, picture], return_tensors="pt"),
            {"max_new_tokens": 12},
        ),
    ]
    alone = [model.generate(**inputs, **options) for inputs, options in jobs]
    for _ in range(3):
        together = [None] * len(jobs)
        barrier = threading.Barrier(len(jobs))

        def work(index, results=together, start=barrier):
            inputs, options = jobs[index]
            start.wait()
            results[index] = model.generate(**inputs, **options)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one, other)


def test_bf16_stays_near_fp32(converted, model, processor):
    """First logits: worst difference seen 0.13 of 14 for images and 0.25 of 13.6 for text, allowed 2 % and 3 %."""
    low = AutoModel.from_pretrained(converted, dtype=torch.bfloat16)
    for task in TASKS:
        inputs = prepare(processor, task, [0, 1])
        exact, rounded = (run(each, inputs, guidance_scale=1, do_sample=False).logits[0] for each in (model, low))
        assert rounded.dtype == torch.float32
        assert (exact - rounded).abs().max() <= 0.02 * exact.abs().max()
        assert not torch.equal(exact, rounded)
    inputs = processor(text="What is this?", images=images(SOURCES[0]), return_tensors="pt")
    exact, rounded = model(**inputs).logits, low(**inputs).logits.float()
    assert (exact - rounded).abs().max() <= 0.03 * exact.abs().max()


def test_defaults_of_images_do_not_come_from_the_text_settings(converted, model, processor):
    """The saved generation config is for text; an image is sampled with docs/protocol.md section 8's settings."""
    own = AutoModel.from_pretrained(converted)
    own.generation_config = GenerationConfig(
        do_sample=False, temperature=None, top_k=None, repetition_penalty=1.5, pad_token_id=0, max_new_tokens=3
    )
    inputs = prepare(processor, "generate", [0])
    expected = run(model, inputs, guidance_scale=3.0, do_sample=True, top_k=1000, top_p=1.0, temperature=1.0, seed=4)
    assert torch.equal(run(own, inputs, seed=4).codes[0], expected.codes[0])


def test_a_checkpoint_may_have_image_defaults_of_its_own(converted, processor, tmp_path):
    own = AutoModel.from_pretrained(converted)
    inputs = prepare(processor, "generate", [0])
    expected = {scale: run(own, inputs, guidance_scale=scale, seed=3).codes[0] for scale in (1.5, 3.0)}
    assert not torch.equal(expected[1.5], expected[3.0])
    assert torch.equal(run(own, inputs, seed=3).codes[0], expected[3.0])
    own.generation_config.image_defaults = {"guidance_scale": 1.5}
    own.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(run(loaded, inputs, seed=3).codes[0], expected[1.5])
    assert torch.equal(run(loaded, inputs, seed=3, guidance_scale=3.0).codes[0], expected[3.0])
    loaded.generation_config.image_defaults = {"guidance": 1.5}
    with pytest.raises(ValueError, match=r"`image_defaults` in the checkpoint's generation config .* but has guidance"):
        run(loaded, inputs, seed=3)


def test_a_generation_config_may_be_passed(model, processor):
    inputs = prepare(processor, "generate", [0])
    config = GenerationConfig(do_sample=True, top_k=5, temperature=0.7, max_new_tokens=1)
    expected = run(model, inputs, do_sample=True, top_k=5, temperature=0.7, seed=4)
    assert torch.equal(run(model, inputs, generation_config=config, seed=4).codes[0], expected.codes[0])
    assert config.max_new_tokens == 1
    greedy = run(model, inputs, generation_config=config, do_sample=False)
    assert torch.equal(greedy.codes[0], run(model, inputs, do_sample=False).codes[0])


def test_top_k_one_is_greedy(model, processor):
    inputs = prepare(processor, "edit", [0])
    assert torch.equal(run(model, inputs, top_k=1, seed=1).codes[0], run(model, inputs, do_sample=False).codes[0])


def test_logits_processors_see_codes(model, processor):
    only = OnlyCode(17)
    out = model.generate(
        **prepare(processor, "generate", [0]),
        logits_processor=LogitsProcessorList([only]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert (out.codes[0] == 17).all()
    assert [codes.shape for codes in only.shown] == [(1, step) for step in range(6)]
    assert (only.shown[-1] == 17).all()
    assert len(out.scores) == 6
    assert out.logits is None


def test_streamer_gets_the_prompt_then_codes_and_row_ends(model, processor):
    recorder = Recorder()
    inputs = prepare(processor, "generate", [0])
    sequence = model.generate(**inputs, streamer=recorder, seed=1)
    assert torch.equal(recorder.values[0], inputs["input_ids"])
    assert torch.cat(recorder.values[1:]).tolist() == sequence[0].tolist()
    assert recorder.ended


def test_progress_bar_can_be_turned_on_and_off(model, processor, capsys):
    logging.enable_progress_bar()  # transformers' own switch, which commands of other tests turn off
    inputs = prepare(processor, "generate", [0])
    model.generate(**inputs, seed=1, show_progress=True)
    assert "6/6" in capsys.readouterr().err
    model.generate(**inputs, seed=1, show_progress=False)
    model.generate(**inputs, seed=1)  # no terminal here
    assert capsys.readouterr().err == ""


def test_without_row_ends(model, processor):
    """Stages 1 to 3a: square images, no row ends in prompt, cache or output."""
    inputs = processor(text="a cat", task="generate", height=48, width=48, return_tensors="pt")
    out = run(model, inputs, seed=1, row_ends=False)
    assert out.sequences.tolist() == (out.codes[0].flatten() + model.config.text_vocab_size)[None].tolist()
    assert model.decode_image_tokens(out.sequences, row_ends=False)[0].shape == (3, 48, 48)
    assert not torch.equal(out.codes[0], run(model, inputs, seed=1).codes[0])


def test_plan():
    plan = ImagePlan(((2, 3), (3, 2)), True)
    assert plan.mixes_widths
    assert plan.num_codes == 6
    assert plan.row_end_after(1) == [False, True]
    assert plan.row_end_after(2) == [True, False]
    assert plan.row_end_after(5) == [None, None]
    assert plan.fed_positions() == 5 + 3
    assert ImagePlan(((2, 3), (2, 3)), True).fed_positions() == 5 + 1
    assert not ImagePlan(((2, 3), (4, 3)), True).mixes_widths
    assert ImagePlan(((2, 3), (3, 2)), False).fed_positions() == 5


def test_make_generators_defaults_to_the_global_state():
    torch.manual_seed(3)
    seeds = [generator.initial_seed() for generator in make_generators(None, None, 3, torch.device("cpu"))]
    assert len(set(seeds)) == 3


def test_an_explicit_task_is_enough(model, processor):
    inputs = prepare(processor, "generate", [0])
    expected = run(model, inputs, seed=1).codes[0]
    inputs.pop("task_ids")
    assert torch.equal(run(model, inputs, task="generate", seed=1).codes[0], expected)
    with pytest.raises(ValueError, match="The task 'edit' needs `source_pixel_values`, `source_grid`"):
        model.generate(**inputs, task="edit")


def test_an_empty_cache_may_be_passed(model, processor):
    inputs = prepare(processor, "generate", [0])
    expected = run(model, inputs, seed=1).codes[0]
    for cache in (DynamicCache(), DynamicCache(config=model.config.text_config)):
        assert torch.equal(run(model, inputs, seed=1, past_key_values=cache).codes[0], expected)


def test_repetition_penalty_counts_codes(model, processor):
    """With guidance as without; a huge one keeps codes from coming twice."""
    inputs = prepare(processor, "generate", [2])
    for guidance_scale in (1.0, 3.0):
        codes = run(model, inputs, do_sample=False, guidance_scale=guidance_scale, repetition_penalty=1e6).codes[0]
        assert codes.unique().numel() == codes.numel()


def test_numbers_of_numpy_are_numbers(model, processor):
    inputs = prepare(processor, "generate", [0])
    expected = run(model, inputs, seed=2, guidance_scale=2.0).codes[0]
    found = run(model, inputs, seed=np.int64(2), guidance_scale=np.float32(2), num_return_sequences=np.int64(1))
    assert torch.equal(found.codes[0], expected)
    assert torch.equal(run(model, inputs, seed=torch.tensor(2), guidance_scale=2.0).codes[0], expected)


def test_one_sequence_or_picture_by_itself(model, processor):
    sequences = model.generate(**prepare(processor, "generate", [0]), seed=1)
    [pixels] = model.decode_image_tokens(sequences[0])
    [picture] = processor.post_process_multimodal_output(pixels, generation_mode="image")
    assert picture.size == (48, 32)


def test_one_row(model, processor):
    """Four codes in a row are no square of 2 x 2."""
    out = run(model, processor(text="a", task="generate", height=16, width=64, return_tensors="pt"), seed=1)
    assert out.codes[0].shape == (1, 4)
    assert model.decode_image_tokens(out.sequences)[0].shape == (3, 16, 64)


class TestErrors:
    def test_without_row_ends_an_image_is_a_square(self, model, processor):
        with pytest.raises(ValueError, match="`target_grid` asks for an image of 2 x 3 cells, but without row ends"):
            model.generate(**prepare(processor, "generate", [0]), row_ends=False)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"task": "draw"}, "`task` must be one of 'understand', 'generate', 'edit', but got 'draw'"),
            ({"task": "edit"}, "`task` is 'edit', but the inputs were prepared for 'generate'"),
            ({"task": "understand"}, "`task` is 'understand', but the inputs were prepared for 'generate'"),
            ({"generation_mode": "text"}, "`generation_mode` is 'text'"),
            ({"max_new_tokens": 5}, "`max_new_tokens` is not for the task 'generate'.*`height` and `width`"),
            ({"max_length": 5}, "`max_length` is not for the task 'generate'"),
            ({"stopping_criteria": [1]}, "`stopping_criteria` is not for the task 'generate': an image is made whole"),
            ({"output_hidden_states": True}, "`output_hidden_states` is not for the task 'generate'"),
            ({"num_beams": 2}, "`num_beams` must be 1"),
            ({"guidance_scale": -1}, "`guidance_scale` must be a number of at least 0, but got -1"),
            ({"guidance_scale": float("nan")}, "`guidance_scale` must be a number"),
            ({"guidance_scale": "3"}, "`guidance_scale` must be a number of at least 0, but got '3'"),
            ({"num_return_sequences": 0}, "`num_return_sequences` must be a positive int, but got 0"),
            ({"seed": [1, 2]}, "`seed` must be one for all or one an image, but got 2 for 1 images"),
            ({"generator": [torch.Generator()] * 3}, "`generator` must be one for all or one an image, but got 3"),
            ({"seed": 1, "generator": torch.Generator()}, "`seed` or `generator`, not both"),
            ({"seed": "a"}, "`seed` must be an int, or a list of one int an image, but got 'a'"),
            ({"seed": 1.5}, "`seed` must be an int, or a list of one int an image, but got 1.5"),
            ({"unknown_option": 1}, "unknown_option"),
        ],
    )
    def test_options(self, model, processor, options, message):
        with pytest.raises(ValueError, match=message):
            model.generate(**prepare(processor, "generate", [0]), **options)

    def test_generator_is_not_for_text(self, model, processor):
        inputs = processor(text="Hi", return_tensors="pt")
        with pytest.raises(ValueError, match="`generator` is for images"):
            model.generate(**inputs, generator=torch.Generator())
        with pytest.raises(ValueError, match=r"`seed` must be an int for text, but got \[1\]"):
            model.generate(**inputs, seed=[1])

    def test_text_inputs_are_not_for_images(self, model, processor):
        inputs = processor(text="Hi", return_tensors="pt")
        with pytest.raises(ValueError, match=r"prepared for 'understand'.*task='generate'"):
            model.generate(**inputs, task="generate")
        with pytest.raises(ValueError, match=r"`generation_mode` is 'image'.*`task='generate'` or `task='edit'`"):
            model.generate(**inputs, generation_mode="image")

    @pytest.mark.parametrize("name", ["input_ids", "mm_token_type_ids", "target_grid"])
    def test_missing_inputs(self, model, processor, name):
        inputs = prepare(processor, "generate", [0])
        inputs.pop(name)
        with pytest.raises(ValueError, match=f"The task 'generate' needs `{name}`"):
            model.generate(**inputs)

    def test_missing_source(self, model, processor):
        inputs = prepare(processor, "edit", [0])
        inputs.pop("source_pixel_values")
        with pytest.raises(ValueError, match="The task 'edit' needs `source_pixel_values`"):
            model.generate(**inputs)

    def test_missing_unconditional_prompt(self, model, processor):
        inputs = prepare(processor, "generate", [0])
        inputs.pop("unconditional_input_ids")
        with pytest.raises(ValueError, match=r"no unconditional prompt.*guidance_scale=1"):
            model.generate(**inputs)

    def test_several_prompts_need_their_mask(self, model, processor):
        inputs = prepare(processor, "generate", [0, 1])
        inputs.pop("attention_mask")
        with pytest.raises(ValueError, match="`attention_mask` is needed for more than one prompt"):
            model.generate(**inputs)

    def test_right_padding(self, model, processor):
        inputs = prepare(processor, "generate", [0, 1])
        inputs["attention_mask"] = inputs["attention_mask"].flip(1)
        with pytest.raises(ValueError, match="padded at the right"):
            model.generate(**inputs)

    def test_beyond_the_positions(self, model, processor):
        inputs = prepare(processor, "generate", [0])
        inputs["target_grid"] = torch.tensor([[200, 200]])
        with pytest.raises(ValueError, match=r"image of 200 x 200 cells need .* the model has 32768"):
            model.generate(**inputs)

    def test_beyond_the_cache(self, model, processor):
        inputs = prepare(processor, "generate", [0])
        cache = StaticCache(config=model.config.text_config, max_cache_len=20)
        with pytest.raises(ValueError, match="`past_key_values` holds 20 positions, but the prompt and the image need"):
            model.generate(**inputs, past_key_values=cache)

    def test_used_cache(self, model, processor):
        cache = DynamicCache(config=model.config.text_config)
        model(**processor(text="Hi", return_tensors="pt"), past_key_values=cache, use_cache=True)
        with pytest.raises(ValueError, match="`past_key_values` must be empty"):
            model.generate(**prepare(processor, "generate", [0]), past_key_values=cache)

    def test_sources_missing_from_a_mixed_batch(self, model, processor):
        inputs = prepare(processor, "generate", [0, 1])
        inputs["task_ids"] = torch.tensor([1, 2])
        with pytest.raises(ValueError, match="The task 'edit' needs `source_pixel_values`, `source_grid`"):
            model.generate(**inputs)

    def test_mixed_tasks(self, model, processor):
        inputs = prepare(processor, "generate", [0, 1])
        inputs["task_ids"] = torch.tensor([0, 1])
        with pytest.raises(ValueError, match="mix 'understand' with tasks that make images; call `generate` once for"):
            model.generate(**inputs)

    def test_cut_sequences_are_not_decoded(self, model, processor):
        sequences = model.generate(**prepare(processor, "generate", [0]), seed=1)
        with pytest.raises(ValueError, match=r"rows of \[2, 3\] codes.*cut"):
            model.decode_image_tokens(sequences[:, :-1])
        with pytest.raises(ValueError, match="largest code"):
            model.decode_image_tokens(sequences + 1000)
