"""Sizes as people write them: width first."""

import pytest

from transformers_wallaroo.apps.sizes import parse_aspect, parse_size, read_size, size_list, write_size

USUAL = [(32, 64), (64, 64)]


@pytest.mark.parametrize("text", ["64x32", " 64 X 32 ", "64×32", "64*32"])
def test_width_comes_first(text):
    assert parse_size(text, 16) == (32, 64)
    assert write_size(*parse_size(text, 16)) == "64x32"
    assert read_size(text) == (32, 64)


def test_what_is_no_size_at_all():
    assert [read_size(text) for text in ("33x7", "auto", "64", "-1x3")] == [(7, 33), None, None, None]


@pytest.mark.parametrize(
    "text", ["64", "64x", "64x33", "33x64", "0x64", "-64x32", "64x32x3", "", "wide", "64:32", "1e3x64"]
)
def test_other_sizes_are_refused(text):
    with pytest.raises(
        ValueError, match=r"`--size` must be WIDTHxHEIGHT in pixels, both multiples of 16, such as"
    ) as error:
        parse_size(text, 16, USUAL, "--size")
    assert repr(text) in str(error.value) and str(error.value).endswith("The usual ones are 64x32, 64x64.")


def test_aspects():
    assert parse_aspect("16:9") == "16:9"
    for text in ("16:0", "wide", "", "1:1:1"):
        with pytest.raises(ValueError, match=r"`--aspect` must be WIDTH:HEIGHT, such as 16:9"):
            parse_aspect(text, "--aspect")
    assert size_list(USUAL) == "64x32, 64x64"
