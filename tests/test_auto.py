# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`task="auto"`: the choice of head, and that what is chosen is what one would have asked for."""

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from PIL import Image
from transformers import AutoModel, GenerationConfig, LogitsProcessor

import transformers_wallaroo
from transformers_wallaroo import WallarooAutoOutput, WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.auto_wallaroo import ChooseMarks, PictureMarks
from transformers_wallaroo.conversations_wallaroo import AutoRequest, parts_of
from transformers_wallaroo.prompts_wallaroo import PICTURE_MARKS
from transformers_wallaroo.shapes import make_sample

SIZE = {"height": 32, "width": 48}


class Script(LogitsProcessor):
    """Makes each row write given ids, one after another; `None` is its own choice."""

    def __init__(self, *rows):
        self.rows, self.step = rows, 0

    def __call__(self, input_ids, scores):  # noqa: ARG002
        for row, wanted in enumerate(self.rows):
            if self.step < len(wanted) and wanted[self.step] is not None:
                scores[row] = -torch.inf
                scores[row, wanted[self.step]] = 0
        self.step += 1
        return scores


class Favour(LogitsProcessor):
    """Makes a token the likeliest everywhere."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):  # noqa: ARG002
        scores[:, self.token] = 1000
        return scores


@pytest.fixture
def start(model):
    return model.config.generate_start_token_id


@pytest.fixture(scope="module")
def tiny():
    path = transformers_wallaroo.tiny_path()
    return (
        WallarooForConditionalGeneration.from_pretrained(path).eval(),
        WallarooProcessor.from_pretrained(path),
    )


def answer_of(out):
    [answer] = out.answers
    return answer


# ------------------------------------------------------------------ any checkpoint


@pytest.mark.parametrize("guidance", [1, 3])
def test_where_it_draws_it_draws_what_generate_does(model, processor, start, guidance):
    inputs = processor(text="a red fox", task="auto", return_tensors="pt", **SIZE)
    out = model.generate(**inputs, seed=5, guidance_scale=guidance, logits_processor=[Script([start])])
    assert isinstance(out, WallarooAutoOutput) and out.tasks == ["generate"]
    [part] = answer_of(out)
    plain = processor(text="a red fox", task="generate", return_tensors="pt", **SIZE)
    ids = model.generate(**plain, seed=5, guidance_scale=guidance)
    assert torch.equal(part.ids, ids[0]) and part.codes.shape == (2, 3)
    assert torch.equal(part.pixel_values, model.decode_image_tokens(ids)[0])
    [[made]] = processor.post_process_auto(out)
    assert made.size == (48, 32)


def test_where_there_is_a_picture_it_edits(model, processor, start, picture):
    options = {"seed": 5, "guidance_scale": 3, "image_guidance_scale": 1.5}
    inputs = processor(text="make it blue", images=picture, task="auto", return_tensors="pt", **SIZE)
    out = model.generate(**inputs, **options, logits_processor=[Script([start])])
    plain = processor(text="make it blue", images=picture, task="edit", return_tensors="pt", **SIZE)
    assert out.tasks == ["edit"] and torch.equal(answer_of(out)[0].ids, model.generate(**plain, **options)[0])


def test_where_it_answers_it_is_understanding(model, processor, picture, start):
    inputs = processor(text="What is this?", images=picture, task="auto", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=6, suppress_tokens=[start])
    plain = processor(text="What is this?", images=picture, return_tensors="pt")
    ids = model.generate(**plain, max_new_tokens=6, suppress_tokens=[start])[0, plain["input_ids"].shape[1] :]
    end = model.generation_config.eos_token_id
    kept = [token for token in ids.tolist() if token not in (end if isinstance(end, list) else [end])]
    assert out.tasks == ["understand"] and answer_of(out)[0].ids.tolist() == kept
    assert processor.post_process_auto(out) == [[processor.decode(ids, skip_special_tokens=True).strip()]]


def test_words_before_a_picture_stay(model, processor, start):
    words = processor.tokenizer("Here it is", add_special_tokens=False)["input_ids"]
    inputs = processor(text="a red fox", task="auto", return_tensors="pt", **SIZE)
    out = model.generate(**inputs, seed=5, max_new_tokens=20, logits_processor=[Script([*words, start])])
    text, made = processor.post_process_auto(out)[0]
    assert text == "Here it is" and isinstance(made, Image.Image) and out.tasks == ["generate"]


def test_a_batch_is_its_prompts_by_themselves(model, processor, start, picture, other):
    """Drawing, editing and answering side by side, with seeds that follow one another."""
    texts, pictures = ["a fox", "What is this?", "make it blue", "a cat"], [None, picture, other, None]
    scripts = [[start], [40, 41, processor.tokenizer.eos_token_id], [start], [start]]
    inputs = processor(text=texts, images=pictures, task="auto", return_tensors="pt", **SIZE)
    assert inputs["edit_prompts"].tolist() == [1, 2]
    together = model.generate(**inputs, seed=7, logits_processor=[Script(*scripts)])
    assert together.tasks == ["generate", "understand", "edit", "generate"]
    for row, (text, image, script) in enumerate(zip(texts, pictures, scripts, strict=True)):
        alone = processor(text=text, images=image, task="auto", return_tensors="pt", **SIZE)
        out = model.generate(**alone, seed=7 + row, logits_processor=[Script(script)])
        assert torch.equal(answer_of(out)[0].ids, together.answers[row][0].ids), row


def test_an_answer_goes_on_after_a_picture(model, processor, start):
    """With the processor: text, picture, text, the latter from the conversation with the picture in it."""
    words = processor.tokenizer("A fox:", add_special_tokens=False)["input_ids"]
    end = processor.tokenizer.eos_token_id
    script = [*words, start, None, None, None, end]
    inputs = processor(text="a red fox", task="auto", return_tensors="pt", **SIZE)
    options = {"suppress_tokens": [end], "max_new_tokens": 8, "seed": 5, "do_sample": False}
    out = model.generate(**inputs, processor=processor, max_pictures=1, **options, logits_processor=[Script(script)])
    text, made, after = processor.post_process_auto(out)[0]
    assert text == "A fox:" and made.size == (48, 32)
    request = AutoRequest.of([{"role": "user", "content": "a red fox"}], SIZE)
    request = request.continued([{"type": "text", "text": text}, {"type": "image", "image": made, "task": "generate"}])
    again = processor.prepare_answers([request])
    rendered = processor.tokenizer.decode(again["input_ids"][0])
    assert rendered.count("<|vision_start|>") == 1
    assert f"assistant\nA fox:{PICTURE_MARKS['generate']}<|vision_start|>" in rendered
    assert rendered.endswith("<|vision_end|>")
    ids = model.generate(**again, task="understand", max_new_tokens=3, suppress_tokens=[end, start], do_sample=False)[
        0, again["input_ids"].shape[1] :
    ]
    assert answer_of(out)[2].ids[:3].tolist() == ids.tolist() and after


def test_there_are_no_more_pictures_than_allowed(model, processor, start):
    inputs = processor(text="a red fox", task="auto", return_tensors="pt", **SIZE)
    always = [Script(*[[start] * 50])]
    options = {"seed": 5, "max_new_tokens": 2, "logits_processor": always}
    out = model.generate(**inputs, processor=processor, max_pictures=2, **options)
    made = [part for part in answer_of(out) if part.codes is not None]
    assert [part.task for part in made] == ["generate", "edit"]  # the second changes the first
    first = processor(text="a red fox", task="generate", return_tensors="pt", **SIZE)
    assert torch.equal(made[0].ids, model.generate(**first, seed=5)[0])
    source = processor.read_part(made[0])
    second = processor(text="a red fox", images=source, task="edit", return_tensors="pt", **SIZE)
    assert torch.equal(made[1].ids, model.generate(**second, seed=6)[0])
    none = model.generate(**inputs, max_pictures=0, max_new_tokens=2, seed=5, logits_processor=[Favour(start)])
    assert none.tasks == ["understand"] and start not in none.answers[0][0].ids.tolist()


def test_options_go_where_they_belong(model, processor, start):
    inputs = processor(text="a red fox", task="auto", return_tensors="pt", **SIZE)
    greedy = model.generate(**inputs, image_options={"do_sample": False}, logits_processor=[Script([start])])
    plain = processor(text="a red fox", task="generate", return_tensors="pt", **SIZE)
    assert torch.equal(answer_of(greedy)[0].ids, model.generate(**plain, do_sample=False)[0])
    generator = torch.Generator().manual_seed(3)
    drawn = model.generate(**inputs, generator=generator, decoder="plain", logits_processor=[Script([start])])
    expected = model.generate(**plain, generator=torch.Generator().manual_seed(3), decoder="plain")
    assert torch.equal(answer_of(drawn)[0].ids, expected[0])


# ------------------------------------------------------------------ a checkpoint that says which


@pytest.mark.parametrize("language", ["en", "zh"])
def test_wallaroo_tiny_chooses(tiny, language):
    model, processor = tiny
    texts, pictures, expected = [], [], []
    for number in range(4):
        drawn = make_sample("generate", number, 20261, language=language)
        edited = make_sample("edit", number, 20261, language=language)
        asked = make_sample("understand", number, 20261, language=language)
        texts += [drawn["prompt"], edited["prompt"], asked["messages"][0]["content"]]
        pictures += [None, edited["source_image"], asked["images"][0]]
        expected += ["generate", "edit", "understand"]
    inputs = processor(text=texts, images=pictures, task="auto", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=40, seed=1, show_progress=False)
    assert out.tasks == expected


def test_a_talk_keeps_editing_the_last_picture(tiny):
    model, processor = tiny
    conversation, tasks, sources = [], [], []
    for text in (
        "a red circle",
        "make the circle blue",
        "what color is the circle?",
        "a green star",
        "画一个红色的圆形",
    ):
        conversation.append({"role": "user", "content": text})
        inputs = processor.apply_chat_template(conversation, task="auto", return_tensors="pt", height=64, width=64)
        sources.append(inputs["requests"][0].pictures[-1:])
        out = model.generate(**inputs, seed=1, max_new_tokens=20, processor=processor, show_progress=False)
        [parts] = processor.post_process_auto(out)
        assert len(parts) == 1  # nothing is said or made after it
        tasks += out.tasks
        value = (
            {"text": parts[0], "type": "text"} if isinstance(parts[0], str) else {"image": parts[0], "type": "image"}
        )
        conversation.append({"role": "assistant", "content": [{**value, "task": out.tasks[0]}]})
    assert tasks == ["generate", "edit", "understand", "generate", "generate"]
    assert conversation[5]["content"][0]["text"] == "blue"
    assert sources[1][0] is conversation[1]["content"][0]["image"]
    assert sources[2][0] is conversation[3]["content"][0]["image"]


def test_a_new_picture_may_be_drawn_beside_another(tiny):
    """What tells such a checkpoint from one that edits wherever there is a picture."""
    model, processor = tiny
    source = make_sample("edit", 0, 20261)["source_image"]
    inputs = processor(text="a red circle", images=source, task="auto", return_tensors="pt")
    marks = PictureMarks.of(model)
    for wanted, task in ((marks.draw, "generate"), (marks.edit, "edit")):
        out = model.generate(**inputs, seed=1, logits_processor=[Script([marks.start, wanted])], show_progress=False)
        assert out.tasks == [task]


# ------------------------------------------------------------------ marks


def test_marks_are_read():
    says = PictureMarks(start=1, draw=2, edit=3, ends=(9,))
    silent = PictureMarks(start=1, draw=None, edit=None, ends=(9, 8))
    for marks, ids, can_edit, text, task in (
        (says, [5, 6, 9, 0, 0], True, [5, 6], None),
        (says, [5, 1, 2, 0], True, [5], "generate"),
        (says, [1, 3], True, [], "edit"),
        (says, [5, 6, 7], False, [5, 6, 7], None),
        (says, [5, 6, 1], False, [5, 6], None),  # cut before it said which
        (silent, [5, 1, 0], False, [5], "generate"),
        (silent, [5, 1, 0], True, [5], "edit"),
        (silent, [5, 8, 1], True, [5], None),
    ):
        kept, chosen = marks.read(torch.tensor(ids), can_edit=can_edit)
        assert (kept.tolist(), chosen) == (text, task), ids


def test_marks_are_written_where_they_mean_something():
    marks = PictureMarks(start=1, draw=2, edit=3, ends=(4,))
    ids = torch.tensor([[0], [1], [1], [0]])
    choose = ChooseMarks(marks, [True, True, True, False], [True, True, False, False])
    allowed = [[token for token in range(5) if row[token] > -torch.inf] for row in choose(ids, torch.zeros(4, 5))]
    assert allowed == [[0, 1, 4], [2, 3], [2], [0, 4]]
    silent = PictureMarks(start=1, draw=None, edit=None, ends=(4,))
    chosen = ChooseMarks(silent, [True, True, True, False], [True, False, False, False])(ids, torch.zeros(4, 5))
    assert (chosen == -torch.inf).nonzero().tolist() == [[3, 1]]


# ------------------------------------------------------------------ conversations


def test_pictures_of_answers_have_their_marks(processor, picture, other):
    conversation = [
        {"role": "user", "content": "a fox"},
        {"role": "assistant", "content": [{"type": "image", "image": picture}]},
        {"role": "user", "content": [{"type": "image", "image": other}, {"type": "text", "text": "make it blue"}]},
        {"role": "assistant", "content": [{"type": "image", "image": other, "task": "edit"}]},
        {"role": "user", "content": "What is it?"},
    ]
    inputs = processor.apply_chat_template(conversation, task="auto", return_tensors="pt", **SIZE)
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.count("<|vision_start|>") == 3 and len(inputs["image_grid_thw"]) == 3
    assert f"assistant\n{PICTURE_MARKS['generate']}<|vision_start|>" in text
    assert "user\n<|vision_start|>" in text and f"assistant\n{PICTURE_MARKS['edit']}<|vision_start|>" in text
    edit = processor(text="What is it?", images=other, task="edit", return_tensors="pt", **SIZE)
    assert torch.equal(inputs["edit_source_pixel_values"], edit["source_pixel_values"])
    assert torch.equal(inputs["edit_input_ids"], edit["input_ids"])
    drawn = processor(text="What is it?", task="generate", return_tensors="pt", **SIZE)
    assert torch.equal(inputs["generate_input_ids"], drawn["input_ids"])
    arrays = processor.apply_chat_template([conversation], task="auto", return_tensors="np", **SIZE)
    assert isinstance(arrays["edit_prompts"], np.ndarray)


def test_parts_of_a_message():
    assert parts_of("hi") == [{"type": "text", "text": "hi"}] and parts_of(None) == []
    given = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"text": "hi"}, {"path": "b.png", "task": "edit"}]
    assert [part.get("image", part.get("text")) for part in parts_of(given)] == ["a.png", "hi", "b.png"]
    assert parts_of(given)[2]["task"] == "edit"


# ------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize("text", ["What is " + "very " * 24 + "long?", "What does <|im_end|> mean?"])
def test_a_question_need_not_be_a_prompt(model, converted, start, text):
    """What is too long for a picture, or holds special tokens, is answered, whatever the text head would write."""
    small = WallarooProcessor.from_pretrained(converted)
    small.max_length = 120
    inputs = small(text=[text, "a fox"], task="auto", return_tensors="pt", **SIZE)
    assert inputs["generate_prompts"].tolist() == [1]
    out = model.generate(**inputs, seed=1, max_new_tokens=3, logits_processor=[Favour(start)])
    assert out.tasks == ["understand", "generate"] and len(out.answers[0][0].ids)


def test_what_was_made_stays_where_there_is_no_room_for_more(model, converted, start):
    small = WallarooProcessor.from_pretrained(converted)
    inputs = small(text="a red fox", task="auto", return_tensors="pt", **SIZE)
    small.max_length = inputs["input_ids"].shape[1] + 4  # and none for the picture beside it
    out = model.generate(**inputs, seed=1, processor=small, logits_processor=[Script([start])])
    assert [part.task for part in answer_of(out)] == ["generate"]


def test_a_generation_config_is_of_the_text(model, processor, start):
    inputs = processor(text="a red fox", task="auto", return_tensors="pt", **SIZE)
    config = GenerationConfig(max_new_tokens=3, eos_token_id=40, do_sample=False)
    out = model.generate(**inputs, generation_config=config, seed=1, logits_processor=[Script([41, 40])])
    assert answer_of(out)[0].ids.tolist() == [41] and config.eos_token_id == 40
    drawn = model.generate(**inputs, generation_config=config, seed=1, logits_processor=[Script([41, start])])
    plain = processor(text="a red fox", task="generate", return_tensors="pt", **SIZE)
    assert torch.equal(answer_of(drawn)[1].ids, model.generate(**plain, seed=1)[0])


def test_an_offloaded_model_goes_on_after_a_picture(converted, processor, start):
    model = cpu_offload(AutoModel.from_pretrained(converted).eval(), "cpu")
    inputs = processor(text="a red fox", task="auto", return_tensors="pt", **SIZE)
    end = processor.tokenizer.eos_token_id
    out = model.generate(**inputs, seed=1, processor=processor, logits_processor=[Script([start, end])])
    assert out.tasks == ["generate"]


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_pictures": 2}, "`max_pictures` is 2, but without `processor` an answer ends with its first picture"),
        ({"max_pictures": -1}, "`max_pictures` must be a whole number from 0 on, but got -1"),
        ({"num_return_sequences": 2}, "`num_return_sequences` is not for the task 'auto'"),
        ({"return_dict_in_generate": True}, "`return_dict_in_generate` is not for the task 'auto'"),
        ({"seed": [1]}, r"`seed` must be an int for the task 'auto', but got \[1\]"),
        ({"task": "edit"}, "`task` is 'edit', but the inputs were prepared for 'auto'"),
        ({"generate_prompts": None}, "The task 'auto' needs `generate_prompts`. Build the inputs with"),
        ({"seed": 1, "generator": torch.Generator()}, "Pass `seed` or `generator`, not both"),
        ({"generator": [torch.Generator()]}, "`generator` must be one `torch.Generator` for the task 'auto'"),
        ({"image_options": {"num_return_sequences": 2}}, "`image_options` may have .*, but got num_return_sequences"),
        ({"image_options": {"top_q": 2, "seed": 3}}, "but got seed, top_q"),
        ({"generation_config": GenerationConfig(num_beams=2)}, "`num_beams` is not for the task 'auto'"),
        ({"generation_config": GenerationConfig(return_dict_in_generate=True)}, "`return_dict_in_generate` is not for"),
    ],
)
def test_what_generate_refuses(model, processor, options, message):
    inputs = processor(text="a fox", task="auto", return_tensors="pt", **SIZE)
    with pytest.raises(ValueError, match=message):
        model.generate(**{**inputs, **options})


def test_arguments_of_auto_are_for_it_alone(model, processor):
    inputs = processor(text="a fox", task="generate", return_tensors="pt", **SIZE)
    for name, value in (("processor", processor), ("max_pictures", 1), ("image_options", {})):
        with pytest.raises(ValueError, match=f"`{name}` is for the task 'auto'"):
            model.generate(**inputs, **{name: value})
    with pytest.raises(ValueError, match="`task` is 'auto', but the inputs were prepared for another task"):
        model.generate(**inputs, task="auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "a fox", "template": "{prompt}"}, "`template` is not for the task 'auto'"),
        ({"text": "a fox", "original_size": True}, "`original_size` is not for the task 'auto'"),
        ({"text": "a fox", "height": [32, 48], "width": 32}, "`height` must be one for all or one a prompt, but got 2"),
        ({"text": " "}, "`conversation` must end in a user's message with text"),
        ({"text": "a fox", "hieght": 32}, "The task 'auto' takes no `hieght`"),
        ({"text": "a fox", "height": 33, "width": 32}, "`height`"),
        ({"text": ["a fox"], "task": ["auto"]}, r"`task` must be one of .*'auto' goes by itself"),
    ],
)
def test_what_the_processor_refuses(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**{"task": "auto", **arguments})


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([{"role": "bot", "content": "hi"}], "`conversation` must have messages of system, user, assistant, but got"),
        ([{"role": "system", "content": "hi"}], "`conversation` must end in a user's message with text"),
        ([], "`conversation` must end in a user's message with text"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "has a part that is neither text nor an image"),
        ([{"role": "user", "content": 3}], "has a content that is neither text nor a list of parts: 3"),
        (
            [{"role": "user", "content": [{"path": "a.png", "task": "Edit"}]}],
            "must be 'generate' or 'edit', but got 'Ed",
        ),
        (None, "`conversation` must be a list of messages, but got NoneType"),
    ],
)
def test_what_a_conversation_must_be(processor, conversation, message):
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(conversation, task="auto")


def test_a_checkpoint_of_squares_has_no_choice(converted, picture):
    processor = WallarooProcessor.from_pretrained(converted)
    processor.row_ends = False
    with pytest.raises(ValueError, match="The task 'auto' needs a checkpoint that draws and edits"):
        processor(text="make it blue", images=picture, task="auto")
