# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""How near pictures are to others: PSNR and SSIM, in torch alone."""

import torch

PEAK = 255.0  # of a byte
LEAST_ERROR = 1e-9  # mean square of equal pictures; their PSNR would have no number
# Wang et al. 2004: a Gaussian window of 11 x 11 pixels, and what keeps the fractions from dividing by nothing.
WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03


def psnr(pictures: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each pair, in dB.

    Args:
        pictures, others: uint8 of shape `(batch, 3, height, width)`.

    Returns:
        float64 of shape `(batch,)`; 138 for equal pictures.
    """
    _check(pictures, others)
    errors = (pictures.double() - others.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(PEAK**2 / errors.clamp(min=LEAST_ERROR))


def ssim(pictures: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each pair: the mean over channels and over all places where the whole window fits.

    Args:
        pictures, others: uint8 of shape `(batch, 3, height, width)`, sides of 11 pixels at least.

    Returns:
        float64 of shape `(batch,)`, at most 1.
    """
    _check(pictures, others)
    if min(pictures.shape[2:]) < WINDOW:
        raise ValueError(
            f"`pictures` must have sides of {WINDOW} pixels at least, but have {tuple(pictures.shape[2:])}."
        )
    x, y = pictures.double(), others.double()
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    means = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (means * (2 * covariance + c2) / (variance_x + variance_y + c2)).mean(dim=(1, 2, 3))


def _blur(values: torch.Tensor) -> torch.Tensor:
    """Means under the window, at places where it fits; a Gaussian goes along one side and then along the other."""
    places = torch.arange(WINDOW, dtype=values.dtype, device=values.device) - WINDOW // 2
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    planes = values.flatten(0, 1)[:, None]
    blurred = torch.nn.functional.conv2d(planes, weights.view(1, 1, -1, 1))
    blurred = torch.nn.functional.conv2d(blurred, weights.view(1, 1, 1, -1))
    return blurred.view(*values.shape[:2], *blurred.shape[2:])


def _check(pictures: torch.Tensor, others: torch.Tensor) -> None:
    for name, value in (("pictures", pictures), ("others", others)):
        if value.dtype != torch.uint8 or value.ndim != 4 or value.shape[1] != 3:
            raise ValueError(
                f"`{name}` must be uint8 (batch, 3, height, width), but is {value.dtype} {tuple(value.shape)}."
            )
    if pictures.shape != others.shape:
        raise ValueError(f"`others` must have the shape {tuple(pictures.shape)}, but has {tuple(others.shape)}.")


__all__ = ["psnr", "ssim"]
