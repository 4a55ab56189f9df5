# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""FID, sFID and Inception Score of features that are known; the Inception network itself is not at hand."""

import math

import pytest
import torch

from transformers_wallaroo.evaluation import distances
from transformers_wallaroo.evaluation.distances import Distances, Inception, features_of, missing_libraries

pytest.importorskip("torchmetrics", reason="it is in the extra `metrics`")


def extractor(pictures):
    """The first two columns of pixels, the next two, and logits from the first pixel."""
    values = pictures.double()
    logits = torch.nn.functional.one_hot(pictures[:, 0, 0, 0].long() % 4, 4).double() * 50
    return values[:, 0, 0, :2], values[:, 0, 0, 2:4], logits


def pictures(seed, mean):
    values = torch.randn(400, 3, 1, 4, generator=torch.Generator().manual_seed(seed)) * 10 + mean
    return values.clamp(0, 255).to(torch.uint8)


def frechet(x, y):
    """Of two clouds of points, with the covariance of their product taken apart."""
    difference = (x.mean(0) - y.mean(0)).square().sum()
    x_cov, y_cov = torch.cov(x.T), torch.cov(y.T)
    root = torch.linalg.eigvals(x_cov @ y_cov).real.clamp(min=0).sqrt().sum()
    return (difference + x_cov.trace() + y_cov.trace() - 2 * root).item()


def test_values():
    real, made = pictures(1, 100), pictures(2, 120)
    metric = Distances()
    for part in real.chunk(3):
        metric.add(features_of(extractor, part), real=True)
    metric.add(features_of(extractor, made), real=False)
    found = metric.compute()
    for name, place in (("fid", 0), ("sfid", 1)):
        expected = frechet(extractor(real)[place], extractor(made)[place])
        assert found[name] == pytest.approx(expected, rel=1e-6) and 700 < expected < 900
    # Four classes, each sure of itself: the score is near their number, and splits see almost the same.
    assert found["inception_score"] == pytest.approx(4, abs=0.2) and found["inception_score_std"] < 0.3


def test_the_order_of_batches_does_not_matter():
    """Batches are of one size, and a run that was mended has late ones of early pictures."""
    real, made = features_of(extractor, pictures(1, 100)), features_of(extractor, pictures(2, 60))
    found = []
    for order in (range(60), [*range(1, 60, 2), *range(0, 60, 2)]):
        metric = Distances()
        metric.add(real, real=True)
        for places in torch.tensor(list(order)).split(7):
            metric.add({"index": places, **{name: values[places] for name, values in made.items()}}, real=False)
        found.append(metric.compute())
    assert found[0]["inception_score"] == found[1]["inception_score"]
    assert found[0]["inception_score_std"] == found[1]["inception_score_std"] > 0


def test_the_same_pictures_have_no_distance():
    metric = Distances()
    for real in (True, False):
        metric.add(features_of(extractor, pictures(1, 100)), real=real)
    found = metric.compute()
    assert found["fid"] == pytest.approx(0, abs=1e-6) and found["sfid"] == pytest.approx(0, abs=1e-6)
    assert metric.compute() == found
    state = torch.get_rng_state()
    metric.compute()
    assert torch.equal(torch.get_rng_state(), state)


def test_too_few_pictures():
    metric = Distances()
    metric.add(features_of(extractor, pictures(1, 100)), real=True)
    metric.add(features_of(extractor, pictures(1, 100)[:1]), real=False)
    with pytest.raises(ValueError, match=r"FID needs 2 pictures of each kind at least, but got 1 and, .* 400"):
        metric.compute()


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.setattr(distances.importlib.util, "find_spec", lambda name: name == "torchmetrics" or None)
    message = "need torch-fidelity, torchvision: `pip install 'transformers-wallaroo\\[metrics\\]'`"
    with pytest.raises(ImportError, match=message):
        Inception("weights.pth")
    monkeypatch.setattr(distances.importlib.util, "find_spec", lambda name: name)
    assert missing_libraries() is None


def test_weights_that_hold_more_than_tensors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(distances, "NEEDED", ())
    with pytest.raises(ValueError, match="`weights` must be the file of the Inception network, but there is none at"):
        Inception(tmp_path / "none.pth")
    torch.save({"a": math.sqrt}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="is no file of weights that torch loads safely"):
        Inception(tmp_path / "code.pth")
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ValueError, match="is no file of weights that torch loads safely"):
        Inception(tmp_path / "text.pth")
