# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""PSNR and SSIM against values that are known, and against sums written out."""

import math

import pytest
import torch

from transformers_wallaroo.evaluation.picture_metrics import psnr, ssim


def plain(value: int, height: int = 12, width: int = 14) -> torch.Tensor:
    return torch.full((1, 3, height, width), value, dtype=torch.uint8)


def noise(seed: int, height: int = 13, width: int = 15, pictures: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (pictures, 3, height, width), dtype=torch.uint8, generator=generator)


def test_psnr():
    assert psnr(plain(7), plain(8)).item() == pytest.approx(20 * math.log10(255))  # 48.13 dB
    assert psnr(plain(0), plain(255)).item() == pytest.approx(0)
    assert psnr(plain(7), plain(7)).item() == pytest.approx(138.13, abs=0.01)
    # Each pair has its own: the first differs everywhere by 10, the second in one of its values by 30.
    pictures = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    others = pictures.clone()
    others[0], others[1, 0, 0, 0] = 10, 30
    expected = [10 * math.log10(255**2 / 100), 10 * math.log10(255**2 / (900 / 12))]
    assert psnr(pictures, others).tolist() == pytest.approx(expected)


def test_ssim_of_plain_pictures():
    """Without variance only the means are left."""
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert ssim(plain(100), plain(120)).item() == pytest.approx(expected, abs=1e-9)
    assert ssim(noise(1), noise(1)).tolist() == pytest.approx([1, 1])


def test_ssim_is_the_sum_written_out():
    x, y = noise(1), (noise(1).int() // 2 + noise(2).int() // 3).to(torch.uint8)
    weights = torch.tensor([math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)], dtype=torch.float64)
    window = torch.outer(weights, weights) / weights.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = []
    for picture, other in zip(x.double(), y.double(), strict=True):
        values = []
        for channel in range(3):
            for top in range(13 - 10):
                for left in range(15 - 10):
                    a = picture[channel, top : top + 11, left : left + 11]
                    b = other[channel, top : top + 11, left : left + 11]
                    mean_a, mean_b = (window * a).sum(), (window * b).sum()
                    variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                    covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                    values.append(above / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)))
        expected.append(torch.stack(values).mean().item())
    assert ssim(x, y).tolist() == pytest.approx(expected, abs=1e-9)
    assert 0 < expected[0] < 0.9


def test_refusals():
    with pytest.raises(ValueError, match=r"`pictures` must be uint8 \(batch, 3, height, width\), but is torch.float32"):
        psnr(plain(1).float(), plain(1))
    with pytest.raises(ValueError, match=r"`others` must have the shape \(1, 3, 12, 14\), but has \(1, 3, 12, 13\)"):
        ssim(plain(1), plain(1, 12, 13))
    with pytest.raises(ValueError, match=r"sides of 11 pixels at least, but have \(10, 14\)"):
        ssim(plain(1, 10), plain(1, 10))
