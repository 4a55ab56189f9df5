# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Training of the VQ image tokenizer: losses, trainer and the one function that runs a recipe.

The losses are those of a VQ-VAE: pixels (L2 and L1), commitment and codebook. There is neither a discriminator nor a
perceptual loss: both need networks and data that a small, flat picture does not repay.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast, reduce
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from ..configuration_wallaroo import WallarooVQConfig
from ..modeling_wallaroo_vq import WallarooVQModel
from .resuming import last_whole_checkpoint, remove_run
from .vq_data import PictureFolder, ShapesPictures, VQCollator, VQTrainingConfig

logger = logging.get_logger(__name__)


def cells_of(pixel_values: torch.Tensor, factor: int) -> torch.Tensor:
    """The cells of pictures `(batch, 3, height, width)`, flat: `(batch * cells, 3 * factor**2)`, in raster order."""
    return nn.functional.unfold(pixel_values, factor, stride=factor).transpose(1, 2).flatten(0, 1)


def same_cells(pixel_values: list[torch.Tensor], factor: int) -> torch.Tensor:
    """A number for each cell of the batch, `(cells,)`; equal where all pixels of the cells are exactly equal."""
    cells = torch.cat([cells_of(pixels.float(), factor) for pixels in pixel_values])
    # A sum in whole numbers with random weights tells cells apart far faster than sorting their pixels.
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**40), 2**40, (cells.shape[1],), generator=generator).to(cells.device)
    sums = ((cells * 127.5 + 127.5).round().long() * weights).sum(dim=1)
    return torch.unique(sums, return_inverse=True)[1]


def foreground(pixels: torch.Tensor) -> torch.Tensor:
    """Where a picture differs from its commonest colour: bool `(batch, 1, height, width)` of `(batch, 3, ...)`."""
    steps = (pixels.float() * 127.5 + 127.5).round().long()
    colors = steps[:, 0] * 65536 + steps[:, 1] * 256 + steps[:, 2]
    commonest = colors.flatten(1).mode(dim=1).values
    return (colors != commonest[:, None, None])[:, None]


class VQObjective(nn.Module):
    """A tokenizer and its losses: pictures in, named losses out.

    Cells with the same pixels can be tied (`same_cell_weight` or `contrast_weight` above 0): they then share the code
    of their mean latent and are drawn to that mean. GroupNorm sees the whole picture, so that without it a cell's code
    depends on what else the picture shows, and a plain background gets dozens of codes.

    Attributes:
        idle (`torch.LongTensor` of shape `(num_embeddings,)`): training steps since a code was used.
        step (`torch.LongTensor` of shape `()`): batches of training so far.
    """

    idle: torch.Tensor
    step: torch.Tensor

    def __init__(self, model: WallarooVQModel, config: VQTrainingConfig):
        super().__init__()
        self.model = model
        self.config = config
        self.register_buffer("idle", torch.zeros(model.config.num_embeddings, dtype=torch.long))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        with torch.no_grad():
            # Of length 1, so that a step of the optimizer turns each code by as much.
            weight = model.quantize.embedding.weight
            weight.copy_(nn.functional.normalize(weight, dim=-1))

    def single_cells(self, pixel_values: list[torch.Tensor]) -> torch.Tensor:
        """Each different cell of the batch once, as pictures of one cell `(cells, 3, height, width)`: a tokenizer that
        works cell by cell makes the same of equal ones."""
        factor = self.model.downsample_factor
        group = same_cells(pixel_values, factor)
        first = torch.full((int(group.max()) + 1,), len(group), device=group.device)
        first = first.scatter_reduce(0, group, torch.arange(len(group), device=group.device), "amin")
        return torch.cat([cells_of(pixels, factor) for pixels in pixel_values])[first].unflatten(1, (3, factor, factor))

    def encode(self, pixel_values: list[torch.Tensor]) -> torch.Tensor:
        """Latents of all cells, fp32 unit vectors `(cells, embed_dim)`, with gradient."""
        latents = [self.model.quant_conv(self.model.encoder(pixels)).float() for pixels in pixel_values]
        return nn.functional.normalize(torch.cat([part.permute(0, 2, 3, 1).flatten(0, 2) for part in latents]), dim=-1)

    def decode(self, latents: torch.Tensor, like: list[torch.Tensor]) -> list[torch.Tensor]:
        """Pictures of the sizes of `like` from the latents of all their cells, with gradient."""
        factor = self.model.downsample_factor
        shapes = [(len(p), p.shape[-2] // factor, p.shape[-1] // factor) for p in like]
        parts = latents.split([batch * height * width for batch, height, width in shapes])
        grids = [part.unflatten(0, shape).permute(0, 3, 1, 2) for part, shape in zip(parts, shapes, strict=True)]
        return [self.model.decoder(self.model.post_quant_conv(grid.contiguous())) for grid in grids]

    def forward(self, pixel_values: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The losses of one batch.

        Args:
            pixel_values (list of `torch.FloatTensor` of shape `(batch_size, 3, height, width)`): RGB in `[-1, 1]`; one
                tensor for each size in the batch.

        Returns:
            `loss`, its unweighted parts `pixel_l2`, `pixel_l1`, `commitment`, `codebook`, `same_cell`, `contrast`,
            and `perplexity`: the number of codes in even use that this batch's use is like.
        """
        config = self.config
        if self.model.config.cell_wise:
            pixel_values = [self.single_cells(pixel_values)]
        latents = self.encode(pixel_values)
        if config.same_cell_weight or config.contrast_weight:
            group = same_cells(pixel_values, self.model.downsample_factor)
        else:
            group = torch.arange(len(latents), device=latents.device)
        means = _group_means(latents, group)
        anchors = nn.functional.normalize(means.detach(), dim=-1)
        if self.training:
            self._restart_dead_codes(anchors)
        codebook = nn.functional.normalize(self.model.quantize.embedding.weight.float(), dim=-1)
        codes = (anchors @ codebook.T).argmax(dim=-1)[group]
        counts = reduce(torch.bincount(codes, minlength=len(codebook)), reduction="sum")
        if self.training:
            self.idle += 1
            self.idle[counts > 0] = 0
            self.step += 1
        chosen = codebook[codes]
        losses = {
            "commitment": _distance(latents, chosen.detach()),
            "codebook": _distance(chosen, latents.detach()),
            "same_cell": _distance(latents, means[group]),
            "contrast": nn.functional.cross_entropy(latents @ means.T / config.contrast_temperature, group),
        }
        if self.training and self.step <= config.continuous_steps:
            # All latents lie together at first: one code for all would leave the decoder nothing to tell the encoder.
            losses["commitment"] = losses["commitment"] * 0
            chosen = latents
        # Straight through: the decoder reads the code, the encoder gets the decoder's gradient.
        pictures = self.decode(latents + (chosen - latents).detach(), pixel_values)
        losses["pixel_l2"], losses["pixel_l1"] = self._pixel_losses(pictures, pixel_values)
        losses["loss"] = sum(
            (getattr(config, f"{name}_weight") * loss for name, loss in losses.items()), latents.new_zeros(())
        )
        used = counts[counts > 0] / counts.sum()
        losses["perplexity"] = (-(used * used.log()).sum()).exp()
        return losses

    def _pixel_losses(self, pictures: list[torch.Tensor], truth: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Mean squared and mean absolute difference, pixels of the foreground weighted."""
        squares, absolutes, weights = [], [], []
        for picture, pixels in zip(pictures, truth, strict=True):
            weight = 1 + self.config.foreground_weight * foreground(pixels).float()
            difference = picture.float() - pixels.float()
            squares.append((weight * difference.square()).sum())
            absolutes.append((weight * difference.abs()).sum())
            weights.append(3 * weight.sum())
        total = torch.stack(weights).sum()
        return torch.stack(squares).sum() / total, torch.stack(absolutes).sum() / total

    @torch.no_grad()
    def _restart_dead_codes(self, anchors: torch.Tensor) -> None:
        """Moves codes that nothing uses to latents, `(groups, embed_dim)`, that no code is near."""
        dead = (self.idle >= self.config.dead_after).nonzero().flatten()
        if not len(dead):
            return
        weight = self.model.quantize.embedding.weight
        nearest = (anchors @ nn.functional.normalize(weight.float(), dim=-1).T).amax(dim=-1)
        far = anchors[2 - 2 * nearest > self.config.restart_distance]
        far = far[torch.randperm(len(far), device=far.device)[: len(dead)]]
        weight[dead[: len(far)]] = far.to(weight.dtype)
        self.idle[dead[: len(far)]] = 0
        # Each process has seen other pictures; the codebook is one.
        weight.copy_(broadcast(weight.data))
        self.idle.copy_(broadcast(self.idle))


def _group_means(latents: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Mean of the latents of each group, `(groups, embed_dim)`."""
    counts = torch.bincount(group)
    return latents.new_zeros(len(counts), latents.shape[1]).index_add(0, group, latents) / counts[:, None]


def _distance(latents: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of vectors, in `[0, 4]` for unit vectors."""
    return (latents - others).square().sum(dim=-1).mean()


class WallarooVQTrainer(Trainer):
    """`Trainer` of a `VQObjective`: logs each loss by name."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._sums: dict[str, torch.Tensor] = {}
        self._batches = 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # noqa: ARG002
        losses = model(**inputs)
        for name, value in losses.items():
            if name != "loss":
                self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._batches += 1
        return (losses["loss"], losses) if return_outputs else losses["loss"]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the means of the losses since the last time."""
        if self._batches:
            logs.update({name: round((value / self._batches).item(), 6) for name, value in self._sums.items()})
            self._sums, self._batches = {}, 0
        super().log(logs, *args, **kwargs)


def train_vq(
    config: VQTrainingConfig, *, output_dir: str | os.PathLike | None = None, resume: bool = True
) -> WallarooVQModel:
    """Trains a tokenizer and saves it.

    Args:
        config (`VQTrainingConfig`): the recipe.
        output_dir (`str` or `os.PathLike`, *optional*): where the tokenizer and, in `checkpoints/`, the trainer's
            checkpoints go; `config.output_dir` if not given.
        resume (`bool`): whether to go on from the last whole checkpoint there; the result is the same as without a
            stop. `False` removes the checkpoints of an earlier run.

    Returns:
        `WallarooVQModel`: trained, in evaluation mode, fp32, on the CPU.
    """
    output = Path(output_dir if output_dir is not None else config.output_dir)
    checkpoints = output / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = WallarooVQModel(WallarooVQConfig(**config.vq_config))
    init_convolutions(model, config.init_gain)
    dataset = make_dataset(config, model.downsample_factor)
    trainer = WallarooVQTrainer(
        VQObjective(model, config).train(),
        training_arguments(config, checkpoints),
        data_collator=VQCollator(model.downsample_factor),
        train_dataset=dataset,
    )
    # One process removes what is broken or not wanted before the others look.
    with trainer.args.main_process_first(local=False):
        if trainer.is_world_process_zero() and not resume:
            remove_run(checkpoints)
        last = last_whole_checkpoint(checkpoints)
    if last is not None:
        logger.info("Goes on from %s.", last)
    trainer.train(resume_from_checkpoint=last)
    model = model.to("cpu", torch.float32).eval()
    with torch.no_grad():
        weight = model.quantize.embedding.weight
        weight.copy_(nn.functional.normalize(weight, dim=-1))
    if trainer.is_world_process_zero():
        save_whole(model, output)
    return model


@torch.no_grad()
def init_convolutions(model: WallarooVQModel, gain: float) -> None:
    """Starts each convolution with random biases and weights that multiply the size of its input by `gain`.

    transformers' own start, 0.02 for all and no biases, lets the signal of a narrow network fade from layer to layer;
    the decoder, which must find out the place within a cell by itself, then starts more slowly.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            module.weight.normal_(std=gain * bound)
            assert module.bias is not None
            module.bias.uniform_(-bound, bound)


def make_dataset(config: VQTrainingConfig, factor: int) -> Dataset:
    """The pictures of a recipe, as many as its steps take; `factor` is the tokenizer's pixels a cell."""
    length = config.steps * config.batch_size
    if config.data == "shapes":
        return ShapesPictures(config.seed, length, small_share=config.small_share)
    return PictureFolder(config.data, config.size, config.seed, length, factor=factor)


def training_arguments(config: VQTrainingConfig, output_dir: Path) -> TrainingArguments:
    """What `Trainer` reads of a recipe."""
    return TrainingArguments(
        output_dir=str(output_dir),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_steps,
        weight_decay=0.0,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        # The data sets are random already, and in their own order a batch holds the same sizes each time.
        train_sampling_strategy="sequential",
        seed=config.seed,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=config.log_steps,
        remove_unused_columns=False,
        report_to=config.report_to,
    )


def save_whole(model: WallarooVQModel, folder: Path) -> None:
    """`save_pretrained`, but a file there is either the whole old or the whole new one; the weights come last."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        model.save_pretrained(temporary)
        for path in sorted(Path(temporary).iterdir(), key=lambda path: path.suffix == ".safetensors"):
            os.replace(path, folder / path.name)


__all__ = ["VQObjective", "WallarooVQTrainer", "train_vq"]
