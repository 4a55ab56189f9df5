# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Training of the VQ tokenizer: recipes, pictures, losses, resume, report."""

import json
import random

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers_wallaroo.configuration_wallaroo import WallarooVQConfig
from transformers_wallaroo.modeling_wallaroo_vq import WallarooVQModel
from transformers_wallaroo.shapes.world import BUCKETS, CELL, HELD_OUT, STYLES, Scene, Thing, render
from transformers_wallaroo.training import vq_report
from transformers_wallaroo.training.vq import VQObjective, foreground, same_cells, train_vq
from transformers_wallaroo.training.vq_data import PictureFolder, ShapesPictures, VQCollator, VQTrainingConfig
from transformers_wallaroo.training.vq_report import codes_report, nearest_cells, reconstruction_sheet, report_scenes

from pathlib import Path

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "tiny" / "vq.yaml"
TINY = {
    "num_embeddings": 32,
    "embed_dim": 8,
    "latent_channels": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1, 1, 1],
    "num_res_blocks": 0,
}


def tiny_config(**changes) -> VQTrainingConfig:
    values = {"vq_config": dict(TINY), "steps": 4, "batch_size": 4, "warmup_steps": 0, "save_steps": 2, "log_steps": 1}
    return VQTrainingConfig.from_dict({**values, **changes})


@pytest.fixture(scope="module")
def tiny() -> WallarooVQModel:
    torch.manual_seed(0)
    return WallarooVQModel(WallarooVQConfig(**TINY)).eval()


def batch(*scenes: Scene) -> list[torch.Tensor]:
    return VQCollator(CELL)([render(scene) for scene in scenes])["pixel_values"]


# ---------------------------------------------------------------------------------------------------- recipes


def test_the_recipe_of_wallaroo_tiny_loads_and_makes_one_code_a_cell():
    config = VQTrainingConfig.from_yaml(RECIPE)
    model_config = WallarooVQConfig(**config.vq_config)
    assert model_config.downsample_factor == CELL
    assert config.data == "shapes"
    assert isinstance(config.learning_rate, float)


def test_an_unknown_key_names_the_nearest(tmp_path):
    path = tmp_path / "vq.yaml"
    path.write_text(yaml.safe_dump({"learning_rat": 1e-3}))
    with pytest.raises(ValueError, match=r"no key `learning_rat`; did you mean `learning_rate`\?"):
        VQTrainingConfig.from_yaml(path)


def test_a_recipe_that_is_no_mapping_is_refused(tmp_path):
    path = tmp_path / "vq.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match=r"`path` must name a YAML file of `key: value` lines, but .*vq\.yaml"):
        VQTrainingConfig.from_yaml(path)


# ---------------------------------------------------------------------------------------------------- pictures


def test_shapes_pictures_depend_on_seed_and_index_alone():
    first, again, other = ShapesPictures(3, 40), ShapesPictures(3, 80), ShapesPictures(4, 40)
    assert [first.scene(i) for i in range(40)] == [again.scene(i) for i in reversed(range(40))][::-1]
    assert [first.scene(i) for i in range(40)] != [other.scene(i) for i in range(40)]
    assert len(first) == 40
    with pytest.raises(IndexError):
        first[40]


def test_shapes_pictures_show_all_there_is_but_nothing_held_out():
    scenes = [ShapesPictures(0, 400).scene(i) for i in range(400)]
    assert {(scene.height, scene.width) for scene in scenes} == {(height, width) for _, height, width in BUCKETS}
    assert {scene.style for scene in scenes} == set(STYLES)
    counts = {len(scene.things) for scene in scenes}
    assert {0, 1, 2, 3, 4} < counts
    assert max(counts) > 10
    things = [(t.shape, t.color, scene.place_of(t)) for scene in scenes for t in scene.things]
    assert not HELD_OUT.intersection(things)
    cells = {int(index) for scene in scenes for index in nearest_cells(np.asarray(render(scene))[None]).ravel()}
    assert cells == set(range(98))


def test_a_folder_of_pictures_comes_in_another_order_each_time_round(tmp_path):
    (tmp_path / "more").mkdir()
    for index in range(6):
        Image.new("RGB", (40 + index, 70), (40 * index, 0, 0)).save(tmp_path / "more" / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    pictures = PictureFolder(tmp_path, (32, 48), 0, 12, factor=16)
    shades = [pictures[i].getpixel((0, 0))[0] for i in range(12)]
    assert sorted(shades[:6]) == sorted(shades[6:]) == [0, 40, 80, 120, 160, 200]
    assert shades[:6] != shades[6:]
    assert shades == [PictureFolder(tmp_path, (32, 48), 0, 12, factor=16)[i].getpixel((0, 0))[0] for i in range(12)]
    assert {pictures[i].size for i in range(12)} == {(48, 32)}


def test_a_folder_picture_is_scaled_to_cover_and_cut_in_the_middle(tmp_path):
    pixels = np.zeros((64, 128, 3), dtype=np.uint8)
    pixels[:, 48:80] = 255  # the middle of a wide picture
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    cut = np.asarray(PictureFolder(tmp_path, (32, 16), 0, 1, factor=16)[0])
    assert cut.shape == (32, 16, 3)
    assert cut[:, 1:-1].min() > 200


def test_folders_without_pictures_and_odd_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`data` must be 'shapes' or a folder with pictures"):
        PictureFolder(tmp_path, (32, 32), 0, 1, factor=16)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"`size` must be height and width, multiples of 16 pixels, but got \[32, 40\]"):
        PictureFolder(tmp_path, (32, 40), 0, 1, factor=16)


def test_the_collator_groups_sizes():
    pictures = [Image.new("RGB", size, color) for size, color in [((32, 16), "white"), ((16, 16), "black")] * 2]
    pixel_values = VQCollator(16)(pictures)["pixel_values"]
    assert [tuple(pixels.shape) for pixels in pixel_values] == [(2, 3, 16, 32), (2, 3, 16, 16)]
    assert torch.equal(pixel_values[0], torch.ones(2, 3, 16, 32))
    assert torch.equal(pixel_values[1], -torch.ones(2, 3, 16, 16))
    assert all(pixels.is_contiguous() for pixels in pixel_values)
    with pytest.raises(ValueError, match="multiples of 16 pixels, but one is 16x24"):
        VQCollator(16)([Image.new("RGB", (24, 16))])


# ---------------------------------------------------------------------------------------------------- losses


def test_same_cells_are_those_with_equal_pixels():
    things = (Thing("star", "red", 0, 0), Thing("star", "blue", 1, 1))
    group = same_cells(batch(Scene(2, 2, "white", things), Scene(1, 2, "white", things[:1])), CELL).tolist()
    star, bare = group[0], group[1]
    assert group == [star, bare, bare, group[3], star, bare]
    assert len({star, bare, group[3]}) == 3
    pixels = batch(Scene(1, 2, "white"))
    pixels[0][0, 2, 5, 20] += 1 / 127.5  # one step of one channel of one pixel
    assert same_cells(pixels, CELL).unique().tolist() == [0, 1]


def test_the_foreground_is_what_has_not_the_commonest_color():
    pixels = batch(Scene(2, 2, "black", (Thing("square", "green", 1, 0),)))[0]
    mask = foreground(pixels)[0, 0]
    assert mask[16:, :16].any()
    mask[16:, :16] = False
    assert not mask.any()


def test_tied_cells_share_a_code_and_are_drawn_together(tiny):
    pixels = batch(Scene(2, 2, "white", (Thing("star", "red", 0, 0),)))
    free = VQObjective(tiny, tiny_config()).eval()(pixels)
    tied = VQObjective(tiny, tiny_config(same_cell_weight=1.0)).eval()(pixels)
    assert free["same_cell"] == 0
    assert tied["same_cell"] > 0
    codes = tiny.encode(pixels[0]).codes
    assert codes.shape == (1, 2, 2)


def test_the_loss_is_the_weighted_sum_of_its_parts(tiny):
    weights = {
        "pixel_l2_weight": 2.0,
        "pixel_l1_weight": 3.0,
        "commitment_weight": 5.0,
        "codebook_weight": 7.0,
        "same_cell_weight": 11.0,
        "contrast_weight": 13.0,
    }
    losses = VQObjective(tiny, tiny_config(**weights)).eval()(batch(Scene(2, 2, "white")))
    expected = sum(weight * losses[name.removesuffix("_weight")] for name, weight in weights.items())
    torch.testing.assert_close(losses["loss"], expected)
