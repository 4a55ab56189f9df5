# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""FID, sFID and Inception Score, by torchmetrics, of what torch-fidelity's Inception network makes of pictures."""

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Sizes of the three outputs of the network: pooled features, a map of features, class logits.
POOLED, SPATIAL, LOGITS = 2048, 7 * 17 * 17, 1008
LEAST = 2  # pictures of each kind
NEEDED = ("torchmetrics", "torch_fidelity", "torchvision")
# uint8 pictures `(batch, 3, height, width)` to those three, each `(batch, features)`.
Extractor = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def missing_libraries() -> str | None:
    """What to install for these metrics; `None` where it is there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return (
        f"FID, sFID and Inception Score need {', '.join(missing).replace('_', '-')}: "
        "`pip install 'transformers-wallaroo[metrics]'`."
    )


class Inception(torch.nn.Module):
    """The Inception network of the original FID, in torch-fidelity's port.

    sFID (Nash et al. 2021) compares a map of features in place of their mean: the first seven channels after the
    1 x 1 branch of the block that TensorFlow calls mixed_6.

    Args:
        weights: file of the network, `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity's releases.
    """

    def __init__(self, weights: str | Path):
        super().__init__()
        missing = missing_libraries()
        if missing is not None:
            raise ImportError(missing)
        _check_weights(Path(weights))
        from torch_fidelity import FeatureExtractorInceptionV3

        names = [str(POOLED), "logits_unbiased"]
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", names, str(weights)).eval()
        self.network.Mixed_6d.branch1x1.register_forward_hook(self._keep)
        self._map: torch.Tensor | None = None

    def _keep(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        self._map = output[:, :7].flatten(1)

    @torch.no_grad()
    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pooled, logits = self.network(pictures)
        spatial, self._map = self._map, None
        assert spatial is not None
        return pooled, spatial, logits


def _check_weights(path: Path) -> None:
    """Raises where the file is not there or holds more than tensors: torch-fidelity would run what is in it."""
    if not path.is_file():
        raise ValueError(f"`weights` must be the file of the Inception network, but there is none at {path}.")
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"`weights` {str(path)!r} is no file of weights that torch loads safely: {reason}") from error


class _AsGiven(torch.nn.Module):
    """Stands for the network where its features are computed already: once for the three metrics."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


class Distances:
    """Collects pictures of two kinds and compares them.

    Args:
        extractor: `Inception`, or what gives the same three outputs.
        sizes: of these outputs.
        splits: of the Inception Score.
    """

    def __init__(self, extractor: Extractor, *, sizes: tuple[int, int] = (POOLED, SPATIAL), splits: int = 10):
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
            from torchmetrics.image.inception import InceptionScore
        except ImportError as error:
            raise ImportError(missing_libraries()) from error
        self.extractor = extractor
        pooled, spatial = (FrechetInceptionDistance(feature=_AsGiven(size)) for size in sizes)
        self.fid, self.sfid = pooled.set_dtype(torch.float64), spatial.set_dtype(torch.float64)
        self.score = InceptionScore(feature=_AsGiven(LOGITS), splits=splits)
        self.counts = {True: 0, False: 0}

    def add(self, pictures: torch.Tensor, *, real: bool) -> None:
        """Pictures as uint8 of shape `(batch, 3, height, width)`; `real` for those that are compared with."""
        pooled, spatial, logits = (features.cpu() for features in self.extractor(pictures))
        self.fid.update(pooled, real=real)
        self.sfid.update(spatial, real=real)
        if not real:
            self.score.update(logits)
        self.counts[real] += len(pictures)

    def compute(self) -> dict[str, float]:
        """`fid`, `sfid`, and `inception_score` of the pictures that are not real, with its standard deviation."""
        if min(self.counts.values()) < LEAST:
            raise ValueError(
                f"FID needs {LEAST} pictures of each kind at least, but got {self.counts[False]} and, to compare with, "
                f"{self.counts[True]}."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the score deals pictures out to its splits
            mean, deviation = self.score.compute()
        return {
            "fid": float(self.fid.compute()),
            "sfid": float(self.sfid.compute()),
            "inception_score": float(mean),
            "inception_score_std": float(deviation),
        }


__all__ = ["Distances", "Inception", "missing_libraries"]
