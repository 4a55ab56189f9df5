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

if "WALLAROO_TEST_NAN" in os.environ:  # "STEP RANK": where a loss is to be NaN
    from transformers_wallaroo.training.trainer import WallarooTrainer

    at, rank = map(int, os.environ["WALLAROO_TEST_NAN"].split())
    compute_loss = WallarooTrainer.compute_loss

    def broken(self, model, *args, **kwargs):
        loss = compute_loss(self, model, *args, **kwargs)
        wanted = model.training and self.state.global_step + 1 == at and self.args.process_index == rank
        return loss * float("nan") if wanted else loss

    WallarooTrainer.compute_loss = broken

main()
