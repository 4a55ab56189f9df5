"""The VQ tokenizer on grids of any shape."""

import pytest
import torch

from transformers_wallaroo import WallarooVQConfig, WallarooVQModel

from reference import DECODED, assert_close


@pytest.fixture(scope="module")
def vq(shared_model):
    return shared_model.model.vq_model


def pixels(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [(16, 16), (32, 80), (96, 48), (16, 160)])
def test_any_grid(vq, size):
    out = vq.encode(pixels(2, 3, *size))
    grid = (size[0] // 16, size[1] // 16)
    assert out.codes.shape == (2, *grid)
    assert out.latents.shape == (2, *grid, 8)
    assert_close(out.latents.norm(dim=-1), torch.ones(2, *grid), 1e-5)
    assert vq.decode(out.codes).shape == (2, 3, *size)
    assert vq(pixels(2, 3, *size)).shape == (2, 3, *size)


def test_codes_are_the_nearest_entries(vq):
    out = vq.encode(pixels(1, 3, 64, 64))
    codebook = vq.embed_codes(torch.arange(256))
    distances = torch.cdist(out.latents.flatten(0, 2), codebook)
    assert torch.equal(distances.argmin(dim=-1), out.codes.flatten())


def test_a_batch_is_its_images(vq):
    """More images than go through the convolutions at once."""
    batch = pixels(11, 3, 32, 48)
    together = vq.encode(batch)
    for index in range(len(batch)):
        alone = vq.encode(batch[index : index + 1])
        assert torch.equal(alone.codes[0], together.codes[index])
        assert_close(vq.decode(alone.codes)[0], vq.decode(together.codes)[index], DECODED)


@pytest.mark.parametrize("strip_rows", [1, 7, 64, 1000])
def test_strips_are_the_whole_picture(vq, strip_rows):
    """Rows of all kinds: less than a cell, across cells, more than there are. Worst difference 1.3e-6."""
    codes = torch.randint(256, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    assert_close(vq.decode(codes, strip_rows=strip_rows), vq.decode(codes), DECODED)


def test_strips_with_other_widths_at_other_levels():
    """A level that changes the number of channels, and two pictures of which each has its own statistics."""
    config = WallarooVQConfig(
        base_channels=32, channel_multiplier=[1, 2, 4], num_embeddings=64, latent_channels=32, num_res_blocks=1
    )
    torch.manual_seed(0)
    model = WallarooVQModel(config).eval()
    codes = torch.randint(64, (2, 6, 5), generator=torch.Generator().manual_seed(0))
    assert_close(model.decode(codes, strip_rows=3), model.decode(codes), DECODED)


def test_raster_order(vq):
    """Codes of the right half of a wide picture stand in the right columns."""
    picture = torch.full((1, 3, 32, 128), -1.0)
    picture[..., 64:] = pixels(1, 3, 32, 64)
    left, right = vq.encode(picture).codes[0].split(4, dim=1)
    assert len(set(left[:, :2].flatten().tolist())) < len(set(right.flatten().tolist()))


def test_the_codebook_is_normalised_at_every_use():
    """Whatever the length of the stored entries, codes and pictures are the same."""
    config = WallarooVQConfig(
        base_channels=32, channel_multiplier=[1, 1], num_embeddings=64, latent_channels=32, num_res_blocks=1
    )
    torch.manual_seed(0)
    model = WallarooVQModel(config).eval()
    picture = pixels(1, 3, 8, 12)
    codes, decoded = model.encode(picture).codes, model(picture)
    with torch.no_grad():
        model.quantize.embedding.weight.mul_(torch.linspace(0.1, 9, 64)[:, None])
    assert torch.equal(model.encode(picture).codes, codes)
    assert_close(model(picture), decoded, DECODED)
    assert model.downsample_factor == 2


def test_other_autocast_does_not_reach_it(vq):
    picture = pixels(1, 3, 32, 32)
    expected = vq.encode(picture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = vq.encode(picture)
        decoded = vq.decode(found.codes)
    assert torch.equal(found.codes, expected.codes)
    assert_close(found.latents, expected.latents, 0)
    assert decoded.dtype == torch.float32


def test_encoding_has_no_gradient(vq):
    picture = pixels(1, 3, 16, 16).requires_grad_()
    assert not vq.encode(picture).latents.requires_grad


def test_wrong_shapes(vq):
    with pytest.raises(ValueError, match=r"sides that are multiples of 16, but got \(1, 3, 20, 32\)"):
        vq.encode(torch.zeros(1, 3, 20, 32))
    with pytest.raises(ValueError, match=r"`codes` must be \(batch, grid_height, grid_width\), but got shape \(1, 4\)"):
        vq.decode(torch.zeros(1, 4, dtype=torch.long))
    for rows in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="`strip_rows` must be a positive int, such as 64, but got"):
            vq.decode(torch.zeros(1, 4, 4, dtype=torch.long), strip_rows=rows)
