"""Questions about videos, where torchvision is installed; what happens without it is in test_processing.py."""

import numpy as np
import pytest
import torch

from transformers_wallaroo.image_grid_wallaroo import TokenType

pytest.importorskip("torchvision")
CLIP = np.random.default_rng(0).integers(0, 256, (8, 56, 84, 3), dtype=np.uint8)


def test_a_video_gets_its_placeholders_and_an_answer(model, processor):
    inputs = processor(text="What happens?", videos=[CLIP], task="understand", return_tensors="pt")
    frames, height, width = inputs["video_grid_thw"][0].tolist()
    videos = int((inputs["mm_token_type_ids"] == TokenType.VIDEO).sum())
    assert videos == frames * height * width // 4
    assert model.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


def test_videos_in_a_batch_answer_as_alone(model, processor):
    together = processor(text=["What happens?", "And here, please?"], videos=[CLIP, CLIP[:4]], return_tensors="pt")
    answers = model.generate(**together, max_new_tokens=4)[:, -4:]
    for index, (question, clip) in enumerate((("What happens?", CLIP), ("And here, please?", CLIP[:4]))):
        alone = processor(text=question, videos=[clip], return_tensors="pt")
        assert torch.equal(model.generate(**alone, max_new_tokens=4)[0, -4:], answers[index])


def test_a_chat_with_a_video_and_a_picture(model, processor, picture):
    content = [{"type": "video", "video": CLIP}, {"type": "image", "image": picture}, {"type": "text", "text": "Hm?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert {"pixel_values", "pixel_values_videos"} <= set(inputs)
    assert model(**inputs).logits.isfinite().all()
