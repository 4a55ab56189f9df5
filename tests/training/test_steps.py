# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A step of `WallarooTrainer`: the same however it is split, nothing dropped silently, nothing broken learned."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from PIL import Image
from transformers import TrainerCallback

from transformers_wallaroo.training.collator import DROP_REASONS
from transformers_wallaroo.training.spikes import SpikeGuard
from transformers_wallaroo.training.trainer import WallarooTrainingArguments

from forking import in_processes
from small import TASKS, collator_of, gradients, largest_difference, losses_of, samples_of, trainer_of

# Batches of one or two of these lack tasks.
MIXED = samples_of("understand", "understand", "understand", "generate", "generate", "generate", "edit", "edit")


class KeepGradients(TrainerCallback):
    """The gradients of each step, before the optimizer takes them."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):  # noqa: ARG002
        self.steps.append(gradients(model))


def train(model, processor, folder, samples=MIXED, **arguments):
    """Gradients of each step, log and final weights."""
    kept = KeepGradients()
    trainer = trainer_of(model, processor, samples, folder, callbacks=[kept], **arguments)
    trainer.train()
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    steps = [{name.removeprefix("module."): value for name, value in step.items()} for step in kept.steps]
    return steps, losses_of(trainer.state.log_history), weights


ONE_BATCH = {"per_device_train_batch_size": 8, "max_steps": 2, "loss_weights": {"edit": 0.5}}


@pytest.fixture(scope="module")
def whole(shared_small, tmp_path_factory):
    """Two steps of eight samples each, in one batch of one process."""
    model, processor = copy.deepcopy(shared_small)
    return train(model.train(), processor, tmp_path_factory.mktemp("whole"), MIXED + MIXED[::-1], **ONE_BATCH)


def assert_same_steps(found, expected):
    """Worst seen: 4e-7 of the largest gradient, 2e-7 of the largest weight, 5e-7 of a loss."""
    assert len(found[0]) == len(expected[0]) == 2
    for step, expected_step in zip(found[0], expected[0], strict=True):
        assert largest_difference(step, expected_step) < 2e-6
    assert largest_difference(found[2], expected[2]) < 1e-6
    assert [entry.keys() for entry in found[1]] == [entry.keys() for entry in expected[1]]
    for entry, expected_entry in zip(found[1], expected[1], strict=True):
        assert entry == pytest.approx(expected_entry, rel=2e-6)


def test_log_names_each_loss_and_each_norm(whole):
    first = whole[1][0]
    assert {name for name in first if name.startswith("loss/")} == {
        "loss/understand_text",
        "loss/generate_text",
        "loss/generate_image",
        "loss/edit_text",
        "loss/edit_image",
    }
    weights = {"loss/edit_text": 0.5, "loss/edit_image": 0.5}
    named = sum(value * weights.get(name, 1) for name, value in first.items() if name.startswith("loss/"))
    assert first["loss"] == pytest.approx(named, rel=1e-6)
    norms = [value for name, value in first.items() if name.startswith("grad_norm/")]
    assert len(norms) == 7  # no text head of its own
    assert first["grad_norm"] == pytest.approx(sum(norm**2 for norm in norms) ** 0.5, rel=1e-5)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (4, 2)])
def test_gradient_accumulation_changes_nothing(small_model, small_processor, tmp_path, whole, batch, accumulation):
    found = train(
        small_model,
        small_processor,
        tmp_path / "split",
        MIXED + MIXED[::-1],
        **ONE_BATCH | {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation},
    )
    assert_same_steps(found, whole)


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (2, 2), (1, 4)])
def test_processes_change_nothing(small_model, small_processor, tmp_path, whole, batch, accumulation):
    arguments = ONE_BATCH | {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    found = in_processes(
        lambda rank: train(small_model, small_processor, tmp_path / f"split-{rank}", MIXED + MIXED[::-1], **arguments),
        tmp_path / "results",
    )
    for of_process in found:
        assert_same_steps(of_process, whole)


def test_mean_over_batches_would_change_something(small_model, small_processor, tmp_path, whole):
    """The tests above can fail: transformers' usual mean of means is another gradient."""
    arguments = ONE_BATCH | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    kept = KeepGradients()
    trainer = trainer_of(
        small_model, small_processor, MIXED + MIXED[::-1], tmp_path / "split", callbacks=[kept], **arguments
    )
    trainer._get_num_items_in_batch = lambda _batches, _device: None
    trainer.train()
    assert largest_difference(kept.steps[0], whole[0][0]) > 0.02


@pytest.mark.parametrize("options", [{"pack_length": 0}, {"pack_length": 150}])
def test_packing_changes_nothing(small_model, small_processor, tmp_path, whole, options):
    collator = collator_of(small_processor, drop=True, **options)
    samples = MIXED + MIXED[::-1]
    assert_same_steps(train(small_model, small_processor, tmp_path, samples, collator=collator, **ONE_BATCH), whole)


def test_gradient_checkpointing_changes_nothing(small_model, small_processor, tmp_path, whole):
    small_model.enable_input_require_grads()
    arguments = ONE_BATCH | {"gradient_checkpointing": True}
    recomputed = []
    small_model.model.language_model.layers[0].self_attn.register_forward_hook(lambda *_: recomputed.append(1))
    assert_same_steps(train(small_model, small_processor, tmp_path, MIXED + MIXED[::-1], **arguments), whole)
    assert len(recomputed) == 4


def test_bf16_computes_in_bf16_and_keeps_the_weights(small_model, small_processor, tmp_path, whole):
    """Worst seen: 0.6 % of a loss."""
    dtypes = set()
    small_model.model.language_model.layers[0].mlp.register_forward_hook(lambda *parts: dtypes.add(parts[2].dtype))
    _, log, weights = train(small_model, small_processor, tmp_path, MIXED + MIXED[::-1], bf16=True, **ONE_BATCH)
    assert dtypes == {torch.bfloat16}
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    for name, value in whole[1][0].items():
        if name.startswith("loss"):
            assert log[0][name] == pytest.approx(value, rel=0.03)


# ---------------------------------------------------------------------- dropped samples


def test_dropped_samples_are_counted_in_the_log(small_model, small_processor, tmp_path):
    """Over accumulated batches as well; what is learned is what a batch without them teaches."""
    samples = samples_of("generate", "understand", "generate", "understand")
    samples[0] = {**samples[0], "prompt": samples[0]["prompt"] + " red" * 60}
    samples[2] = {**samples[2], "image": Image.new("RGB", (20, 30))}
    samples[3] = {**samples[3], "messages": [*samples[3]["messages"] * 30]}
    collator = collator_of(small_processor, limits={"generate": 100, "understand": 150}, min_side=31, drop=True)
    without = train(copy.deepcopy(small_model), small_processor, tmp_path / "a", samples[1:2], collator=collator)
    arguments = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    found = train(small_model, small_processor, tmp_path / "b", samples, collator=collator, **arguments)
    assert {name: value for name, value in found[1][0].items() if name.startswith("dropped")} == {
        "dropped/too_long": 2,
        "dropped/too_small": 1,
    }
    assert not any(name.startswith("dropped") for name in without[1][0])
    assert largest_difference(found[0][0], without[0][0]) < 1e-6


@pytest.mark.parametrize(
    ("changes", "options", "reason", "complaint"),
    [
        (
            {"prompt": "red " * 90},
            {"limits": {"generate": 100}},
            "too_long",
            r"it has \d+ tokens, but the limit is 100 \(`limits`\)",
        ),
        ({"prompt": "red " * 600}, {}, "too_long", r"but the limit is 512 \(`max_length`\)"),
        ({"image": Image.new("RGB", (20, 30))}, {"min_side": 31}, "too_small", "longest side is 30 pixels, below 31"),
        (
            {"image": Image.new("RGB", (30, 61))},
            {"max_ratio": 2},
            "bad_ratio",
            r"its sides have the ratio 2.03, above 2",
        ),
    ],
)
def test_dropping_is_asked_for_and_counted_by_reason(small_processor, changes, options, reason, complaint):
    [good, bad] = samples_of("generate", "generate")
    bad = {**bad, **changes}
    options = {**options, "unconditional_probability": 0}
    with pytest.raises(ValueError, match=f"Sample 1: .*{complaint}"):
        collator_of(small_processor, **options)([good, bad])
    batch = collator_of(small_processor, drop=True, **options)([good, bad])
    assert dict(zip(DROP_REASONS, batch["dropped"].tolist(), strict=True)) == {
        name: int(name == reason) for name in DROP_REASONS
    }
    assert len(batch["input_ids"]) == 1


def test_limits_of_size_are_for_what_is_drawn_alone(small_processor):
    """Sources and questions may be of any size; so may images whose codes are known."""
    small = Image.new("RGB", (20, 70))
    [edit, question] = samples_of("edit", "understand")
    coded = {**samples_of("generate")[0], "image": None, "codes": [[1, 2], [3, 4]], "height": 32, "width": 32}
    samples = [{**edit, "source_image": small, "image": small}, {**question, "images": [small]}, coded]
    collate = collator_of(small_processor, min_side=200, max_ratio=1.5, code_offset=2000, drop=True)
    assert collate(samples)["dropped"].tolist() == [0] * len(DROP_REASONS)


@pytest.mark.parametrize("pack_length", [None, 0])
def test_batch_without_samples_trains_on(small_model, small_processor, tmp_path, pack_length):
    """Nothing is learned from it, and the next step is as if it had not been."""
    collator = collator_of(small_processor, limits={"generate": 3}, pack_length=pack_length, drop=True)
    before = {name: value.clone() for name, value in small_model.state_dict().items()}
    _, log, weights = train(
        small_model,
        small_processor,
        tmp_path,
        samples_of("generate", "generate", "understand", "understand"),
        collator=collator,
        per_device_train_batch_size=2,
        max_steps=1,
    )
    assert (log[0]["loss"], log[0]["grad_norm"], log[0]["dropped/too_long"]) == (0, 0, 2)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_batch_without_samples_moves_no_weight(small_model, small_processor, tmp_path):
    """Neither by AdamW's momentum nor by decay: the run is as one that never had the batch."""
    arguments = {"collator": collator_of(small_processor, limits={"generate": 3}, drop=True), **ADAM}
    arguments["per_device_train_batch_size"] = 2
    samples = [*QUESTIONS[:2], *samples_of("generate", "generate"), *QUESTIONS[4:]]
    without = [*QUESTIONS[:2], *QUESTIONS[4:]]
    expected = train(copy.deepcopy(small_model), small_processor, tmp_path, without, max_steps=2, **arguments)
    _, log, weights = train(small_model, small_processor, tmp_path, samples, max_steps=3, **arguments)
    assert [entry.get("dropped/too_long") for entry in log[:3]] == [None, 2, None]
    assert all(torch.equal(weights[name], value) for name, value in expected[2].items())


def test_other_mistakes_are_not_dropped(small_processor):
    sample = {**samples_of("generate")[0], "prompt": "a <|im_end|>"}
    with pytest.raises(ValueError, match="Sample 0: `prompt` holds the special token"):
        collator_of(small_processor, drop=True)([sample])
    with pytest.raises(ValueError, match="`limits` may name the tasks understand, generate, edit, but got draw"):
        collator_of(small_processor, limits={"draw": 3})


# ---------------------------------------------------------------------- steps that must not be taken


class Poison:
    """A collator whose batch number `poisoned` has pixels that are not numbers."""

    def __init__(self, processor, poisoned):
        self.collate = collator_of(processor, drop=True)
        self.poisoned = poisoned
        self.seen = 0

    def __call__(self, samples):
        batch = self.collate(samples)
        if self.seen == self.poisoned:
            batch["pixel_values"] = batch["pixel_values"] * math.nan
        self.seen += 1
        return batch


QUESTIONS = samples_of(*["understand"] * 6)
ADAM = {"optim": "adamw_torch", "learning_rate": 0.01, "weight_decay": 0.1}


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING" and "Step" in record.msg]


def test_step_that_is_no_number_is_not_taken(small_model, small_processor, tmp_path, caplog):
    """Weights and the optimizer's state afterwards are those of a run that never saw the batch."""
    expected = train(
        copy.deepcopy(small_model),
        small_processor,
        tmp_path / "a",
        QUESTIONS[:2] + QUESTIONS[4:],
        per_device_train_batch_size=2,
        max_steps=2,
        **ADAM,
    )
    assert not warnings_of(caplog)
    trainer = trainer_of(
        small_model,
        small_processor,
        QUESTIONS,
        tmp_path / "b",
        collator=Poison(small_processor, 1),
        per_device_train_batch_size=2,
        max_steps=3,
        **ADAM,
    )
    trainer.train()
    assert warnings_of(caplog) == ["Step 2 is skipped: its gradient norm is nan."]
    for name, value in small_model.state_dict().items():
        assert torch.equal(value, expected[2][name])
    assert all(state["step"] == 2 for state in trainer.optimizer.state.values())
    log = losses_of(trainer.state.log_history)
    assert math.isnan(log[1]["grad_norm"])
    assert log[1]["skipped_steps"] == 1
    assert not any(name.startswith("loss/") for name in log[1])
    unlike = {"step", "skipped_steps"}
    assert {k: v for k, v in log[2].items() if k not in unlike} == {
        k: v for k, v in expected[1][1].items() if k not in unlike
    }


def test_step_that_is_no_number_on_one_process_is_skipped_on_all(small_model, small_processor, tmp_path, caplog):
    def run(rank):
        collator = Poison(small_processor, 1 if rank == 0 else -1)
        arguments = {"per_device_train_batch_size": 1, "max_steps": 3}
        result = train(small_model, small_processor, tmp_path / str(rank), QUESTIONS, collator=collator, **arguments)
        return result, warnings_of(caplog)

    expected = train(
        copy.deepcopy(small_model),
        small_processor,
        tmp_path / "alone",
        QUESTIONS[:2] + QUESTIONS[4:],
        per_device_train_batch_size=2,
        max_steps=2,
    )
    for (_, log, weights), said in in_processes(run, tmp_path / "results"):
        assert said == ["Step 2 is skipped: its gradient norm is nan."]
        assert [entry.get("skipped_steps") for entry in log] == [None, 1, 1]
        assert largest_difference(weights, expected[2]) < 1e-6


class Surge(TrainerCallback):
    """Makes the gradient of one step much larger."""

    def __init__(self, at, factor):
        self.at, self.factor = at, factor

    def on_step_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        args.loss_weights = dict.fromkeys(TASKS, self.factor) if state.global_step == self.at else None


@pytest.mark.parametrize("processes", [1, 2])
def test_spike_is_skipped(small_model, small_processor, tmp_path, caplog, processes):
    samples = QUESTIONS[:2] * 6

    def run(rank):
        return train_surging(rank), warnings_of(caplog)

    def train_surging(rank):
        kept = KeepWeights()
        trainer = trainer_of(
            small_model,
            small_processor,
            samples,
            tmp_path / str(rank),
            callbacks=[Surge(4, 1000.0), kept],
            per_device_train_batch_size=2 // processes,
            max_steps=6,
            spike_factor=5.0,
            spike_window=4,
            **ADAM,
        )
        trainer.train()
        return kept.steps, losses_of(trainer.state.log_history)

    results = [run(0)] if processes == 1 else in_processes(run, tmp_path / "results")
    for (weights, log), said in results:
        [warning] = said
        assert warning.startswith("Step 5 is skipped: its gradient norm ")
        assert "is more than 5 times the median" in warning
        moved = [not torch.equal(before, after) for before, after in pairwise(weights)]
        assert moved == [True, True, True, False, True]
        assert log[4]["grad_norm"] > 100 * log[3]["grad_norm"]
        assert [entry.get("skipped_steps") for entry in log] == [None] * 4 + [1, 1]


class KeepWeights(TrainerCallback):
    """A weight after each step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):  # noqa: ARG002
        self.steps.append(model.get_input_embeddings().weight.detach().clone())


def test_guard_follows_a_lasting_change_and_does_not_stick():
    guard = SpikeGuard(factor=2.0, window=4)
    assert [guard.verdict(1.0) for _ in range(4)] == [None] * 4
    verdicts = [guard.verdict(5.0) for _ in range(6)]
    assert verdicts[0] == "its gradient norm 5 is more than 2 times the median 1"
    assert verdicts[-1] is None
    guard = SpikeGuard(factor=2.0, window=4)
    assert [guard.verdict(norm) for norm in (0.0, 0.0, 0.0, 0.0, 1.0, 1.0)] == [None] * 6
    assert SpikeGuard(factor=0, window=2).verdict(1e9) is None
    assert SpikeGuard(factor=0).verdict(math.inf) == "its gradient norm is inf"
    early = SpikeGuard(factor=2.0, window=4)
    assert [early.verdict(norm) for norm in (1.0, 100.0)] == [None, None]  # not half a window yet


def test_guard_starts_anew_with_each_training(small_model, small_processor, tmp_path):
    trainer = trainer_of(small_model, small_processor, QUESTIONS, tmp_path, per_device_train_batch_size=2, max_steps=3)
    trainer.train()
    norms = list(trainer.spike_guard.norms)
    assert len(norms) == 3
    state = trainer.spike_guard.state()
    other = SpikeGuard(**state["args"])
    trainer.state.stateful_callbacks["SpikeGuard"] = state
    for _ in range(2):
        other.on_train_begin(None, trainer.state, None)
        assert list(other.norms) == norms


# ---------------------------------------------------------------------- arguments


def test_arguments_are_checked(small_model, small_processor, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`loss_weights` may name the tasks understand, generate, edit, but got draw"):
        WallarooTrainingArguments(str(tmp_path), loss_weights={"draw": 1})
    with pytest.raises(ValueError, match="`label_smoothing_factor` must be 0"):
        WallarooTrainingArguments(str(tmp_path), label_smoothing_factor=0.1)
    assert WallarooTrainingArguments(str(tmp_path), loss_weights='{"edit": 2}').loss_weights == {"edit": 2}
    monkeypatch.setattr(WallarooTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"One process sees 2 GPUs.*Start a process for each GPU"):
        trainer_of(small_model, small_processor, QUESTIONS, tmp_path)


def test_every_process_must_count_all_labels(small_model, small_processor, tmp_path, monkeypatch):
    monkeypatch.setattr(WallarooTrainingArguments, "world_size", 2)
    with pytest.raises(ValueError, match="`average_tokens_across_devices` must be on"):
        trainer_of(small_model, small_processor, QUESTIONS, tmp_path, average_tokens_across_devices=False)


def test_defaults_are_those_of_the_paper(tmp_path):
    arguments = WallarooTrainingArguments(str(tmp_path))
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon) == (0.9, 0.95, 1e-8)
    assert (arguments.weight_decay, arguments.max_grad_norm) == (0, 1.0)
    assert arguments.lr_scheduler_type == "constant_with_warmup"
    assert arguments.remove_unused_columns is False


@pytest.mark.parametrize(
    "tasks", [("understand",), ("generate",), ("edit",), ("edit", "generate"), ("generate", "edit")]
)
def test_any_mix_of_tasks_runs_the_same_modules_in_the_same_order(small_model, small_processor, monkeypatch, tasks):
    """What ZeRO-2 and ZeRO-3 need of processes whose batches hold other tasks; see `WallarooModel.embed_inputs`."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    small_model.requires_grad_(True)
    for part in (small_model.model.vq_model, small_model.model.visual):
        part.requires_grad_(False)

    def orders(batch):
        ran, learned = [], []
        hooks = [
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
            for name, module in small_model.named_modules()
            # The tokenizer encodes as often as there are sizes; it is whole in each process.
            if next(module.parameters(recurse=False), None) is not None and "vq_model" not in name
        ] + [
            weight.register_post_accumulate_grad_hook(lambda _, name=name: learned.append(name))
            for name, weight in small_model.named_parameters()
            if weight.requires_grad
        ]
        counts = torch.full((5,), 10.0)  # labels of all processes
        small_model(**batch, num_items_in_batch=counts)["loss"].backward()
        for hook in hooks:
            hook.remove()
        return ran, learned

    collate = collator_of(small_processor)
    everything = collate(samples_of("understand", "generate", "edit"))
    batch = collate(samples_of(*tasks))
    for inputs in (everything, batch):
        inputs.pop("dropped", None)
    expected, found = orders(everything), orders(batch)
    assert found == expected
    assert {name for name, weight in small_model.named_parameters() if weight.requires_grad} == set(found[1])
