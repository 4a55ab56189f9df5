# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The VQ image tokenizer: Janus's network with LlamaGen's l2-normalised codebook and grids of any shape."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAE
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
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Pixels of shape `(batch_size, 3, height, width)`, about `[-1, 1]`, of codes of shape
        `(batch_size, grid_height, grid_width)`."""
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
            pixels = torch.cat([self.decoder(self.post_quant_conv(chunk)) for chunk in quantized.split(self._chunk)])
            if self.config.cell_wise:
                pixels = pixels.unflatten(0, codes.shape).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
            return pixels

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Reconstruction of `pixel_values`: encode, then decode."""
        codes = self.encode(pixel_values).codes
        assert codes is not None
        return self.decode(codes)


__all__ = ["WallarooVQModel"]
