# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Pictures before and after the VQ tokenizer."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation import reconstruction
from transformers_wallaroo.evaluation.reconstruction import compare_folders, evaluate_vq, pictures_in
from transformers_wallaroo.shapes.world import render
from transformers_wallaroo.training.encoding import load_vq
from transformers_wallaroo.training.vq_report import report_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of the shapes world, one of them twice as large, and one that is no picture of it."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "more").mkdir()
    for number, scene in enumerate(report_scenes(3, 4)):
        render(scene).save(root / f"{number}.png")
    large = render(report_scenes(4, 1)[0])
    large.resize((large.width * 2, large.height * 2), Image.Resampling.NEAREST).save(root / "more" / "large.PNG")
    (root / "notes.txt").write_text("no picture")
    return root


def test_the_shapes_world_survives():
    report = evaluate_vq(limit=6, device="cpu", show_progress=False)
    assert report["pictures"] == sum(report["sizes"].values()) == 6
    assert report["psnr"] > 35 and 0.9 < report["ssim"] < 1
    assert report["shapes"]["scenes_right"] == 1 and report["shapes"]["scenes"] == 6
    assert 0 < report["codes_used"] <= report["codebook"] == 256
    assert "rfid" not in report


def test_a_folder_in_batches_and_one_by_one(folder):
    one = evaluate_vq(pictures=folder, batch_size=1, device="cpu", show_progress=False)
    many = evaluate_vq(pictures=folder, batch_size=4, device="cpu", show_progress=False)
    assert one["pictures"] == 5 and "shapes" not in one
    assert one["psnr"] == pytest.approx(many["psnr"], abs=1e-3) and one["ssim"] == pytest.approx(many["ssim"], abs=1e-5)
    assert all(one[name] == many[name] for name in ("sizes", "codes_used"))
    assert set(one["sizes"]) <= {"32x64", "48x64", "64x64", "64x48", "64x32"}


def test_the_numbers_are_those_of_the_pictures(folder):
    """Against the picture that the tokenizer itself gives back."""
    with Image.open(folder / "0.png") as file:
        before = np.asarray(file.convert("RGB")).astype(np.float32)
    height, width, _ = before.shape
    report = evaluate_vq(pictures=folder, limit=1, size=(height, width), device="cpu", show_progress=False)
    assert report["sizes"] == {f"{height}x{width}": 1}
    model = load_vq(report["checkpoint"])
    pixels = torch.from_numpy(before / 127.5 - 1).permute(2, 0, 1)[None]
    after = (127.5 * model(pixels)[0].permute(1, 2, 0) + 128).clamp(0, 255).floor().detach().numpy()
    assert report["psnr"] == pytest.approx(10 * np.log10(255**2 / np.square(after - before).mean()), abs=0.01)


def test_a_tokenizer_by_itself(tmp_path, folder):
    load_checkpoint(device="cpu")[0].model.vq_model.save_pretrained(tmp_path / "vq")
    options = {"size": (32, 32), "limit": 2, "device": "cpu", "show_progress": False}
    alone, inside = (evaluate_vq(path, folder, **options) for path in (tmp_path / "vq", None))
    for report in (alone, inside):
        report.pop("checkpoint")
        assert len(report.pop("checkpoint_sha256")) == 64
    assert alone == inside
    # One that lacks weights is refused, and not filled up with new ones.
    weights = load_file(tmp_path / "vq" / "model.safetensors")
    weights.pop("quant_conv.bias")
    save_file(weights, tmp_path / "vq" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"holds no whole VQ tokenizer: it lacks \['quant_conv.bias'\]"):
        evaluate_vq(tmp_path / "vq", folder, **options)


def test_files_that_cannot_be_read_are_listed(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "some")
    whole = (folder / "1.png").read_bytes()
    (tmp_path / "some" / "1.png").write_bytes(whole[: len(whole) // 2])
    report = evaluate_vq(pictures=tmp_path / "some", device="cpu", show_progress=False)
    assert report["pictures"] == sum(report["sizes"].values()) == 4 and set(report["versions"]) > {"python", "torch"}
    [entry] = report["unreadable"]
    assert entry["path"] == str(tmp_path / "some" / "1.png") and "cannot be decoded" in entry["error"]
    monkeypatch.setattr(reconstruction, "Distances", Counted)
    report = compare_folders(tmp_path / "some", folder, extractor=means, device="cpu", show_progress=False)
    assert report["pictures"] == report["added"] == [4, 5] and report["unreadable"] == [entry]
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"None of the 1 pictures in .*none can be read: .*1\.png"):
        evaluate_vq(pictures=tmp_path / "none", device="cpu", show_progress=False)
    with pytest.raises(ValueError, match=r"None of the 1 pictures in .*none can be read: .*1\.png"):
        compare_folders(tmp_path / "none", folder, extractor=means, device="cpu", show_progress=False)


class Counted:
    """In place of distances: how many pictures of each folder came."""

    def __init__(self):
        self.added = [0, 0]

    def add(self, features, *, real):
        self.added[real] += len(features["pooled"])

    def compute(self):
        return {"added": self.added}


def means(pictures):
    """In place of the Inception network: a mean, two corners, and logits."""
    values = pictures.double()
    return values.mean(dim=(2, 3)), values[:, :, 0, 0], values.mean(dim=(2, 3))


def test_distances_of_reconstructions_and_of_folders(folder, tmp_path, monkeypatch):
    pytest.importorskip("torchmetrics", reason="it is in the extra `metrics`")
    whole = reconstruction.Distances
    monkeypatch.setattr(reconstruction, "Distances", lambda: whole(splits=2))
    report = evaluate_vq(pictures=folder, extractor=means, device="cpu", show_progress=False)
    assert 0 <= report["rfid"] < 5 and report["inception_score"] >= 1 and "rsfid" in report
    same = compare_folders(folder, folder, extractor=means, device="cpu", show_progress=False)
    assert same["pictures"] == [5, 5] and same["fid"] == pytest.approx(0, abs=1e-6)
    for path in pictures_in(folder):
        with Image.open(path) as picture:
            Image.eval(picture, lambda value: value // 2).save(tmp_path / path.name)
    darker = compare_folders(tmp_path, folder, extractor=means, batch_size=2, device="cpu", show_progress=False)
    assert darker["fid"] > 100


def test_refusals(tmp_path, folder):
    with pytest.raises(ValueError, match=r"There are no pictures .* in "):
        evaluate_vq(pictures=tmp_path, device="cpu")
    with pytest.raises(ValueError, match="`limit` must be at least 1, but got 0"):
        evaluate_vq(limit=0)
    with pytest.raises(ValueError, match="`height` must be a positive multiple of 16 pixels, but got 30"):
        evaluate_vq(pictures=folder, size=(30, 32), device="cpu", show_progress=False)
    with pytest.raises(ValueError, match="there is no folder /nowhere"):
        evaluate_vq("/nowhere", device="cpu")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"must be a Wallaroo or a VQ tokenizer, but .* is of the type 'bert'"):
        evaluate_vq(tmp_path, device="cpu")
    with pytest.raises(ValueError, match="`weights` must be the file of the Inception network"):
        compare_folders(folder, folder, device="cpu")
