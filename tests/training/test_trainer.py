"""transformers' own Trainer and peft take the model as it is."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, Trainer, TrainingArguments

from transformers_wallaroo import WallarooDataCollator

from reference import images

SIZE = {"height": 32, "width": 48}
SAMPLES = [
    {"task": "generate", "prompt": "a fox", "image": images("t2i_target_0.png"), **SIZE},
    {
        "task": "edit",
        "prompt": "make it blue",
        "source_image": images("edit_source_0.png"),
        "image": images("edit_target_0.png"),
        **SIZE,
    },
    {
        "task": "understand",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}],
    },
]


@pytest.fixture
def own_model(converted):
    return AutoModel.from_pretrained(converted)


def test_trainer_trains_evaluates_and_saves(own_model, processor, tmp_path):
    arguments = TrainingArguments(
        tmp_path, max_steps=4, per_device_train_batch_size=3, learning_rate=1e-2, remove_unused_columns=False
    )
    arguments.per_device_eval_batch_size = 1
    arguments.report_to = []
    trainer = Trainer(
        own_model,
        arguments,
        data_collator=WallarooDataCollator(processor, unconditional_probability=0),
        train_dataset=SAMPLES,
        eval_dataset=SAMPLES,
        processing_class=processor,
        compute_metrics=lambda _prediction: {},
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    trainer.save_model(tmp_path / "trained")
    loaded = AutoModel.from_pretrained(tmp_path / "trained")
    for name, value in own_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_lora_saves_loads_and_generates(own_model, converted, processor, tmp_path):
    lora = LoraConfig(
        target_modules=r"model\.language_model\..*\.(q_proj|v_proj)", modules_to_save=["editing_head"], r=4
    )
    tuned = get_peft_model(own_model, lora)
    batch = WallarooDataCollator(processor, unconditional_probability=0)(SAMPLES[:2])
    optimizer = torch.optim.SGD([value for value in tuned.parameters() if value.requires_grad], lr=0.1)
    for _ in range(2):
        tuned(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.eval()
    tuned.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(converted), tmp_path).eval()
    inputs = processor(text="a", images=images("edit_source_0.png"), task="edit", return_tensors="pt", **SIZE)
    sequences = tuned.generate(**inputs, task="edit", seed=1)
    assert torch.equal(loaded.generate(**inputs, task="edit", seed=1), sequences)
