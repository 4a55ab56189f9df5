# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Training of the VQ tokenizer: recipes, pictures, losses, resume, report."""

import json
from pathlib import Path

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
from transformers_wallaroo.training.vq import (
    VQObjective,
    WallarooVQTrainer,
    foreground,
    init_convolutions,
    same_cells,
    train_vq,
)
from transformers_wallaroo.training.vq_data import PictureFolder, ShapesPictures, VQCollator, VQTrainingConfig
from transformers_wallaroo.training.vq_report import codes_report, nearest_cells, reconstruction_sheet, report_scenes

from killing import killed_at

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
    with pytest.raises(ValueError, match=r"vq.yaml has the unknown key 'learning_rat'. Did you mean 'learning_rate'\?"):
        VQTrainingConfig.from_yaml(path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"learning_rate": "1e-3"}, "the recipe: `learning_rate` must be float, but got '1e-3'.* Write 1.0e-3, with"),
        ({"steps": 2.5}, "`steps` must be int, but got 2.5"),
        ({"size": "256"}, r"`size` must be list\[int\], but got '256'"),
        ({"vq_config": None}, r"`vq_config` must be dict\[str, Any\], but got None"),
    ],
)
def test_values_of_another_type_are_refused(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        tiny_config(**changes)


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


def test_a_share_of_the_runs_is_of_small_pictures():
    pictures = ShapesPictures(0, 800, small_share=0.5)
    sizes = [(pictures.scene(i).rows, pictures.scene(i).columns) for i in range(800)]
    runs = [sizes[start : start + 8] for start in range(0, 800, 8)]
    assert all(len(set(run)) == 1 for run in runs)
    assert 35 <= sum(run[0] == (2, 2) for run in runs) <= 65
    assert len(set(sizes)) == 1 + len(BUCKETS)


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
    with pytest.raises(
        ValueError, match=r"`size` must be height and width, multiples of 16 pixels, but got \[32, 40\]"
    ):
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
    latents = tiny.encode(pixels[0]).latents.flatten(0, 2)
    free = VQObjective(tiny, tiny_config()).eval()
    tied = VQObjective(tiny, tiny_config(same_cell_weight=1.0)).eval()
    means = torch.stack([latents[0], latents[1:].mean(dim=0)])
    spread = (latents - means[[0, 1, 1, 1]]).square().sum(dim=-1).mean()
    assert spread > 1e-4
    assert free(pixels)["same_cell"] == 0
    torch.testing.assert_close(tied(pixels)["same_cell"], spread, rtol=1e-3, atol=1e-6)
    # The star and the three bare cells: a code each, as often as there are such cells.
    share = torch.tensor([0.25, 0.75])
    torch.testing.assert_close(tied(pixels)["perplexity"], (-(share * share.log()).sum()).exp())
    with torch.no_grad():  # a codebook in which every latent has a code of its own
        tiny.quantize.embedding.weight[:4] = latents
    torch.testing.assert_close(free(pixels)["perplexity"], torch.tensor(4.0))
    torch.testing.assert_close(tied(pixels)["perplexity"], (-(share * share.log()).sum()).exp())


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


def test_a_dead_code_moves_to_a_latent_that_no_code_is_near():
    torch.manual_seed(0)
    model = WallarooVQModel(WallarooVQConfig(**TINY))
    objective = VQObjective(model, tiny_config(dead_after=3, restart_distance=0.1)).train()
    codebook = model.quantize.embedding.weight
    anchors = torch.nn.functional.normalize(torch.stack([codebook[0].detach() + 0.01, -codebook[0].detach()]), dim=-1)
    before = codebook.detach().clone()
    objective.idle[5] = 2
    objective._restart_dead_codes(anchors)
    assert torch.equal(codebook, before)
    objective.idle[5] = 3
    objective._restart_dead_codes(anchors)
    changed = (codebook != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [5]
    # The second latent is far from all codes; the first has a code beside it.
    torch.testing.assert_close(codebook[5], anchors[1])
    assert objective.idle[5] == 0
    objective.idle[5] = 3
    objective._restart_dead_codes(anchors)
    torch.testing.assert_close(codebook[5], anchors[1])


def test_codes_that_are_used_are_not_idle():
    torch.manual_seed(0)
    objective = VQObjective(WallarooVQModel(WallarooVQConfig(**TINY)), tiny_config()).train()
    pixels = batch(Scene(2, 2, "white"))
    objective(pixels)
    assert set(objective.idle.tolist()) == {0, 1}
    idle = objective.idle.clone()
    objective.eval()(pixels)
    assert torch.equal(objective.idle, idle)


def test_the_decoder_reads_the_code_and_the_encoder_gets_its_gradient(tiny):
    objective = VQObjective(tiny, tiny_config(commitment_weight=0.0, codebook_weight=0.0)).eval()
    pixels = batch(Scene(2, 2, "white", (Thing("star", "red", 0, 0),)))
    losses = objective(pixels)
    codes = tiny.encode(pixels[0]).codes
    expected = (tiny.decode(codes) - pixels[0]).square().mean()
    torch.testing.assert_close(losses["pixel_l2"], expected, rtol=1e-4, atol=1e-5)
    tiny.zero_grad()
    losses["loss"].backward()
    assert tiny.encoder.conv_in.weight.grad.abs().max() > 0
    assert tiny.quantize.embedding.weight.grad is None or tiny.quantize.embedding.weight.grad.abs().max() == 0
    tiny.zero_grad(set_to_none=True)


def test_the_first_weights_keep_the_size_of_the_signal():
    torch.manual_seed(0)
    model = WallarooVQModel(WallarooVQConfig(**TINY))
    signal = torch.randn(4, 32, 16, 16)
    conv = model.decoder.up[0].upsample.conv
    init_convolutions(model, 1.0)
    assert conv(signal).std().item() == pytest.approx(1.0, abs=0.15)
    assert conv.bias.abs().max() > 0
    init_convolutions(model, 3.0)
    assert conv(signal).std().item() == pytest.approx(3.0, abs=0.45)


def test_without_quantisation_at_first_the_decoder_reads_latents():
    torch.manual_seed(0)
    model = WallarooVQModel(WallarooVQConfig(**TINY))
    objective = VQObjective(model, tiny_config(continuous_steps=1)).train()
    pixels = batch(Scene(2, 2, "white", (Thing("star", "red", 0, 0),)))
    first, second = objective(pixels), objective(pixels)
    assert first["commitment"] == 0
    assert second["commitment"] > 0
    assert first["pixel_l2"] != second["pixel_l2"]


# ---------------------------------------------------------------------------------------------------- training


def test_training_stops_and_goes_on_as_if_nothing_had_happened(tmp_path):
    config = tiny_config(same_cell_weight=0.5, contrast_weight=1.0, dead_after=1, continuous_steps=1)
    whole = train_vq(config, output_dir=tmp_path / "whole")
    checkpoints = tmp_path / "cut" / "checkpoints"
    checkpoints.mkdir(parents=True)
    # What a run that was killed after its second step leaves.
    (tmp_path / "whole" / "checkpoints" / "checkpoint-2").rename(checkpoints / "checkpoint-2")
    # And one that was killed while it wrote the next checkpoint.
    (checkpoints / "checkpoint-3").mkdir()
    (checkpoints / "checkpoint-3" / "model.safetensors").write_text("half")
    resumed = train_vq(config, output_dir=tmp_path / "cut")
    assert not (checkpoints / "checkpoint-3").exists()
    history = json.loads((checkpoints / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history] == [1, 2, 3, 4]
    assert {"loss", "pixel_l2", "pixel_l1", "commitment", "codebook", "same_cell", "perplexity"} < set(history[0])
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert (
        history
        == json.loads((tmp_path / "whole" / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text())[
            "log_history"
        ]
    )


@pytest.mark.parametrize(("method", "call"), [("training_step", 4), ("_save_rng_state", 2)])
def test_killed_training_ends_as_if_nothing_had_happened(tmp_path, method, call):
    """In a step, and while a checkpoint is written."""
    config = tiny_config(same_cell_weight=0.5, dead_after=1)
    whole = train_vq(config, output_dir=tmp_path / "whole")
    killed_at(WallarooVQTrainer, method, call, lambda: train_vq(config, output_dir=tmp_path / "cut"))
    steps = len(list((tmp_path / "cut" / "checkpoints").glob("checkpoint-*")))
    assert not (tmp_path / "cut" / "config.json").exists() and steps < 5
    resumed = train_vq(config, output_dir=tmp_path / "cut")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_training_starts_anew_without_the_old_checkpoints(tmp_path):
    old = tmp_path / "checkpoints" / "checkpoint-9"
    old.mkdir(parents=True)
    (old / "trainer_state.json").write_text("{}")
    train_vq(tiny_config(steps=1), output_dir=tmp_path, resume=False)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-1"]


def test_a_trained_tokenizer_is_saved_whole_with_a_normalised_codebook(tmp_path):
    model = train_vq(tiny_config(steps=2), output_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json", "model.safetensors"]
    weights = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    norms = weights["quantize.embedding.weight"].norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    loaded = WallarooVQModel.from_pretrained(tmp_path)
    pixels = batch(Scene(2, 3, "black"))[0]
    assert torch.equal(loaded(pixels), model(pixels))
    assert not model.training


def test_training_makes_pictures_better():
    torch.manual_seed(0)
    model = WallarooVQModel(WallarooVQConfig(**TINY))
    init_convolutions(model, 1.0)
    objective = VQObjective(model, tiny_config(contrast_weight=1.0, continuous_steps=100)).train()
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    pixels = batch(*(ShapesPictures(0, 8).scene(index) for index in range(8)))
    history = []
    for _ in range(20):
        losses = objective(pixels)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    assert history[-1]["pixel_l2"] < 0.9 * history[0]["pixel_l2"]
    assert history[-1]["contrast"] < 0.8 * history[0]["contrast"]
    assert history[-1]["perplexity"] > 2


def test_a_folder_trains(tmp_path):
    for index in range(3):
        Image.new("RGB", (50, 50), (80 * index, 10, 200)).save(tmp_path / f"{index}.png")
    config = tiny_config(data=str(tmp_path), size=[32, 48], steps=1)
    train_vq(config, output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


# ---------------------------------------------------------------------------------------------------- report


class Exact:
    """Stands in for a tokenizer: the code of a cell is its number in the world, plus what `noise` says."""

    downsample_factor = CELL
    config = WallarooVQConfig(**{**TINY, "num_embeddings": 200})

    def __init__(self, noise=lambda cells: 0 * cells):
        self.noise = noise

    def eval(self):
        return self

    def __call__(self, pixel_values):
        return self.decode(self.encode(pixel_values).codes)

    def encode(self, pixel_values):
        cells = torch.from_numpy(nearest_cells(vq_report.to_bytes(pixel_values)))
        return type("Output", (), {"codes": cells + self.noise(cells)})

    def decode(self, codes):
        cells = vq_report.world_cells()[(codes % 100).numpy()].reshape(*codes.shape, CELL, CELL, 3)
        batch, rows, columns = codes.shape
        pixels = cells.swapaxes(2, 3).reshape(batch, rows * CELL, columns * CELL, 3)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def test_the_report_of_an_exact_tokenizer():
    report = codes_report(Exact(), scenes=60, seed=0)
    assert (report.scenes, report.scenes_right, report.cells_right) == (60, 1.0, 1.0)
    assert (report.noise_bits, report.codes_per_cell, report.most_codes, report.cells_per_code) == (0.0, 1.0, 1, 1.0)
    assert report.codes_used == report.cells_seen
    assert report.psnr > 45


def test_the_report_measures_noise_in_bits():
    # Every second column has another code: a fair coin, one bit.
    noisy = Exact(lambda cells: 100 * (torch.arange(cells.shape[2]) % 2))
    report = codes_report(noisy, scenes=[Scene(4, 4, "white"), Scene(2, 4, "black")])
    assert report.noise_bits == pytest.approx(1.0)
    assert (report.most_codes, report.codes_per_cell, report.cells_seen, report.codes_used) == (2, 2.0, 2, 4)
    assert report.scenes_right == 1.0


def test_the_report_counts_scenes_with_a_wrong_cell():
    class Wrong(Exact):
        def decode(self, codes):
            return super().decode(torch.where(codes == codes.max(), 0, codes))

    scenes = [Scene(2, 2, "white"), Scene(2, 2, "white", (Thing("star", "red", 0, 0),))]
    report = codes_report(Wrong(), scenes=scenes)
    assert (report.scenes_right, report.cells_right) == (0.5, 7 / 8)


def test_the_report_wants_cells_of_the_world():
    model = Exact()
    model.downsample_factor = 8
    with pytest.raises(ValueError, match=r"`model` must make one code of 16x16 pixels, .* makes one of 8x8"):
        codes_report(model, scenes=1)


def test_report_scenes_are_sparse_and_hold_what_training_does_not():
    scenes = report_scenes(0, 300)
    assert {len(scene.things) for scene in scenes} == {0, 1, 2, 3, 4}
    assert any(scene.holds_out() for scene in scenes)


def test_the_world_has_98_distinct_cells():
    assert len(np.unique(vq_report.world_cells(), axis=0)) == len(vq_report.world_cells()) == 98


def test_the_sheet_shows_each_picture_above_its_reconstruction():
    scenes = [ShapesPictures(0, 10).scene(i) for i in range(3)]
    sheet = np.asarray(reconstruction_sheet(Exact(), [render(scene) for scene in scenes], scale=2, columns=2))
    height, width = scenes[0].height * 2, scenes[0].width * 2
    above, below = sheet[4 : 4 + height, 4 : 4 + width], sheet[8 + height : 8 + 2 * height, 4 : 4 + width]
    assert np.abs(above.astype(int) - below).max() <= 1
    assert above.std() > 0
