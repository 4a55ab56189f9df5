"""transformers' pipelines, by folder name and with remote code."""

import pytest
from PIL import Image
from transformers import AnyToAnyPipeline, pipeline
from transformers.utils import is_torchvision_available

import transformers_wallaroo
from transformers_wallaroo import WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.pipeline_wallaroo import WallarooPipeline


@pytest.fixture(scope="module")
def any_to_any(converted):
    return pipeline("any-to-any", model=str(converted), trust_remote_code=True)


def messages(picture=None, text="What is this?"):
    content = [] if picture is None else [{"type": "image", "image": picture}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


def test_any_to_any_text(any_to_any, model, processor, picture):
    """The same answer as `generate`; torchvision is not needed."""
    assert isinstance(any_to_any, AnyToAnyPipeline)
    [output] = any_to_any(text=messages(picture), max_new_tokens=6, return_full_text=False)
    inputs = processor(text="What is this?", images=picture, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=6)
    assert output["generated_text"] == processor.decode(
        ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    [output] = any_to_any(text="Say hello.", max_new_tokens=6)
    assert output["generated_text"].startswith("Say hello.")


def test_any_to_any_draws(any_to_any, model, processor):
    [output] = any_to_any(text="a red fox", generation_mode="image", height=32, width=48, generate_kwargs={"seed": 5})
    inputs = processor(text="a red fox", task="generate", height=32, width=48, return_tensors="pt")
    pixels = model.decode_image_tokens(model.generate(**inputs, seed=5))
    [expected] = processor.post_process_multimodal_output(pixels, generation_mode="image")
    assert output["generated_image"].tobytes() == expected.tobytes()
    both = any_to_any(text=["a fox", "a cat"], generation_mode="image", height=32, width=48)
    assert [entry["generated_image"].size for entry in both] == [(48, 32)] * 2


def test_any_to_any_edits(any_to_any, model, processor, picture):
    """A picture makes it an edit, given beside the text or in a chat."""
    inputs = processor(text="make it blue", images=picture, task="edit", height=32, width=48, return_tensors="pt")
    pixels = model.decode_image_tokens(model.generate(**inputs, seed=5))
    [expected] = processor.post_process_multimodal_output(pixels, generation_mode="image")
    options = {"generation_mode": "image", "height": 32, "width": 48, "generate_kwargs": {"seed": 5}}
    for arguments in ({"text": "make it blue", "images": picture}, {"text": messages(picture, "make it blue")}):
        [output] = any_to_any(**arguments, **options)
        assert isinstance(output["generated_image"], Image.Image)
        assert output["generated_image"].tobytes() == expected.tobytes()


def test_any_to_any_edits_in_the_sources_size(any_to_any, picture):
    options = {"generation_mode": "image", "height": 32, "width": 48, "original_size": True}
    [output] = any_to_any(text="make it blue", images=picture, **options, generate_kwargs={"seed": 5})
    assert output["generated_image"].size == picture.size


def test_a_model_from_a_pipeline_can_be_saved(any_to_any, tmp_path):
    any_to_any.model.save_pretrained(tmp_path)
    assert pipeline("any-to-any", model=str(tmp_path), processor=any_to_any.processor, trust_remote_code=True)


def test_stock_any_to_any_needs_the_task(model, processor, monkeypatch):
    """transformers' own class, which asks for torchvision, works when told the task."""
    if not is_torchvision_available():
        monkeypatch.setattr("transformers.pipelines.any_to_any.requires_backends", lambda *_: None)
    stock = AnyToAnyPipeline(model=model, processor=processor)
    [output] = stock(text="a fox", generation_mode="image", task="generate", height=32, width=48)
    assert output["generated_image"].size == (48, 32)
    with pytest.raises(ValueError, match=r"`generation_mode` is 'image'.*pass `task='generate'`"):
        stock(text="a fox", generation_mode="image")


def test_image_text_to_text(converted, model, processor, picture):
    pipe = pipeline("image-text-to-text", model=str(converted), trust_remote_code=True)
    [output] = pipe(text=messages(picture), max_new_tokens=6, return_full_text=False)
    inputs = processor(text="What is this?", images=picture, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=6)
    assert output["generated_text"] == processor.decode(
        ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    [output] = pipe(images=picture, text="What is this?", max_new_tokens=2)
    assert output["generated_text"].startswith("What is this?")


def test_any_to_any_chooses():
    """With `task="auto"` an answer is a list of texts and pictures."""
    path = transformers_wallaroo.tiny_path()
    tiny = WallarooPipeline(
        WallarooForConditionalGeneration.from_pretrained(path), processor=WallarooProcessor.from_pretrained(path)
    )
    options = {"task": "auto", "generate_kwargs": {"seed": 1, "max_new_tokens": 8, "show_progress": False}}
    [drawn] = tiny(text="a red circle", height=64, width=64, **options)
    [made] = drawn["generated_parts"]
    assert drawn["input_text"] == "a red circle" and made.size == (64, 64)
    [edited] = tiny(text="make the circle blue", images=made, **options)
    [changed] = edited["generated_parts"]
    assert changed.size == (64, 64)
    chat = messages(changed, "what color is the circle?")
    [answered] = tiny(text=chat, **options)
    assert answered["generated_parts"] == ["blue"] and answered["input_text"] == chat
    with pytest.raises(ValueError, match="`batch_size` must be 1 for the task 'auto'"):
        tiny([chat, chat], batch_size=2, **options)
    with pytest.raises(ValueError, match="`generation_mode` is 'image', but the task 'auto' chooses by itself"):
        tiny(text="a red circle", generation_mode="image", **options)
