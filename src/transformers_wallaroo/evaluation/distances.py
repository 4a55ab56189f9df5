# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""FID, sFID and Inception Score, by torchmetrics, of what torch-fidelity's Inception network makes of pictures."""

import importlib.util
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

# The three outputs of the network: 2048 pooled features, a map of 7 x 17 x 17 features, 1008 class logits.
FEATURES = ("pooled", "spatial", "logits")
POOLED = 2048
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
        check_weights(weights)
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


def check_weights(weights: str | Path) -> None:
    """Raises where a library is missing, and where the file is not there or holds more than tensors: torch-fidelity
    would run what is in it."""
    missing = missing_libraries()
    if missing is not None:
        raise ImportError(missing)
    path = Path(weights)
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


def features_of(extractor: Extractor, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the network makes of uint8 pictures `(batch, 3, height, width)`, on the CPU: `pooled`, `spatial`, `logits`,
    each `(batch, features)`."""
    return {name: values.cpu() for name, values in zip(FEATURES, extractor(pictures), strict=True)}


class Distances:
    """Collects features of pictures of two kinds and compares them.

    Args:
        splits: of the Inception Score.
    """

    def __init__(self, *, splits: int = 10):
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
            from torchmetrics.image.inception import InceptionScore
        except ImportError as error:
            raise ImportError(missing_libraries()) from error
        self._new_distance, self._new_score = FrechetInceptionDistance, InceptionScore
        self.splits = splits
        self.counts = {True: 0, False: 0}
        self._logits: dict[int, torch.Tensor] = {}
        self._metrics: tuple[Any, Any, Any] | None = None

    def add(self, features: Mapping[str, torch.Tensor], *, real: bool) -> None:
        """What `features_of` gives; `real` for the pictures that are compared with. With an `index` `(batch,)` beside
        it the order in which batches come does not matter to the Inception Score, which is of parts of the pictures."""
        pooled, spatial, logits = (features[name] for name in FEATURES)
        if self._metrics is None:
            # One process has all features; it must not wait for those of others, which have none.
            alone = {"sync_on_compute": False}
            fid, sfid = (self._new_distance(feature=_AsGiven(each.shape[1]), **alone) for each in (pooled, spatial))
            score = self._new_score(feature=_AsGiven(logits.shape[1]), splits=self.splits, **alone)
            self._metrics = fid.set_dtype(torch.float64), sfid.set_dtype(torch.float64), score
        fid, sfid, _ = self._metrics
        fid.update(pooled, real=real)
        sfid.update(spatial, real=real)
        if not real:
            first = self.counts[False]
            places = features.get("index", torch.arange(first, first + len(logits))).tolist()
            self._logits.update(zip(places, logits, strict=True))
        self.counts[real] += len(pooled)

    def compute(self) -> dict[str, float]:
        """`fid`, `sfid`, and `inception_score` of the pictures that are not real, with its standard deviation."""
        if min(self.counts.values()) < LEAST:
            raise ValueError(
                f"FID needs {LEAST} pictures of each kind at least, but got {self.counts[False]} and, to compare with, "
                f"{self.counts[True]}."
            )
        assert self._metrics is not None
        fid, sfid, score = self._metrics
        score.reset()
        score.update(torch.stack([self._logits[place] for place in sorted(self._logits)]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the score deals pictures out to its splits
            mean, deviation = score.compute()
        return {
            "fid": float(fid.compute()),
            "sfid": float(sfid.compute()),
            "inception_score": float(mean),
            "inception_score_std": float(deviation),
        }


__all__ = ["FEATURES", "Distances", "Extractor", "Inception", "check_weights", "features_of", "missing_libraries"]
