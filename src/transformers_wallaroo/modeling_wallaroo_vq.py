# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The VQ image tokenizer: Janus's network with LlamaGen's l2-normalised codebook and grids of any shape."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEDecoder, JanusVQVAEResnetBlock
from transformers.utils import ModelOutput

from .configuration_wallaroo import WallarooVQConfig

# Images that go through the convolutions at once; bounds the memory of a large batch without changing its result.
ENCODE_CHUNK = 8


@dataclass
class WallarooVQOutput(ModelOutput):
    """What an image becomes.

    Attributes:
        codes (`torch.LongTensor` of shape `(batch_size, grid_height, grid_width)`): in `[0, num_embeddings)`.
        latents (`torch.FloatTensor` of shape `(batch_size, grid_height, grid_width, embed_dim)`): pre-quantisation
            latents, l2-normalised over the channels: what editing feeds to the source adapter.
    """

    codes: torch.Tensor | None = None
    latents: torch.Tensor | None = None


def execution_device(module: nn.Module) -> torch.device:
    """Where a module with a `weight` computes: accelerate keeps offloaded weights elsewhere until they are needed."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    assert isinstance(module.weight, torch.Tensor)
    return module.weight.device if device is None else torch.device(device)


# Gives the rows from one to another of a map `(batch_size, channels, height, width)` that need not be there as a whole.
Rows = Callable[[int, int], torch.Tensor]


def _activated(norm: nn.GroupNorm, hidden: torch.Tensor) -> Rows:
    """Rows of `hidden`, normalised by the whole map's statistics, after the activation."""
    groups = hidden.unflatten(1, (norm.num_groups, -1)).flatten(2)
    variance, mean = torch.var_mean(groups, dim=2, correction=0)
    channels = hidden.shape[1] // norm.num_groups
    scale = (variance + norm.eps).rsqrt().repeat_interleave(channels, dim=1) * norm.weight
    shift = norm.bias - mean.repeat_interleave(channels, dim=1) * scale

    def rows(first: int, last: int) -> torch.Tensor:
        part = torch.addcmul(shift[..., None, None], hidden[:, :, first:last], scale[..., None, None])
        return part.mul_(part.sigmoid())

    return rows


def _doubled(hidden: torch.Tensor) -> Rows:
    """Rows of `hidden` at twice its size, each value four times."""

    def rows(first: int, last: int) -> torch.Tensor:
        part = nn.functional.interpolate(hidden[:, :, first // 2 : (last + 1) // 2], scale_factor=2.0, mode="nearest")
        return part[:, :, first % 2 : first % 2 + last - first]

    return rows


def _convolve(
    conv: nn.Module, rows: Rows, height: int, strip_rows: int, onto: torch.Tensor | None = None
) -> torch.Tensor:
    """A 3 x 3 convolution of a map of `height` rows, `strip_rows` of them at once; added to `onto`, if given."""
    out = onto
    for start in range(0, height, strip_rows):
        end = min(start + strip_rows, height)
        # With the neighbours of the strip; what the convolution makes of these themselves is left out.
        first, last = max(start - 1, 0), min(end + 1, height)
        strip = conv(rows(first, last))[:, :, start - first : end - first]
        if out is None:
            out = strip.new_empty(*strip.shape[:2], height, strip.shape[3])
        out[:, :, start:end] = strip if onto is None else strip.add_(onto[:, :, start:end])
    assert out is not None
    return out


def _block_in_strips(block: JanusVQVAEResnetBlock, hidden: torch.Tensor, strip_rows: int) -> torch.Tensor:
    """Writes to `hidden` where it can."""
    height = hidden.shape[2]
    inner = _convolve(block.conv1, _activated(block.norm1, hidden), height, strip_rows)
    onto = block.nin_shortcut(hidden) if hasattr(block, "nin_shortcut") else hidden
    return _convolve(block.conv2, _activated(block.norm2, inner), height, strip_rows, onto)


def decode_in_strips(decoder: JanusVQVAEDecoder, hidden: torch.Tensor, strip_rows: int) -> torch.Tensor:
    """What `decoder(hidden)` gives, up to rounding, with two maps of the largest size in memory instead of three.

    Norms are over the whole picture and attention is between all of its cells, so that pictures decoded tile by tile
    would be others. Here the layers are whole, and what lies between two maps is there for a few rows at once.
    """
    hidden = decoder.mid(decoder.conv_in(hidden))
    for level in decoder.up:
        for index, block in enumerate(level.block):
            hidden = _block_in_strips(block, hidden, strip_rows)
            if len(level.attn) > 0:
                hidden = level.attn[index](hidden)
        if hasattr(level, "upsample"):
            hidden = _convolve(level.upsample.conv, _doubled(hidden), 2 * hidden.shape[2], strip_rows)
    return _convolve(decoder.conv_out, _activated(decoder.norm_out, hidden), hidden.shape[2], strip_rows)


class WallarooVQModel(JanusVQVAE):
    """The interface the rest of the model uses: `encode`, `embed_codes`, `decode`.

    Pixels are RGB in `[-1, 1]`. The codebook is l2-normalised at every use (docs/protocol.md section 2); Janus
    normalises it in decoding only. The tokenizer is frozen and runs in the precision of its weights, fp32 as released.
    """

    config: WallarooVQConfig

    def __init__(self, config: WallarooVQConfig):
        super().__init__(config)
        # Janus's networks are made with 32 groups, whatever their width.
        norms = [module for module in self.modules() if isinstance(module, nn.GroupNorm)]
        for norm in norms if config.norm_num_groups != 32 else []:
            if norm.num_channels % config.norm_num_groups:
                raise ValueError(
                    f"`norm_num_groups` is {config.norm_num_groups}, which does not divide a layer's "
                    f"{norm.num_channels} channels (`base_channels` times `channel_multiplier`)."
                )
            norm.num_groups = config.norm_num_groups

    def _apply(self, fn, *args, **kwargs):
        """Moves with the model but stays in its precision: `model.to(torch.bfloat16)` and `.half()` pass it over."""

        def keep_precision(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(keep_precision, *args, **kwargs)

    @property
    def _chunk(self) -> int:
        """Images, or cells, that go through the convolutions at once."""
        return ENCODE_CHUNK * (64 if self.config.cell_wise else 1)

    @property
    def downsample_factor(self) -> int:
        """Pixels a cell, along each side."""
        return self.config.downsample_factor

    def embed_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codebook entries of `codes`, unit vectors of shape `(*codes.shape, embed_dim)`."""
        return nn.functional.normalize(self.quantize.embedding(codes), dim=-1)

    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor) -> WallarooVQOutput:
        """Encodes images of one size.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): RGB in `[-1, 1]`; both sides
                a multiple of `downsample_factor`.
        """
        height, width = pixel_values.shape[-2:]
        if pixel_values.ndim != 4 or height % self.downsample_factor or width % self.downsample_factor:
            raise ValueError(
                f"`pixel_values` must be (batch, 3, height, width) with sides that are multiples of "
                f"{self.downsample_factor}, but got {tuple(pixel_values.shape)}."
            )
        device, dtype = execution_device(self.quant_conv), self.quant_conv.weight.dtype
        with torch.autocast(device.type, enabled=False):
            images = pixel_values.to(device, dtype)
            if self.config.cell_wise:
                images = images.unflatten(2, (-1, self.downsample_factor)).unflatten(4, (-1, self.downsample_factor))
                images = images.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
            latents = torch.cat(
                [
                    nn.functional.normalize(self.quant_conv(self.encoder(chunk)), dim=1)
                    for chunk in images.split(self._chunk)
                ]
            ).permute(0, 2, 3, 1)
            if self.config.cell_wise:
                grid = (height // self.downsample_factor, width // self.downsample_factor)
                latents = latents.flatten(0, 2).unflatten(0, (-1, *grid))
            codebook = self.embed_codes(torch.arange(self.config.num_embeddings, device=device))
            # Both sides are unit vectors, so the nearest entry is the one with the largest inner product.
            codes = (latents @ codebook.T).argmax(dim=-1)
        return WallarooVQOutput(codes=codes, latents=latents)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, *, strip_rows: int | None = None) -> torch.Tensor:
        """Pixels of images of one size.

        Args:
            codes (`torch.LongTensor` of shape `(batch_size, grid_height, grid_width)`): in `[0, num_embeddings)`.
            strip_rows (`int`, *optional*): for large pictures where memory is short: images go one by one, through each
                convolution so many rows at once, such as 64. The pixels are the same up to rounding, see
                `decode_in_strips`. A tokenizer that goes by cells (`config.cell_wise`) has no need of it.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, 3, height, width)`, about `[-1, 1]`.
        """
        given: Any = strip_rows
        whole = isinstance(given, numbers.Integral) and not isinstance(given, bool)
        if given is not None and not (whole and given > 0):
            raise ValueError(f"`strip_rows` must be a positive int, such as 64, but got {strip_rows!r}.")
        if codes.ndim != 3:
            raise ValueError(f"`codes` must be (batch, grid_height, grid_width), but got shape {tuple(codes.shape)}.")
        smallest, largest = int(codes.min()), int(codes.max())
        if smallest < 0 or largest >= self.config.num_embeddings:
            raise ValueError(
                f"`codes` must lie in [0, {self.config.num_embeddings}), but got values from {smallest} to {largest}. "
                "Ids of the one id space are codes plus `config.text_vocab_size`."
            )
        device, dtype = execution_device(self.post_quant_conv), self.post_quant_conv.weight.dtype
        with torch.autocast(device.type, enabled=False):
            quantized = self.embed_codes(codes.to(device)).to(dtype).permute(0, 3, 1, 2)
            if self.config.cell_wise:
                quantized = quantized.permute(0, 2, 3, 1).flatten(0, 2)[..., None, None]
            strips = None if self.config.cell_wise else strip_rows
            chunks = self.post_quant_conv(quantized).split(1 if strips else self._chunk)
            pixels = torch.cat(
                [decode_in_strips(self.decoder, chunk, strips) if strips else self.decoder(chunk) for chunk in chunks]
            )
            if self.config.cell_wise:
                pixels = pixels.unflatten(0, codes.shape).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
            return pixels

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Reconstruction of `pixel_values`: encode, then decode."""
        codes = self.encode(pixel_values).codes
        assert codes is not None
        return self.decode(codes)


__all__ = ["WallarooVQModel"]
