# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Losses on held-out samples, and the pictures drawn beside them."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainerCallback

from transformers_wallaroo.training import trainer as trainer_module
from transformers_wallaroo.training.preview import MARGIN, contact_sheet, draw_preview, make_images
from transformers_wallaroo.training.trainer import WallarooTrainer

from forking import in_processes
from small import collator_of, losses_of, samples_of, trainer_of

SAMPLES = samples_of("understand", "generate", "generate", "edit", "understand", "understand", "edit")
NAMES = ("understand_text", "generate_text", "generate_image", "edit_text", "edit_image")


def evaluate(model, processor, folder, batch_size=7, samples=SAMPLES, **arguments):
    trainer = trainer_of(
        model,
        processor,
        SAMPLES,
        folder,
        eval_dataset=samples,
        per_device_eval_batch_size=batch_size,
        loss_weights={"edit": 0.5},
        **arguments,
    )
    metrics = trainer.evaluate()
    return {key: value for key, value in metrics.items() if "second" not in key and "time" not in key}


@pytest.fixture(scope="module")
def expected(shared_small):
    """Mean losses over all labels, from one forward."""
    model, processor = shared_small
    batch = collator_of(processor)(SAMPLES)
    with torch.no_grad():
        return {name: float(loss) for name, loss in model.eval()(**batch).losses.items()}


def assert_expected(metrics, expected):
    """Worst seen: 2e-7 of a loss."""
    assert {name: metrics[f"eval_{name}"] for name in NAMES} == pytest.approx(expected, rel=2e-6)
    total = sum(value * (0.5 if name.startswith("edit") else 1) for name, value in expected.items())
    assert metrics["eval_loss"] == pytest.approx(total, rel=2e-6)


@pytest.mark.parametrize("pack_length", [None, 0, 150])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_losses_are_means_over_labels_whatever_the_batch(
    small_model, small_processor, tmp_path, expected, batch_size, pack_length
):
    collator = collator_of(small_processor, drop=True, pack_length=pack_length)
    assert_expected(evaluate(small_model, small_processor, tmp_path, batch_size, collator=collator), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_losses_are_the_same_on_two_processes(small_model, small_processor, tmp_path, expected, batch_size):
    """7 samples make no whole number of batches for both; none is counted twice."""
    for metrics in in_processes(
        lambda rank: evaluate(small_model, small_processor, tmp_path / str(rank), batch_size), tmp_path / "results"
    ):
        assert_expected(metrics, expected)


def test_mean_of_means_would_be_something_else(small_model, small_processor, tmp_path, expected):
    """The tests above can fail."""
    samples = [[sample] for sample in SAMPLES]
    means = [evaluate(small_model, small_processor, tmp_path, 1, one)["eval_loss"] for one in samples]
    total = sum(value * (0.5 if name.startswith("edit") else 1) for name, value in expected.items())
    assert abs(sum(means) / len(means) - total) > 0.1


def test_dropped_samples_of_an_evaluation_are_counted(small_model, small_processor, tmp_path):
    collator = collator_of(small_processor, limits={"understand": 3}, drop=True)
    metrics = evaluate(small_model, small_processor, tmp_path, 2, collator=collator)
    assert metrics["eval_dropped/too_long"] == 3
    assert "eval_understand_text" not in metrics
    assert math.isfinite(metrics["eval_loss"])
    assert not any("dropped" in name for name in evaluate(small_model, small_processor, tmp_path))


def test_evaluation_leaves_training_as_it_is(small_model, small_processor, tmp_path):
    """Losses and previews in between change neither what is learned nor what is logged of it."""
    logs, weights = [], []
    for options in ({}, {"eval_strategy": "steps", "eval_steps": 1, "preview_samples": SAMPLES[1:4]}):
        model = copy.deepcopy(small_model)
        trainer = trainer_of(
            model,
            small_processor,
            SAMPLES,
            tmp_path,
            eval_dataset=SAMPLES,
            per_device_train_batch_size=2,
            max_steps=3,
            **options,
        )
        trainer.train()
        logs.append([entry for entry in losses_of(trainer.state.log_history) if "loss" in entry])
        weights.append(model.state_dict())
    assert len(logs[0]) == 3
    assert logs[0] == logs[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == [
        f"step-000000{step}.png" for step in (1, 2, 3)
    ]


def test_tokens_a_second_are_of_training_alone(small_model, small_processor, tmp_path, monkeypatch):
    """A step takes one second on this clock, everything else a thousand."""
    now = [0.0]
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def takes(name, seconds):
        whole = getattr(WallarooTrainer, name)

        def slow(self, *args, **kwargs):
            now[0] += seconds
            return whole(self, *args, **kwargs)

        monkeypatch.setattr(WallarooTrainer, name, slow)

    takes("training_step", 1)
    for name in ("evaluation_loop", "_preview", "_save_rng_state"):
        takes(name, 1000)
    samples = samples_of("generate", "generate", "generate", bucket=(32, 64))
    trainer = trainer_of(
        small_model,
        small_processor,
        samples,
        tmp_path,
        eval_dataset=samples[:1],
        preview_samples=samples[:1],
        per_device_train_batch_size=1,
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    trainer.train()
    assert now[0] == 3 + 3 * 3000
    tokens = [collator_of(small_processor)([sample])["input_ids"].numel() for sample in samples]
    assert [log["tokens_per_second"] for log in trainer.state.log_history if "tokens_per_second" in log] == tokens


def test_previews_are_drawn_in_the_precision_of_training(small_model, small_processor, tmp_path, monkeypatch):
    drawn_in = []

    def draw(*_arguments, **_options):
        drawn_in.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
        return Image.new("RGB", (9, 9))

    monkeypatch.setattr(trainer_module, "draw_preview", draw)
    for bf16 in (True, False):
        trainer = trainer_of(small_model, small_processor, SAMPLES, tmp_path, preview_samples=SAMPLES[1:2], bf16=bf16)
        trainer._preview()
    assert drawn_in == [torch.bfloat16, False]


class Tracker(TrainerCallback):
    """What transformers' callbacks for TensorBoard and Weights & Biases have of these."""

    def __init__(self):
        self.images = []
        self.logged = []
        self.tb_writer = self._wandb = self

    def add_image(self, name, pixels, step):
        self.images.append((name, pixels.shape, step))

    def Image(self, sheet):
        return sheet.size

    def log(self, values):
        self.logged.append(values)


def test_previews_go_to_disk_and_to_the_trackers(small_model, small_processor, tmp_path):
    tracker = Tracker()
    trainer = trainer_of(
        small_model,
        small_processor,
        SAMPLES,
        tmp_path,
        eval_dataset=SAMPLES,
        preview_samples=SAMPLES,
        callbacks=[tracker],
    )
    trainer.train()
    trainer.evaluate()
    [path] = (tmp_path / "previews").iterdir()
    assert path.name == "step-0000001.png"
    sheet = Image.open(path)
    assert tracker.images == [("previews", (3, sheet.height, sheet.width), 1)]
    assert tracker.logged == [{"previews": sheet.size, "train/global_step": 1}]
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 20


def test_images_do_not_depend_on_their_batches(small_model, small_processor):
    samples = samples_of("edit", "generate", "generate", "edit", "generate")
    together = make_images(small_model, small_processor, samples, seed=3)
    assert small_model.training
    sizes = [(sample["width"], sample["height"]) for sample in samples]
    assert [picture.size for picture in together] == sizes
    for batch_size in (1, 2):
        apart = make_images(small_model.eval(), small_processor, samples, seed=3, batch_size=batch_size)
        assert not small_model.training
        for one, other in zip(together, apart, strict=True):
            # The same codes; a convolution may add up in another order in a batch of another size.
            assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1
    other_seed = make_images(small_model, small_processor, samples[:1], seed=4)
    assert not np.array_equal(np.asarray(together[0]), np.asarray(other_seed[0]))


def test_samples_without_a_size_or_from_files_can_be_previewed(small_model, small_processor, tmp_path):
    """As those of a folder of pictures: the size is that which the sample is trained at."""
    Image.new("RGB", (100, 50), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (50, 100), "blue").save(tmp_path / "tall.png")
    wide, tall = str(tmp_path / "wide.png"), tmp_path / "tall.png"
    samples = [
        {"task": "generate", "prompt": "a red thing", "image": wide},
        {"task": "edit", "prompt": "turn it", "source_image": str(tall), "image": wide},
        {"task": "generate", "prompt": "a blue thing", "image": tall},
    ]
    pictures = make_images(small_model, small_processor, samples)
    assert [picture.size for picture in pictures] == [(64, 32), (32, 64), (32, 64)]
    collate = collator_of(small_processor)
    grids = collate(samples)["target_grid"].tolist()
    assert [(picture.height // 16, picture.width // 16) for picture in pictures] == [tuple(grid) for grid in grids]
    assert draw_preview(small_model, small_processor, samples).width > 300


def test_cached_samples_can_be_previewed(small_model, small_processor):
    """Their own picture is what the VQ tokenizer makes of the codes."""
    [generate, edit] = samples_of("generate", "edit", bucket=(32, 64))
    codes = np.arange(8).reshape(2, 4)
    cached = [{**sample, "codes": codes, "image": None} for sample in (generate, edit)]
    sheet = draw_preview(small_model, small_processor, cached)
    with_pictures = draw_preview(small_model, small_processor, [generate, edit])
    assert sheet.size == with_pictures.size
    assert not np.array_equal(np.asarray(sheet), np.asarray(with_pictures))


def test_sheet_shows_captions_and_pictures_side_by_side():
    pictures = [Image.new("RGB", (40, 20), color) for color in ("red", "lime", "blue")]
    entries = [("a red picture", pictures[:2]), ("一只猫", pictures[2:]), ("x", []), ("y", []), ("z", pictures[:1])]
    sheet = contact_sheet(entries, title="Step 3", height=64)
    pixels = np.asarray(sheet)
    places = {}
    for name, color in (("red", (255, 0, 0)), ("lime", (0, 255, 0)), ("blue", (0, 0, 255))):
        rows, columns = np.nonzero((pixels == color).all(axis=-1))
        places[name] = (rows.min(), columns.min())
        assert len(rows) == 64 * 128 * (2 if name == "red" else 1)
    assert places["red"][1] < places["lime"][1] < places["blue"][1]
    assert places["red"][0] == places["lime"][0] == places["blue"][0] > MARGIN
    assert contact_sheet([], height=64).size[0] > 0
