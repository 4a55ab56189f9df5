"""Samples to batches, and the losses and gradients that batches give (docs/protocol.md sections 4 to 7 and 12)."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel

from transformers_wallaroo import WallarooDataCollator, WallarooProcessor
from transformers_wallaroo.image_grid_wallaroo import TokenType
from transformers_wallaroo.prompts_wallaroo import TEMPLATES

from reference import LOSSES, assert_same

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
ASSISTANT = "<|im_start|>assistant\n"
PAD, CODE, ROW_END = "<|image_pad|>", "<|generate_image_pad|>", "<|end_of_line>|"
TEMPLATE = "{prompt} at {target_w}x{target_h}"
IGNORED = -100
# Only these modules learn from a task; the language model, its embeddings and its head always do.
LEARNING = {
    "understand": {"visual"},
    "generate": {"generation_adapter", "generation_head"},
    "edit": {"visual", "source_adapter", "editing_adapter", "editing_head"},
}
ALWAYS = {"language_model", "lm_head"}


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def vision(tokens):
    return f"<|vision_start|>{PAD * tokens}<|vision_end|>"


def drawing(**changes):
    """A sample of `generate`: 2 x 3 cells."""
    sample = {"task": "generate", "prompt": "a cat", "image": noise(70, 90), "height": 32, "width": 48}
    return {**sample, "template": TEMPLATE, **changes}


def edit(**changes):
    """A sample of `edit`: 2 x 3 cells; the vision tower sees 112 x 140 pixels of the source, 20 tokens."""
    sample = {"task": "edit", "prompt": "make it blue", "image": noise(70, 90, 1), "source_image": noise(100, 150, 2)}
    return {**sample, "height": 32, "width": 48, "template": TEMPLATE, **changes}


def question(text="What is it?", answer="A cat.", images=None):
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"task": "understand", "messages": messages, "images": images}


@pytest.fixture
def collate(processor):
    """A collator without chance: nothing hidden, nothing dropped, templates as the samples say."""
    return WallarooDataCollator(processor, mask_ratio=0, unconditional_probability=0)


@pytest.fixture(scope="module")
def trained(converted):
    """A model of this module's own, for its gradients."""
    return AutoModel.from_pretrained(converted).train()


def ids_of(processor, text):
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def expected_labels(ids, start):
    return [IGNORED] * start + ids[start:]


def text_of(collate, sample):
    return collate.processor.tokenizer.decode(collate.encode(sample).ids)


# ---------------------------------------------------------------------- one sample of each task


def test_generate_sample_has_labels_and_types_at_exact_positions(collate, processor):
    batch = collate([drawing()])
    text = (
        f"{SYSTEM}<|im_start|>user\na cat at 48x32 <indicator:32><indicator:48><|im_end|>\n{ASSISTANT}"
        f"<|generate_start|>{CODE * 3}{ROW_END}{CODE * 3}<|generate_end|><|im_end|>\n"
    )
    ids = ids_of(processor, text)
    start = ids.index(processor.tokenizer.convert_tokens_to_ids("<|generate_start|>"))
    assert len(ids) == start + 1 + 7 + 3
    assert batch["input_ids"].tolist() == [ids]
    assert batch["labels"].tolist() == [expected_labels(ids, start)]
    codes = range(start + 1, start + 8)
    types = [TokenType.GENERATED_CODE * (index in codes and index != start + 4) for index in range(len(ids))]
    assert batch["mm_token_type_ids"].tolist() == [types]
    assert batch["attention_mask"].tolist() == [[1] * len(ids)]
    assert batch["task_ids"].tolist() == [1]
    assert batch["target_grid"].tolist() == [[2, 3]]
    pixels, _ = processor.image_processor.preprocess_cells([noise(70, 90)], [(32, 48)])
    assert torch.equal(batch["target_pixel_values"], torch.from_numpy(pixels))
    assert set(batch) == {
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
        "labels",
        "task_ids",
        "target_pixel_values",
        "target_grid",
    }


def test_edit_sample_has_labels_and_types_at_exact_positions(collate, processor):
    batch = collate([edit()])
    text = (
        f"{SYSTEM}<|im_start|>user\n<|pixel_start|>{PAD * 3}{ROW_END}{PAD * 3}<|pixel_end|>{vision(20)}"
        f"make it blue at 48x32 <indicator:32><indicator:48><|im_end|>\n{ASSISTANT}"
        f"<|generate_start|>{CODE * 3}{ROW_END}{CODE * 3}<|generate_end|><|im_end|>\n"
    )
    ids = ids_of(processor, text)
    source = ids.index(processor.tokenizer.convert_tokens_to_ids("<|pixel_start|>"))
    start = ids.index(processor.tokenizer.convert_tokens_to_ids("<|generate_start|>"))
    assert batch["input_ids"].tolist() == [ids]
    assert batch["labels"].tolist() == [expected_labels(ids, start)]
    types = np.zeros(len(ids), dtype=int)
    types[source + 1 : source + 8] = TokenType.SOURCE_CELL
    types[source + 10 : source + 30] = TokenType.IMAGE
    types[start + 1 : start + 8] = TokenType.EDITED_CODE
    types[[source + 4, start + 4]] = TokenType.TEXT
    assert batch["mm_token_type_ids"].tolist() == [types.tolist()]
    assert batch["task_ids"].tolist() == [2]
    assert batch["source_grid"].tolist() == batch["target_grid"].tolist() == [[2, 3]]
    assert batch["source_mask"].tolist() == [[False] * 6]
    assert batch["image_grid_thw"].tolist() == [[1, 8, 10]]
    image_processor = processor.image_processor
    for name, picture in (("source", noise(100, 150, 2)), ("target", noise(70, 90, 1))):
        pixels, _ = image_processor.preprocess_cells([picture], [(32, 48)])
        assert torch.equal(batch[f"{name}_pixel_values"], torch.from_numpy(pixels))
    seen = image_processor(noise(100, 150, 2), return_tensors="pt")
    assert torch.equal(batch["pixel_values"], seen["pixel_values"])


def test_understand_sample_has_labels_on_every_assistant_turn(collate, processor):
    messages = [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes, it is."},
    ]
    batch = collate([{"task": "understand", "messages": messages, "images": noise(100, 150)}])
    learned, given = "A cat.<|im_end|>\n", "Yes, it is.<|im_end|>\n"
    parts = [
        (f"{SYSTEM}<|im_start|>user\n{vision(20)}What is it?<|im_end|>\n{ASSISTANT}", False),
        (learned, True),
        (f"<|im_start|>user\nSure?<|im_end|>\n{ASSISTANT}", False),
        (given, True),
    ]
    ids = ids_of(processor, "".join(text for text, _ in parts))
    labels = []
    for text, is_learned in parts:
        part = ids_of(processor, text)
        labels += part if is_learned else [IGNORED] * len(part)
    assert batch["input_ids"].tolist() == [ids]
    assert batch["labels"].tolist() == [labels]
    is_patch = batch["input_ids"] == processor.image_token_id
    assert torch.equal(batch["mm_token_type_ids"], is_patch.long() * TokenType.IMAGE)
    assert batch["task_ids"].tolist() == [0]
    assert set(batch) == {
        "input_ids",
        "attention_mask",
        "mm_token_type_ids",
        "labels",
        "task_ids",
        "pixel_values",
        "image_grid_thw",
    }


def test_training_prompt_is_what_the_processor_gives(collate, processor):
    """A drawing is learned after the very prompt that inference gives."""
    for sample, images in ((drawing(), None), (edit(), edit()["source_image"])):
        inputs = processor(
            text=sample["prompt"],
            images=images,
            task=sample["task"],
            height=32,
            width=48,
            template=TEMPLATE,
            return_tensors="pt",
        )
        batch = collate([sample])
        length = inputs["input_ids"].shape[1]
        for name in ("input_ids", "mm_token_type_ids"):
            assert torch.equal(batch[name][:, :length], inputs[name])
        for name in ("pixel_values", "image_grid_thw", "source_pixel_values", "source_grid"):
            assert name not in inputs or torch.equal(batch[name], inputs[name])


def test_question_is_learned_after_what_the_processor_gives(collate, processor):
    picture = noise(100, 150)
    inputs = processor(text="What is it?", images=picture, return_tensors="pt")
    batch = collate([question(images=[picture])])
    length = inputs["input_ids"].shape[1]
    for name in ("input_ids", "mm_token_type_ids"):
        assert torch.equal(batch[name][:, :length], inputs[name])
    assert (batch["labels"][:, :length] == IGNORED).all()
    assert (batch["labels"][:, length:] != IGNORED).all()


# ---------------------------------------------------------------------- sizes and settings


def test_sizes_come_from_the_sample_or_the_bucket(collate):
    wide, tall = noise(50, 100), noise(100, 50)
    batch = collate([drawing(height=None, width=None, image=wide), drawing()])
    assert batch["target_grid"].tolist() == [[22, 44], [2, 3]]
    free = {"height": None, "width": None}
    batch = collate([edit(**free, source_image=tall, image=wide)])
    assert batch["source_grid"].tolist() == batch["target_grid"].tolist() == [[44, 22]]


def test_settings_of_the_processor_are_respected(processor):
    plain = WallarooProcessor(
        processor.image_processor,
        processor.tokenizer,
        chat_template=processor.chat_template,
        size_indicators="none",
        row_ends=False,
        layout="evaluation",
    )
    collate = WallarooDataCollator(plain, unconditional_probability=0)
    assert text_of(collate, drawing(height=32, width=32)).endswith(
        f"a cat at 32x32<|im_end|>\n{ASSISTANT}<|generate_start|>{CODE * 4}<|generate_end|><|im_end|>\n"
    )


def test_templates_are_drawn_from_the_language_of_the_prompt(processor):
    collate = WallarooDataCollator(processor, unconditional_probability=0, generator=torch.Generator().manual_seed(0))
    for prompt, language in (("qqq", "en"), ("猫", "zh")):
        texts = [text_of(collate, drawing(prompt=prompt, template=None)) for _ in range(120)]
        used = Counter()
        for text in texts:
            [template] = [
                template
                for template in TEMPLATES["generate"][language]
                if f"user\n{template.format(prompt=prompt, target_w=48, target_h=32)} <indicator:32>" in text
            ]
            used[template] += 1
        assert set(used) == set(TEMPLATES["generate"][language])


# ---------------------------------------------------------------------- batches


def test_batch_of_all_tasks_is_right_padded(collate, processor):
    samples = [drawing(), edit(), question(images=[noise(100, 150)]), drawing(height=48, width=16)]
    batch = collate(samples)
    assert batch["task_ids"].tolist() == [1, 2, 0, 1]
    pad_id = processor.tokenizer.pad_token_id
    for row, sample in enumerate(samples):
        alone = collate([sample])
        length = alone["input_ids"].shape[1]
        for name, filler in (
            ("input_ids", pad_id),
            ("labels", IGNORED),
            ("attention_mask", 0),
            ("mm_token_type_ids", 0),
        ):
            assert torch.equal(batch[name][row, :length], alone[name][0])
            assert (batch[name][row, length:] == filler).all()
            assert batch[name].dtype == torch.long
    assert batch["target_grid"].tolist() == [[2, 3], [2, 3], [3, 1]]
    assert batch["target_pixel_values"].shape == (3, 3, 48, 48)
    assert batch["source_grid"].tolist() == [[2, 3]]


def test_pictures_stand_in_the_order_of_their_rows(collate, processor):
    pictures = [noise(100, 150, seed) for seed in range(4)]
    sources = [noise(90, 210, 7), noise(210, 90, 8)]
    batch = collate(
        [
            edit(source_image=sources[0]),
            question("<image> or <image>?", images=pictures[:2]),
            drawing(),
            edit(source_image=sources[1], height=16, width=16),
            question("And this?", images=pictures[2:]),
        ]
    )
    image_processor = processor.image_processor
    shown = [sources[0], *pictures[:2], sources[1], *pictures[2:]]
    seen = [image_processor(picture, return_tensors="pt") for picture in shown]
    assert torch.equal(batch["pixel_values"], torch.cat([one["pixel_values"] for one in seen]))
    assert torch.equal(batch["image_grid_thw"], torch.cat([one["image_grid_thw"] for one in seen]))
    pixels, grid = image_processor.preprocess_cells(sources, [(32, 48), (16, 16)])
    assert torch.equal(batch["source_pixel_values"], torch.from_numpy(pixels))
    assert torch.equal(batch["source_grid"], torch.from_numpy(grid))
    assert batch["source_mask"].tolist() == [[False] * 6, [False] * 6]
    assert batch["target_grid"].tolist() == [[2, 3], [2, 3], [1, 1]]


def test_batch_without_pictures_has_no_pixels(collate):
    batch = collate([question()])
    assert set(batch) == {"input_ids", "attention_mask", "mm_token_type_ids", "labels", "task_ids"}


# ---------------------------------------------------------------------- masks and dropout


@pytest.mark.parametrize(
    ("ratio", "kept"),
    [(0, [6, 35, 64, 1024]), (0.5, [3, 17, 32, 512]), (0.6, [2, 14, 25, 409]), (0.75, [1, 8, 16, 256]), (1.0, [0] * 4)],
)
def test_mask_keeps_the_stated_number_of_cells(processor, ratio, kept):
    collate = WallarooDataCollator(processor, mask_ratio=ratio, unconditional_probability=0)
    sizes = [(32, 48), (80, 112), (128, 128), (512, 512)]
    counts = []
    for height, width in sizes:
        mask = collate.encode(edit(height=height, width=width)).source_mask
        assert mask.dtype == torch.bool
        assert mask.shape == (height * width // 256,)
        counts.append(int((~mask).sum()))
    assert counts == kept


def test_mask_is_a_random_set_of_cells(processor):
    collate = WallarooDataCollator(processor, unconditional_probability=0, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([collate.encode(edit()).source_mask for _ in range(100)])
    assert (masks.sum(dim=1) == 4).all()
    assert (masks.sum(dim=0) > 45).all()
    assert (masks.sum(dim=0) < 90).all()


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor])
def test_mask_of_the_sample_is_used(processor, kind):
    collate = WallarooDataCollator(processor, mask_ratio=0.6, unconditional_probability=0)
    cells = [True, False, False, True, True, True]
    assert collate([edit(source_mask=kind(cells))])["source_mask"].tolist() == [cells]
    rows = kind([cells[:3], cells[3:]])
    assert collate([edit(source_mask=rows)])["source_mask"].tolist() == [cells]


def test_masks_of_different_sizes_are_padded(processor):
    collate = WallarooDataCollator(processor, mask_ratio=1, unconditional_probability=0)
    batch = collate([edit(height=16, width=32), drawing(), edit()])
    assert batch["source_mask"].tolist() == [[True] * 2 + [False] * 4, [True] * 6]


def test_dropout_empties_the_prompt_and_blackens_the_source(processor):
    collate = WallarooDataCollator(processor, mask_ratio=0, unconditional_probability=1)
    keep = WallarooDataCollator(processor, mask_ratio=0, unconditional_probability=0)
    assert_same(collate([drawing()]), keep([drawing(prompt="")]))
    assert_same(collate([edit()]), keep([edit(prompt="", source_image=Image.new("RGB", (150, 100)))]))
    batch = collate([edit()])
    assert (batch["source_pixel_values"] == -1).all()
    assert torch.equal(batch["target_pixel_values"], keep([edit()])["target_pixel_values"])


def test_dropout_leaves_questions_alone(processor, collate):
    always = WallarooDataCollator(processor, unconditional_probability=1)
    sample = question(images=[noise(100, 150)])
    assert_same(always([sample]), collate([sample]))


def test_dropout_keeps_template_language_and_bucket_of_the_sample(processor):
    collate = WallarooDataCollator(processor, unconditional_probability=1)
    assert "user\n at 48x32 <indicator:32>" in text_of(collate, drawing())
    text = text_of(collate, drawing(prompt="一只猫", template=None))
    assert any(
        f"user\n{template.format(prompt='', target_w=48, target_h=32)} <" in text
        for template in TEMPLATES["generate"]["zh"]
    )
    tall = edit(source_image=noise(100, 50), height=None, width=None)
    assert collate([tall])["source_grid"].tolist() == [[44, 22]]


def test_dropout_happens_as_often_as_asked(processor):
    collate = WallarooDataCollator(
        processor, unconditional_probability=0.25, generator=torch.Generator().manual_seed(0)
    )
    samples = [drawing()] * 400
    dropped = sum("user\n at" in text_of(collate, sample) for sample in samples)
    assert 75 <= dropped <= 125


def test_defaults_are_those_of_the_paper(processor):
    collate = WallarooDataCollator(processor)
    assert (collate.mask_ratio, collate.unconditional_probability) == (0.6, 0.1)


def test_batches_repeat_with_the_same_generator(processor):
    samples = [edit(template=None), drawing(template=None), edit(template=None, height=64, width=64)]

    def batches(seed):
        collate = WallarooDataCollator(
            processor, unconditional_probability=0.5, generator=torch.Generator().manual_seed(seed)
        )
        return [collate(samples) for _ in range(2)]

    first, again, other = batches(1), batches(1), batches(2)
    for one, two in zip(first, again, strict=True):
        assert_same(one, two)
    assert not torch.equal(first[0]["source_mask"], first[1]["source_mask"])
    assert not torch.equal(first[0]["source_mask"], other[0]["source_mask"])


def test_batches_repeat_with_the_global_seed(processor):
    collate = WallarooDataCollator(processor)
    torch.manual_seed(3)
    first = collate([edit(template=None)])
    torch.manual_seed(3)
    assert_same(collate([edit(template=None)]), first)


# ---------------------------------------------------------------------- conversations


def test_conversations_are_messages_under_other_names(collate):
    picture = noise(100, 150)
    conversations = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "A cat."},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>\nWhat?"},
        {"role": "assistant", "content": "A cat."},
    ]
    expected = collate([{"task": "understand", "messages": messages, "images": [picture]}])
    assert_same(collate([{"task": "understand", "conversations": conversations, "images": [picture]}]), expected)
    assert_same(collate([{"task": "understand", "messages": messages, "images": picture}]), expected)
    text = collate.processor.tokenizer.decode(expected["input_ids"][0])
    assert text == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{vision(20)}What?<|im_end|>\n"
        f"{ASSISTANT}A cat.<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("<image>\nWhat?", "[1][2]What?"),
        ("What?\n<image>", "What?[1]"),
        ("See\n\n<image>\n\nand <image>", "See\n[1]\nand [2]"),
        ("<image>\n<image>\nCompare", "[1][2]Compare"),
        ("Compare", "[1][2]Compare"),
    ],
)
def test_image_marks_take_one_newline_on_each_side(collate, text, seen):
    pictures = [noise(100, 150), noise(90, 210)]
    counts = [20, 24]
    if text.count("<image>") == 1:
        pictures, seen = pictures[:1], seen.replace("[2]", "")
    for number, count in enumerate(counts, start=1):
        seen = seen.replace(f"[{number}]", vision(count))
    assert text_of(collate, question(text, images=pictures)) == (
        f"{SYSTEM}<|im_start|>user\n{seen}<|im_end|>\n{ASSISTANT}A cat.<|im_end|>\n"
    )


def test_pictures_without_marks_go_to_the_first_turn_after_the_system_turn(collate):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    text = text_of(collate, {"task": "understand", "messages": messages, "images": [noise(100, 150)]})
    assert f"Be brief.<|im_end|>\n<|im_start|>user\n{vision(20)}What?<|im_end|>" in text
    assert text.count("<|vision_start|>") == 1


def test_marks_in_later_turns_take_pictures_in_order(collate):
    messages = [
        {"role": "user", "content": "<image>What?"},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "And <image>?"},
        {"role": "assistant", "content": "A dog."},
    ]
    pictures = [noise(90, 210), noise(100, 150)]
    text = text_of(collate, {"task": "understand", "messages": messages, "images": pictures})
    assert f"user\n{vision(24)}What?" in text
    assert f"And {vision(20)}?" in text


def test_messages_may_come_in_parts(collate):
    parts = [{"type": "text", "text": "A\n"}, {"type": "image"}, {"type": "text", "text": "\nB"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    ]
    text = text_of(collate, {"task": "understand", "messages": messages, "images": [noise(100, 150)]})
    assert text == f"{SYSTEM}<|im_start|>user\nA\n{vision(20)}\nB<|im_end|>\n{ASSISTANT}A cat.<|im_end|>\n"


def test_pictures_inside_the_messages_and_under_llavas_name(collate):
    """transformers' own form, and `image` for `images`, give what `images` gives."""
    picture = noise(60, 90)
    expected = collate([question("<image>What?", images=[picture])])
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]
    assert_same(collate([{"task": "understand", "messages": messages}]), expected)
    sample = question("<image>What?")
    sample.pop("images")
    assert_same(collate([{**sample, "image": picture}]), expected)


def test_workers_of_a_loader_draw_apart(processor):
    """Each starts with a copy of one generator; the loader's own seed tells them apart, and repeats them."""
    collator = WallarooDataCollator(processor, generator=torch.Generator().manual_seed(0))

    def masks():
        loader = torch.utils.data.DataLoader(
            [edit(height=64, width=64)] * 4,
            batch_size=1,
            num_workers=2,
            collate_fn=collator,
            generator=torch.Generator().manual_seed(5),
        )
        return [tuple(batch["source_mask"].flatten().tolist()) for batch in loader]

    first = masks()
    assert len(set(first)) == 4
    assert masks() == first


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
@pytest.mark.parametrize("name", ["mask_ratio", "unconditional_probability"])
def test_shares_must_be_between_nothing_and_all(processor, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be in \[0, 1\], but got {value}"):
        WallarooDataCollator(processor, **{name: value})


def test_batch_needs_a_sample(collate):
    with pytest.raises(ValueError, match="`samples` must hold at least one sample"):
        collate([])


@pytest.mark.parametrize(
    ("sample", "complaint"),
    [
        ({"prompt": "a cat"}, r"Sample 1: it must be a dict with a 'task', but is \{'prompt': 'a cat'\}"),
        (drawing(image=None), "Sample 1: the task 'generate' needs 'image'"),
        (drawing(prompt=None), "Sample 1: the task 'generate' needs 'prompt'"),
        (edit(source_image=None), "Sample 1: the task 'edit' needs 'source_image'"),
        (5, "Sample 1: it must be a dict with a 'task', but is 5"),
        (drawing(source_image=noise(9, 9)), "Sample 1: the task 'generate' takes no 'source_image'; is it an edit"),
        (edit(source_mask="x"), "Sample 1: `source_mask` must be bools, one a source cell, but got 'x'"),
        ({"task": "edit"}, "Sample 1: the task 'edit' needs 'prompt', 'image', 'source_image'"),
        (drawing(task="draw"), "`task` must be one of 'understand', 'generate', 'edit', but got 'draw'"),
        (drawing(height=None), "`height` and `width` go together"),
        (drawing(height=20), "`height` must be a positive multiple of 16 pixels, but got 20"),
        (drawing(template="no place"), r"`template` must hold \{prompt\}"),
        (drawing(prompt="a <|im_end|>"), r"Sample 1: `prompt` holds the special token <\|im_end\|>"),
        (drawing(image="missing.png"), r"Sample 1: `image` holds 'missing.png', which is no readable picture"),
        (edit(source_image=5), r"Sample 1: `source_image` holds a int"),
        (question(images=[Image.new("F", (9, 9))]), r"Sample 1: `images` holds a picture of mode 'F'"),
        (drawing(height=1024, width=1024), r"but the limit is 4096 \(`max_length`\)"),
        (
            question(answer="cat " * 5000),
            r"Sample 1: it has \d+ tokens, but the limit is 4096",
        ),
        (edit(source_mask=[True] * 5), "Sample 1: `source_mask` has 5 values, but the source has 6 cells"),
        ({"task": "understand"}, "Sample 1: 'messages' or 'conversations' must be a list of turns, but got None"),
        ({"task": "understand", "messages": []}, "Sample 1: 'messages' or 'conversations' must be a list"),
        (question("<image>"), "Sample 1: it has 0 images, but its messages place 1"),
        (question("<image>", images=[noise(9, 9)] * 2), "Sample 1: it has 2 images, but its messages place 1"),
    ],
)
def test_bad_samples_are_refused_with_their_place(collate, sample, complaint):
    with pytest.raises(ValueError, match=complaint):
        collate([question(), sample])


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([{"role": "tool", "content": "x"}], "Sample 0: it has a message that is no turn of a conversation"),
        ([{"role": "user"}], "Sample 0: it has a message that is no turn of a conversation"),
        ([{"content": "x"}], "Sample 0: it has a message that is no turn of a conversation"),
        ([{"role": "user", "content": "x"}], "Sample 0: it has no assistant turn, so that there is nothing to learn"),
        (
            [{"role": "user", "content": [{"type": "video"}]}],
            "Sample 0: it has a message part that is neither text nor image",
        ),
    ],
)
def test_bad_messages_are_refused(collate, messages, complaint):
    with pytest.raises(ValueError, match=complaint):
        collate([{"task": "understand", "messages": messages}])


# ---------------------------------------------------------------------- losses


def test_loss_is_the_sum_of_the_losses_by_name(collate, model):
    names = {
        "understand": {"understand_text"},
        "generate": {"generate_text", "generate_image"},
        "edit": {"edit_text", "edit_image"},
    }
    samples = {"understand": question(images=[noise(100, 150)]), "generate": drawing(), "edit": edit()}
    alone = {}
    with torch.no_grad():
        for task, sample in samples.items():
            output = model(**collate([sample]))
            assert set(output.losses) == names[task]
            assert output.loss.item() == pytest.approx(sum(loss.item() for loss in output.losses.values()), abs=LOSSES)
            assert output.logits is None
            alone.update(output.losses)
        output = model(**collate(list(samples.values())))
    assert set(output.losses) == set(alone)
    assert output.loss.item() == pytest.approx(sum(loss.item() for loss in output.losses.values()), abs=LOSSES)
    for name, loss in alone.items():  # tasks in one batch do not touch each other
        assert output.losses[name].item() == pytest.approx(loss.item(), abs=LOSSES)


def label_counts(batch):
    """How many labels each loss is the mean of: those of codes and the others, past the first position."""
    labels, types = batch["labels"][:, 1:], batch["mm_token_type_ids"][:, 1:]
    is_code = (types == TokenType.GENERATED_CODE) | (types == TokenType.EDITED_CODE)
    labelled = labels != IGNORED
    return {"text": int((labelled & ~is_code).sum()), "image": int((labelled & is_code).sum())}


@pytest.mark.parametrize(
    "samples",
    [
        [drawing(), drawing(prompt="a much longer description", height=48, width=64, image=noise(30, 40, 5))],
        [edit(), edit(prompt="replace the sky with a sunset", height=16, width=64, source_image=noise(210, 90, 5))],
        [question(images=[noise(100, 150)]), question("And what is that over there?", "I do not know.")],
    ],
    ids=["generate", "edit", "understand"],
)
def test_padding_does_not_change_the_losses(collate, model, samples):
    with torch.no_grad():
        together = model(**collate(samples)).losses
        counts, alone = [], []
        for sample in samples:
            batch = collate([sample])
            counts.append(label_counts(batch))
            alone.append(model(**batch).losses)
    for name, loss in together.items():
        weights = [count[name.rsplit("_", 1)[1]] for count in counts]
        assert all(weights)
        mean = sum(weight * losses[name].item() for weight, losses in zip(weights, alone, strict=True)) / sum(weights)
        assert loss.item() == pytest.approx(mean, abs=LOSSES)


def test_label_counts_of_an_image_are_its_cells_and_its_marks(collate):
    # 6 codes; the start mark, a row end, the end mark, the end of the turn and its newline.
    assert label_counts(collate([drawing()])) == {"text": 5, "image": 6}
    assert label_counts(collate([edit(height=48, width=32)])) == {"text": 6, "image": 6}


@pytest.mark.parametrize("samples", [[drawing(), drawing(height=48, width=16)], [edit(), drawing(), question()]])
def test_codes_in_the_ids_give_the_same_losses_as_pixels(collate, model, samples):
    batch = collate(samples)
    with torch.no_grad():
        from_pixels = model(**batch).losses
        codes, _ = model.model.encode_images(batch.pop("target_pixel_values"), batch.pop("target_grid"))
        is_code = batch["input_ids"] == model.config.generate_image_pad_token_id
        ids = torch.cat(codes) + model.config.text_vocab_size
        for name in ("input_ids", "labels"):
            batch[name] = batch[name].masked_scatter(is_code, ids)
        from_codes = model(**batch).losses
    assert from_codes.keys() == from_pixels.keys()
    for name, loss in from_pixels.items():
        assert torch.equal(from_codes[name], loss)


def test_hidden_source_cells_change_the_loss_of_an_edit(collate, model):
    with torch.no_grad():
        seen, half, hidden = (
            model(**collate([edit(source_mask=[True] * count + [False] * (6 - count))])).loss.item()
            for count in (0, 3, 6)
        )
        again = model(**collate([edit(source_mask=[True] * 6, source_image=noise(100, 150, 2))])).loss.item()
    assert len({seen, half, hidden}) == 3
    assert again == hidden


def test_hidden_source_cells_hide_what_the_vq_tokenizer_sees(processor, model):
    """With every cell hidden, other source pixels for the VQ tokenizer give the same loss."""
    collate = WallarooDataCollator(processor, mask_ratio=1, unconditional_probability=0)
    batch = collate([edit()])
    with torch.no_grad():
        loss = model(**batch).loss
        batch["source_pixel_values"] = batch["source_pixel_values"].flip(-1)
        assert torch.equal(model(**batch).loss, loss)
        batch["source_mask"] = torch.zeros_like(batch["source_mask"])
        assert not torch.equal(model(**batch).loss, loss)


# ---------------------------------------------------------------------- gradients


def modules_with_gradients(model):
    """Names of the parts of the model that got a gradient other than zero."""
    names = set()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and bool(parameter.grad.any()):
            names.add(name.removeprefix("model.").split(".")[0])
    return names


@pytest.mark.parametrize(
    ("samples", "tasks"),
    [
        ([question(images=[noise(100, 150)])], ["understand"]),
        ([drawing()], ["generate"]),
        ([edit()], ["edit"]),
        ([edit(), question(images=[noise(100, 150)]), drawing()], ["understand", "generate", "edit"]),
    ],
    ids=["understand", "generate", "edit", "all"],
)
def test_gradients_reach_the_modules_of_the_task_alone(collate, trained, samples, tasks):
    trained.zero_grad(set_to_none=True)
    trained(**collate(samples)).loss.backward()
    assert modules_with_gradients(trained) == ALWAYS.union(*(LEARNING[task] for task in tasks))
    for name, parameter in trained.named_parameters():
        if name.startswith("model.vq_model."):
            assert not parameter.requires_grad
            assert parameter.grad is None


def test_gradients_reach_every_parameter_of_adapters_and_heads(collate, trained):
    trained.zero_grad(set_to_none=True)
    trained(**collate([edit(), drawing()])).loss.backward()
    parts = ("generation_adapter", "generation_head", "editing_adapter", "editing_head", "source_adapter", "lm_head")
    for name, parameter in trained.named_parameters():
        if name.removeprefix("model.").split(".")[0] in parts:
            assert bool(parameter.grad.any()), name


def test_text_without_pictures_moves_the_language_model_only(collate, trained):
    trained.zero_grad(set_to_none=True)
    trained(**collate([question()])).loss.backward()
    assert modules_with_gradients(trained) == ALWAYS


def test_losses_of_a_training_and_an_evaluating_model_agree(collate, trained, model):
    batch = collate([edit(), drawing(), question()])
    with torch.no_grad():
        for name, loss in model(**batch).losses.items():
            assert trained(**batch).losses[name].item() == pytest.approx(loss.item(), abs=LOSSES)
