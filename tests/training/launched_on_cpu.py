# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`wallaroo ...` in processes that `accelerate launch` has started for GPUs, on a machine that has none.

accelerate knows sharding on GPUs alone. PyTorch's FSDP2 shards on a CPU as well, through gloo; so a group of processes
on CPUs is called one on GPUs, and nothing else is changed.
"""

import os

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from transformers_wallaroo.cli import main

torch.set_num_threads(1)
if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    start = PartialState.__init__

    def start_as_if_on_gpus(self, *args, **kwargs):
        start(self, *args, **kwargs)
        if self.distributed_type is DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = start_as_if_on_gpus
main()
