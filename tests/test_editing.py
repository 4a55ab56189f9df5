"""Edits that keep what they should: guidance by the source apart from the instruction, regions, the original size."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, LogitsProcessor, LogitsProcessorList

from transformers_wallaroo import step_runners_wallaroo
from transformers_wallaroo.decode_step_wallaroo import Guidance, decode_step, guide
from transformers_wallaroo.decoding_wallaroo import TO_DRAW, ImagePlan, next_codes, sample_codes
from transformers_wallaroo.generation_wallaroo import CONDITIONAL, IMAGE_ONLY, UNCONDITIONAL, plan_guidance

from drawing import PROMPTS, SIZES, SOURCES, Recorder, assert_same, prepare, run
from reference import GUIDED_LOGITS, assert_close, images, record_forwards

THREE = {"guidance_scale": 3.0, "image_guidance_scale": 1.5}


class Write(LogitsProcessor):
    """Leaves the codes of a list, in order, where they are not `TO_DRAW`."""

    def __init__(self, codes):
        self.codes = codes.flatten()

    def __call__(self, input_ids, scores):
        code = int(self.codes[input_ids.shape[1]])
        return scores if code == TO_DRAW else torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor(code), 0.0)


def write(model, inputs, codes, **kwargs):
    """A run of one image that writes these codes, as far as they are given; the unguided logits are as they are."""
    return run(model, inputs, do_sample=False, logits_processor=LogitsProcessorList([Write(codes)]), **kwargs)


def codes_of_sources(model, inputs):
    """The codes of the sources, `(grid_height, grid_width)` each."""
    codes, _ = model.model.encode_images(inputs["source_pixel_values"], inputs["source_grid"])
    return [each.view(*grid) for each, grid in zip(codes, inputs["source_grid"].tolist(), strict=True)]


def masks_of(indices, seed, share=0.5):
    """Random masks of the images to be made, whole cells white or black."""
    random = np.random.default_rng(seed)
    cells = [random.random((height // 16, width // 16)) < share for height, width in (SIZES[i] for i in indices)]
    return cells, [each.repeat(16, axis=0).repeat(16, axis=1) for each in cells]


class TestGuidance:
    @pytest.mark.parametrize(
        ("scales", "guidance", "branches"),
        [
            ((3.0, None), Guidance(3.0), (CONDITIONAL, UNCONDITIONAL)),
            ((1, None), Guidance(1), (CONDITIONAL,)),
            ((3.0, 3.0), Guidance(3.0), (CONDITIONAL, UNCONDITIONAL)),
            ((1.0, 1.0), Guidance(1.0), (CONDITIONAL,)),
            ((3.0, 1.0), Guidance(3.0), (CONDITIONAL, IMAGE_ONLY)),
            ((0, 1.5), Guidance(1.5), (IMAGE_ONLY, UNCONDITIONAL)),
            ((0, 1.0), Guidance(1.0), (IMAGE_ONLY,)),
            ((0, 0.0), Guidance(0), (CONDITIONAL, UNCONDITIONAL)),
            ((3.0, 1.5), Guidance(3.0, 1.5), (CONDITIONAL, IMAGE_ONLY, UNCONDITIONAL)),
            ((1.0, 1.5), Guidance(1.0, 1.5), (CONDITIONAL, IMAGE_ONLY, UNCONDITIONAL)),
        ],
    )
    def test_branches(self, scales, guidance, branches):
        """As few as algebra allows, and what they give is the formula."""
        assert plan_guidance(*scales) == (guidance, branches)
        assert guidance.num_branches() == len(branches)
        logits = dict(zip((CONDITIONAL, IMAGE_ONLY, UNCONDITIONAL), torch.randn(3, 2, 5), strict=True))
        full, image, none = logits.values()
        scale, image_scale = scales[0], scales[0] if scales[1] is None else scales[1]
        expected = none + image_scale * (image - none) + scale * (full - image)
        assert_close(guidance.apply(torch.stack([logits[branch] for branch in branches])), expected, 1e-5)

    def test_two_branches_are_computed_as_ever(self):
        logits = torch.randn(2, 3, 7)
        assert torch.equal(Guidance(3.0).apply(logits), guide(logits[0], logits[1], 3.0))

    @pytest.mark.parametrize("decoder", ["plain", "static"])
    def test_the_formula_holds_at_every_step(self, model, processor, decoder):
        """Against three calls of one branch each, which write the same codes. Worst difference of the logits 5e-5."""
        picture = images(SOURCES[0])
        black = Image.new("RGB", picture.size)
        size = {"task": "edit", "height": 32, "width": 48, "return_tensors": "pt"}
        inputs = processor(picture, "a red fox", negative_prompt="blurred", **size)
        guided = run(model, inputs, do_sample=False, decoder=decoder, **THREE)
        full, image, none = (
            torch.cat(write(model, processor(*prompt, **size), guided.codes[0], guidance_scale=1).logits)
            for prompt in ((picture, "a red fox"), (picture, "blurred"), (black, "blurred"))
        )
        expected = none + 1.5 * (image - none) + 3.0 * (full - image)
        assert_close(torch.cat(guided.logits), expected, GUIDED_LOGITS)
        assert (full - image).abs().max() > 0.1 and (image - none).abs().max() > 0.1

    def test_equal_scales_are_ordinary_guidance(self, model, processor):
        inputs = prepare(processor, "edit", [0, 1])
        ordinary = run(model, inputs, guidance_scale=3.0, do_sample=False)
        equal = run(model, inputs, guidance_scale=3.0, image_guidance_scale=3.0, do_sample=False)
        assert_same(equal, ordinary, exactly=True)
        nearly = run(model, inputs, guidance_scale=3.0, image_guidance_scale=3.0 + 1e-6, do_sample=False)
        assert_same(nearly, ordinary)

    @pytest.mark.parametrize("options", [{"do_sample": False}, {"seed": [5, 6, 7]}])
    def test_batch_equals_one_by_one(self, model, processor, options):
        together = run(model, prepare(processor, "edit", [0, 1, 2]), **THREE, **options)
        for index in range(3):
            own = {"seed": options["seed"][index]} if "seed" in options else options
            alone = run(model, prepare(processor, "edit", [index]), **THREE, **own)
            assert torch.equal(together.codes[index], alone.codes[0])

    def test_the_ways_to_compute_a_step_agree(self, model, processor, monkeypatch):
        inputs = prepare(processor, "edit", [0, 1, 2])
        plain = run(model, inputs, decoder="plain", do_sample=False, **THREE)
        assert_same(run(model, inputs, decoder="static", do_sample=False, **THREE), plain)
        torch._dynamo.reset()
        step = torch.compile(decode_step, backend="aot_eager", fullgraph=True)
        monkeypatch.setattr(step_runners_wallaroo, "_compiled_step", lambda _: step)
        assert_same(run(model, inputs, decoder="compiled", do_sample=False, **THREE), plain)
        torch._dynamo.reset()
        for window in (1, 16):
            fast = model.generate(**inputs, do_sample=False, speculative_window=window, **THREE)
            assert torch.equal(fast, plain.sequences)

    @pytest.mark.parametrize("scales", [THREE, {"guidance_scale": 2.0, "image_guidance_scale": 1.0}])
    def test_pictures_to_draw_in_the_same_batch(self, model, processor, scales):
        """They have no source: theirs is ordinary guidance."""
        tasks = ["edit", "generate", "edit"]
        pictures = [images(source) if task == "edit" else None for source, task in zip(SOURCES, tasks, strict=True)]
        heights, widths = zip(*SIZES, strict=True)
        inputs = processor(pictures, PROMPTS, task=tasks, height=heights, width=widths, return_tensors="pt")
        together = run(model, inputs, seed=[3, 4, 5], **scales)
        for index, task in enumerate(tasks):
            own = scales if task == "edit" else {"guidance_scale": scales["guidance_scale"]}
            alone = run(model, prepare(processor, task, [index]), seed=3 + index, **own)
            assert torch.equal(together.codes[index], alone.codes[0])

    def test_equal_prompts_and_sources_are_read_once(self, model, processor, monkeypatch):
        """Three edits of one picture and a drawing: seven prompts of twelve, and two sources."""
        seen = []
        encode = model.model.vq_model.encode
        monkeypatch.setattr(model.model.vq_model, "encode", lambda pixels: seen.append(len(pixels)) or encode(pixels))
        prompts = [*PROMPTS, "a lamp"]
        inputs = processor(
            [*[images(SOURCES[0])] * 3, None],
            prompts,
            task=["edit"] * 3 + ["generate"],
            template="{prompt}",
            height=32,
            width=32,
            return_tensors="pt",
        )
        with record_forwards(model) as forwards:
            run(model, inputs, seed=1, **THREE)
        assert [len(kwargs["inputs_embeds"]) for kwargs in forwards] == [3 + 1 + 1 + 2]
        assert sum(seen) == 2

    @pytest.mark.parametrize(("scales", "rows"), [((3.0, 1.5), 3), ((3.0, 1.0), 2), ((1.0, 1.0), 1), ((0, 1.0), 1)])
    def test_branches_that_count_nothing_are_not_run(self, model, processor, scales, rows):
        inputs = prepare(processor, "edit", [0])
        with record_forwards(model) as forwards:
            run(model, inputs, guidance_scale=scales[0], image_guidance_scale=scales[1], do_sample=False)
        assert {len(kwargs["inputs_embeds"]) for kwargs in forwards} == {rows}

    def test_the_streamer_gets_the_instruction(self, model, processor):
        """Also where no branch reads it."""
        recorder = Recorder()
        inputs = prepare(processor, "edit", [0])
        model.generate(**inputs, streamer=recorder, guidance_scale=0, image_guidance_scale=1, seed=1)
        assert torch.equal(recorder.values[0], inputs["input_ids"])

    def test_a_default_of_the_checkpoint_is_for_edits(self, converted, model, processor):
        own = AutoModel.from_pretrained(converted)
        own.generation_config.image_defaults = {"image_guidance_scale": 1.5}
        for task, scales in (("edit", THREE), ("generate", {"guidance_scale": 3.0})):
            inputs = prepare(processor, task, [0])
            assert torch.equal(run(own, inputs, seed=2).codes[0], run(model, inputs, seed=2, **scales).codes[0])

    @pytest.mark.parametrize(
        ("task", "scale", "message"),
        [
            ("edit", -1, "`image_guidance_scale` must be a number of at least 0, but got -1"),
            ("edit", "2", "`image_guidance_scale` must be a number of at least 0, but got '2'"),
            ("edit", float("inf"), "`image_guidance_scale` must be a number of at least 0, but got inf"),
            ("edit", True, "`image_guidance_scale` must be a number of at least 0, but got True"),
            ("generate", 1.5, "`image_guidance_scale` is for the task 'edit'"),
        ],
    )
    def test_bad_scales(self, model, processor, task, scale, message):
        with pytest.raises(ValueError, match=message):
            model.generate(**prepare(processor, task, [0]), image_guidance_scale=scale)

    def test_it_needs_the_unconditional_prompt(self, model, processor):
        inputs = prepare(processor, "edit", [0])
        inputs.pop("unconditional_input_ids")
        with pytest.raises(ValueError, match="no unconditional prompt"):
            model.generate(**inputs, guidance_scale=1, image_guidance_scale=1.5)


class TestRegions:
    @pytest.mark.parametrize("options", [{"decoder": "plain"}, {"decoder": "static"}, {"speculative_window": 4}])
    def test_what_is_outside_stays(self, model, processor, options):
        """Random masks of pictures of three sizes: outside the codes are the source's, and inside not all are."""
        changed = 0
        for seed in range(4):
            cells, masks = masks_of([0, 1, 2], seed, share=(0.2, 0.5, 0.5, 0.8)[seed])
            inputs = prepare(processor, "edit", [0, 1, 2], region_mask=masks)
            out = model.generate(**inputs, seed=seed, return_dict_in_generate=True, **options)
            for found, source, drawn in zip(out.codes, codes_of_sources(model, inputs), cells, strict=True):
                drawn = torch.from_numpy(drawn)
                assert torch.equal(found[~drawn], source[~drawn])
                changed += int((found[drawn] != source[drawn]).sum())
        assert changed > 30

    @pytest.mark.parametrize("options", [{"decoder": "plain"}, {"decoder": "static"}])
    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_what_is_inside_follows_what_is_outside(self, model, processor, options, index):
        """The logits are those of an image whose codes outside were written by hand."""
        for seed in range(2):
            [cells], masks = masks_of([index], seed)
            inputs = prepare(processor, "edit", [index], region_mask=masks)
            [source] = codes_of_sources(model, inputs)
            found = run(model, inputs, do_sample=False, **options)
            inputs.pop("region_mask")
            given = torch.where(torch.from_numpy(cells), TO_DRAW, source)
            assert_same(write(model, inputs, given, **options), found)

    @pytest.mark.parametrize("options", [{"decoder": "plain"}, {"decoder": "static"}])
    @pytest.mark.parametrize("sampling", [{"do_sample": False}, {"seed": 3, "num_return_sequences": 2}])
    def test_all_white_is_no_mask(self, model, processor, options, sampling):
        whites = [np.ones(SIZES[index], dtype=bool) for index in range(3)]
        masked = run(model, prepare(processor, "edit", [0, 1, 2], region_mask=whites), **options, **sampling)
        assert_same(masked, run(model, prepare(processor, "edit", [0, 1, 2]), **options, **sampling), exactly=True)

    def test_all_white_is_no_mask_for_guesses_either(self, model, processor):
        whites = [np.ones(SIZES[index], dtype=bool) for index in range(3)]
        options = {"speculative_window": 3, "seed": 3, "return_dict_in_generate": True}
        masked = model.generate(**prepare(processor, "edit", [0, 1, 2], region_mask=whites), **options)
        plain = model.generate(**prepare(processor, "edit", [0, 1, 2]), **options)
        assert torch.equal(masked.sequences, plain.sequences)
        assert torch.equal(masked.num_forwards, plain.num_forwards)

    def test_all_black_is_the_source_again(self, model, processor):
        blacks = [Image.new("L", SIZES[index][::-1]) for index in range(3)]
        inputs = prepare(processor, "edit", [0, 1, 2], region_mask=blacks)
        pixels = model.decode_image_tokens(model.generate(**inputs, seed=1))
        for index, (height, width) in enumerate(SIZES):
            source = inputs["source_pixel_values"][index : index + 1, :, :height, :width]
            assert_close(pixels[index], model.model.vq_model(source)[0], 1e-5)

    def test_masked_and_unmasked_edits_and_drawings_in_one_batch(self, model, processor):
        """Each is what it is alone: codes that are given cost its neighbours no random number, nor itself."""
        tasks, whole = ["edit", "generate", "edit"], [None, None, None]
        pictures = [images(source) if task == "edit" else None for source, task in zip(SOURCES, tasks, strict=True)]
        heights, widths = zip(*SIZES, strict=True)
        [cells], [mask] = masks_of([2], 1)
        for masks in (whole, [None, None, mask]):
            inputs = processor(
                pictures, PROMPTS, task=tasks, height=heights, width=widths, region_mask=masks, return_tensors="pt"
            )
            assert ("region_mask" in inputs) == (masks is not whole)
            together = run(model, inputs, seed=[3, 4, 5], num_return_sequences=1)
            for index, task in enumerate(tasks):
                own = {} if masks[index] is None else {"region_mask": mask}
                alone = run(model, prepare(processor, task, [index], **own), seed=3 + index)
                assert torch.equal(together.codes[index], alone.codes[0])
        assert inputs["region_mask"].dtype == torch.bool
        assert inputs["region_mask"][2, : len(cells), : cells.shape[1]].tolist() == cells.tolist()

    def test_images_of_one_prompt_have_its_region(self, model, processor):
        cells, masks = masks_of([0, 1], 4, share=0.8)
        inputs = prepare(processor, "edit", [0, 1], region_mask=masks)
        out = run(model, inputs, seed=1, num_return_sequences=2, **THREE)
        sources = codes_of_sources(model, inputs)
        for image, codes in enumerate(out.codes):
            drawn = torch.from_numpy(cells[image // 2])
            assert torch.equal(codes[~drawn], sources[image // 2][~drawn])
        assert not torch.equal(out.codes[2], out.codes[3])

    def test_sources_that_are_equal(self, model, processor):
        """They are encoded once, and each prompt keeps its own cells of them."""
        cells, masks = masks_of([2, 2, 2], 6)
        inputs = processor(
            [images(SOURCES[0]), images(SOURCES[1]), images(SOURCES[0])],
            [PROMPTS[0], PROMPTS[0], PROMPTS[0]],
            task="edit",
            height=48,
            width=48,
            region_mask=masks,
            return_tensors="pt",
        )
        out = run(model, inputs, seed=1)
        for codes, source, drawn in zip(out.codes, codes_of_sources(model, inputs), cells, strict=True):
            drawn = torch.from_numpy(drawn)
            assert torch.equal(codes[~drawn], source[~drawn])

    @pytest.mark.parametrize("window", [1, 3, 16])
    def test_guesses_and_what_is_given(self, model, processor, window):
        """Greedy codes are plain decoding's; what is given is never guessed wrong."""
        _, masks = masks_of([0, 1, 2], 2)
        inputs = prepare(processor, "edit", [0, 1, 2], region_mask=masks)
        plain = run(model, inputs, do_sample=False)
        fast = model.generate(**inputs, do_sample=False, speculative_window=window, return_dict_in_generate=True)
        assert torch.equal(fast.sequences, plain.sequences)
        assert (fast.num_forwards <= plain.num_forwards).all()
        blacks = [np.zeros(SIZES[index], dtype=bool) for index in range(3)]
        inputs = prepare(processor, "edit", [0, 1, 2], region_mask=blacks)
        given = model.generate(**inputs, seed=1, speculative_window=window, return_dict_in_generate=True)
        # The prompt gives the first code, each forward the guesses and one more.
        codes = torch.tensor([height * width // 256 for height, width in SIZES])
        assert given.num_forwards.tolist() == (1 + (codes - 1 + window) // (window + 1)).tolist()

    def test_the_streamer_gets_all_codes(self, model, processor):
        _, masks = masks_of([0], 3)
        recorder = Recorder()
        sequence = model.generate(
            **prepare(processor, "edit", [0], region_mask=masks), streamer=recorder, seed=1, show_progress=False
        )
        assert torch.cat(recorder.values[1:]).tolist() == sequence[0].tolist()

    def test_given_codes_cost_no_random_numbers(self):
        given = torch.tensor([[TO_DRAW, 3, TO_DRAW], [5, TO_DRAW, TO_DRAW]])
        plan = ImagePlan(((1, 3), (1, 3)), True, given)
        scores = torch.randn(3, 2, 9)
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        codes = torch.stack([next_codes(plan, code, scores[code], generators) for code in range(3)], dim=1)
        for row, places in enumerate(([0, 2], [1, 2])):
            alone = torch.Generator().manual_seed(row + 1)
            drawn = [int(sample_codes(scores[place, row][None], [alone])) for place in places]
            assert codes[row, places].tolist() == drawn
        assert codes[0, 1] == 3 and codes[1, 0] == 5
        assert given[1].tolist() == [5, TO_DRAW, TO_DRAW]

    def test_bad_cells(self, model, processor):
        inputs = prepare(processor, "edit", [0])
        for cells in (torch.ones(2, 3), torch.ones(1, 2, 2), torch.ones(2, 2, 3)):
            with pytest.raises(
                ValueError, match=r"`region_mask` must be cells of shape .* images of \[\(2, 3\)\] cells, but got"
            ):
                model.generate(**inputs, region_mask=cells.bool())
        with pytest.raises(ValueError, match="`region_mask` keeps cells of prompt 0, but that has no source of 2 x 3"):
            model.generate(**prepare(processor, "generate", [0]), region_mask=torch.zeros(1, 2, 3).bool())

    def test_a_region_does_not_disturb_a_forward(self, model, processor):
        _, masks = masks_of([0], 3)
        plain = prepare(processor, "edit", [0])
        masked = prepare(processor, "edit", [0], region_mask=masks)
        assert torch.equal(model(**masked).logits, model(**plain).logits)


class TestOriginalSize:
    def test_an_edit_comes_back_in_its_own_size(self, model, processor, picture, other):
        """Two of a batch, of which one is as made; two images a prompt."""
        inputs = processor(
            [picture, other],
            PROMPTS[:2],
            task="edit",
            height=32,
            width=48,
            original_size=[True, False],
            return_tensors="pt",
        )
        assert inputs["original_sizes"].tolist() == [[picture.height, picture.width], [32, 48]]
        pixels = model.decode_image_tokens(model.generate(**inputs, seed=1, num_return_sequences=2))
        pictures = processor.post_process_multimodal_output(
            pixels, generation_mode="image", sizes=inputs["original_sizes"]
        )
        assert [each.size for each in pictures] == [picture.size] * 2 + [(48, 32)] * 2
        assert processor.post_process_multimodal_output(pixels, generation_mode="image")[0].size == (48, 32)
        with pytest.raises(ValueError, match=r"`sizes` must be one an image, .* but got 3 for 4 images"):
            processor.post_process_multimodal_output(pixels, generation_mode="image", sizes=[(1, 1)] * 3)

    def test_without_it_nothing_is_different(self, processor, picture):
        arguments = {"images": picture, "text": "a", "task": "edit", "height": 32, "width": 48, "return_tensors": "pt"}
        plain, asked = processor(**arguments), processor(**arguments, original_size=False)
        assert set(plain) == set(asked)
        assert all(torch.equal(plain[name], asked[name]) for name in plain)

    def test_the_tokenizer_sees_the_whole_source(self, processor):
        """A frame that cropping would take away."""
        framed = Image.new("RGB", (96, 32), "white")
        framed.paste("black", (16, 0, 80, 32))
        seen = {}
        for asked in (True, False):
            inputs = processor(framed, "a", task="edit", height=32, width=32, original_size=asked, return_tensors="pt")
            seen[asked] = inputs["source_pixel_values"][0, 0]
        assert seen[True][:, 0].min() > 0.9 and seen[True][:, -1].min() > 0.9 and seen[True][:, 16].max() < -0.9
        assert seen[False].max() < -0.9
