# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Muon for the matrices between layers, with AdamW for everything else, as one optimizer for `Trainer`."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Linear layers that take codes in or give tokens and codes out, which Muon is not meant for.
OUTER = (
    "lm_head",
    "generation_head.fc2",
    "editing_head.fc2",
    "generation_adapter.fc1",
    "editing_adapter.fc1",
    "source_adapter.fc1",
)


class StackedMuon(torch.optim.Muon):
    """torch's Muon with `adjust_lr_fn="match_rms_adamw"`, which makes the updates of all matrices of one shape at once:
    a small model has dozens of small ones, and one product of many is several times faster than many products. Same
    other options, state and steps."""

    def __init__(self, params: Any, **options: Any):
        super().__init__(params, adjust_lr_fn="match_rms_adamw", **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step with all gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            stacks = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if weight.grad.ndim != 2 or hasattr(weight.grad, "device_mesh"):
                    raise ValueError(
                        f"`optimizer` 'muon' needs whole matrices, but got a gradient of shape {tuple(weight.shape)} "
                        "that is sharded or flattened (FSDP, ZeRO). Take 'adamw' there."
                    )
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                # With no more rows than columns, the smaller of the two products of a matrix with itself.
                wide = update.mT if update.shape[0] > update.shape[1] else update
                stacks[wide.shape].append((weight, wide))
            for entries in stacks.values():
                updates = orthogonalize(
                    torch.stack([wide for _, wide in entries]),
                    group["ns_coefficients"],
                    group["ns_steps"],
                    group["eps"],
                )
                for (weight, _), wide in zip(entries, updates, strict=True):
                    update = wide.mT if weight.shape[0] > weight.shape[1] else wide
                    # An update as large as AdamW's would be.
                    scale = 0.2 * max(weight.shape) ** 0.5
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(update, alpha=-group["lr"] * scale)
        return loss


def orthogonalize(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Matrices `(n, rows, columns)`, no more rows than columns, with all singular values brought near 1: Newton and
    Schulz' iteration of the fifth degree, in bfloat16."""
    linear, cubic, quintic = coefficients
    matrices = matrices.bfloat16()
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        square = matrices @ matrices.mT
        polynomial = torch.baddbmm(square, square, square, beta=cubic, alpha=quintic)
        matrices = torch.baddbmm(matrices, polynomial, matrices, beta=linear)
    return matrices


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's `Muon` and `AdamW` behind one face: one learning rate, one state, one schedule.

    A matrix that turns one hidden state into another gets an update of the same size in every direction (Muon), scaled
    so that AdamW's learning rate suits it. Embeddings, norms, biases, convolutions and the outermost layers of adapters
    and heads stay with AdamW.

    Args:
        model: its parameters that require a gradient are trained.
        lr, weight_decay: of both; as `Trainer` has it, biases and norms do not decay.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ):
        names = hidden_matrices(model)
        trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        hidden = [weight for name, weight in trained if name in names]
        other = [weight for name, weight in trained if name not in names and weight.ndim > 1]
        small = [weight for name, weight in trained if name not in names and weight.ndim <= 1]
        self.parts: list[torch.optim.Optimizer] = []
        if hidden:
            self.parts.append(StackedMuon(hidden, lr=lr, weight_decay=weight_decay))
        groups = [{"params": other, "weight_decay": weight_decay}, {"params": small, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if groups:
            self.parts.append(torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps))
        super().__init__([{"params": [weight for _, weight in trained]}], {"lr": lr})
        # The parts' own: what a schedule writes to these is what the parts read.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step with all gradients that are there; the first part calls the closure, before any weight moves."""
        first, *others = self.parts
        loss = first.step(closure)
        for part in others:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts, in `parts`."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises a `ValueError` where the state is that of another optimizer."""
        states = state_dict.get("parts")
        if states is None or len(states) != len(self.parts):
            raise ValueError(
                "`state_dict` must hold the state of Muon and AdamW, but it is that of another optimizer. A run goes "
                "on with the `optimizer` that it was begun with."
            )
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of the weights that Muon trains: of linear layers between hidden states."""
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith(OUTER) and module.weight.requires_grad
    }


def muon_with_adamw() -> type[MuonWithAdamW]:
    """For `Trainer`'s `optimizer_cls_and_kwargs`, which calls what it gets here with the model and the options."""
    return MuonWithAdamW


__all__ = ["MuonWithAdamW", "hidden_matrices", "muon_with_adamw"]
