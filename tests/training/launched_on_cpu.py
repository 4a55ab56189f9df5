# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo ...` in processes that `accelerate launch` has started for GPUs, on a machine that has none.

accelerate shards models on GPUs alone, PyTorch's FSDP2 and DeepSpeed do it on a CPU as well, through gloo. So
accelerate is told that this is a group of processes with GPUs, whose device is the CPU; nothing else is changed.
"""

import os

import torch

torch.set_num_threads(1)
if "true" in (os.environ.get("ACCELERATE_USE_FSDP"), os.environ.get("ACCELERATE_USE_DEEPSPEED")):
    os.environ.update(ACCELERATE_TORCH_DEVICE="cpu", DS_ACCELERATOR="cpu")

    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState._prepare_backend = lambda *_args, **_options: ("gloo", DistributedType.MULTI_GPU)

from transformers_wallaroo.cli import main  # noqa: E402

if "WALLAROO_TEST_FACTORS" in os.environ:  # "STEP RANK FACTOR, ...": by what a loss is to be multiplied, and where
    from transformers_wallaroo.training.trainer import WallarooTrainer

    entries = [entry.split() for entry in os.environ["WALLAROO_TEST_FACTORS"].split(",")]
    factors = {(int(step), int(rank)): float(factor) for step, rank, factor in entries}
    compute_loss = WallarooTrainer.compute_loss

    def broken(self, model, *args, **kwargs):
        loss = compute_loss(self, model, *args, **kwargs)
        return loss * factors.get((self.state.global_step + 1, self.args.process_index), 1) if model.training else loss

    WallarooTrainer.compute_loss = broken

main()
