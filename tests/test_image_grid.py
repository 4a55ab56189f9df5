"""Sizes, tasks and row arithmetic against docs/protocol.md sections 3 to 9, and as properties over many sizes."""

import dataclasses
import random
from fractions import Fraction

import pytest

from transformers_wallaroo.image_grid_wallaroo import (
    BUCKETS_512,
    EDIT,
    GENERATE,
    TASKS,
    UNDERSTAND,
    ImageTask,
    TokenType,
    center_crop_box,
    cover_size,
    get_task,
    image_turn_length,
    join_rows,
    nearest_bucket,
    parse_aspect_ratio,
    split_rows,
)

# Written out again from docs/protocol.md section 9: key -> (height, width).
TABLE = {
    0.5: (352, 704),
    0.52: (352, 672),
    0.57: (384, 672),
    0.6: (384, 640),
    0.68: (416, 608),
    0.72: (416, 576),
    0.78: (448, 576),
    0.82: (448, 544),
    0.88: (480, 544),
    0.94: (480, 512),
    1.0: (512, 512),
    1.13: (544, 480),
    1.21: (544, 448),
    1.29: (576, 448),
    1.38: (576, 416),
    1.46: (608, 416),
    1.67: (640, 384),
    1.75: (672, 384),
    2.0: (704, 352),
}
CODE_OFFSET, NUM_CODES, ROW_END_ID = 640, 256, 546


def random_sizes(count):
    """(height, width, target_height, target_width) from one pixel to extreme ratios, small sizes often."""
    draw = random.Random(2)
    for _ in range(count):
        height, width = (draw.randint(1, draw.choice((8, 100, 4000))) for _ in range(2))
        yield height, width, 16 * draw.randint(1, 44), 16 * draw.randint(1, 44)


def read(ids):
    return split_rows(ids, CODE_OFFSET, NUM_CODES, ROW_END_ID)


def turn(rows):
    """Ids of an image turn: rows of codes with row ends between them."""
    ids = []
    for index, row in enumerate(rows):
        ids += [ROW_END_ID] * (index > 0) + [CODE_OFFSET + code for code in row]
    return ids


# ---------------------------------------------------------------------- buckets


def test_buckets_are_the_released_table_in_order():
    assert [(key, (height, width)) for key, height, width in BUCKETS_512] == list(TABLE.items())


@pytest.mark.parametrize("key", TABLE)
def test_nearest_bucket_of_a_key_is_its_own(key):
    assert nearest_bucket(key, 1) == TABLE[key]
    assert nearest_bucket(1000 * key, 1000) == TABLE[key]


def test_nearest_bucket_minimises_the_distance_of_ratios():
    draw = random.Random(1)
    for _ in range(300):
        height, width = draw.randint(1, 3000), draw.randint(1, 3000)
        best = min(abs(key - height / width) for key in TABLE)
        nearest = [size for key, size in TABLE.items() if abs(key - height / width) == best]
        assert nearest_bucket(height, width) in nearest


@pytest.mark.parametrize(
    ("height", "width", "bucket"),
    [(1, 1000, (352, 704)), (1000, 1, (704, 352)), (51, 100, (352, 704)), (53, 100, (352, 672)), (1, 1, (512, 512))],
)
def test_nearest_bucket_beyond_and_between_the_keys(height, width, bucket):
    assert nearest_bucket(height, width) == bucket


def test_nearest_bucket_takes_the_first_of_a_tie():
    buckets = [(0.5, 16, 32), (1.0, 32, 32)]
    assert nearest_bucket(3, 4, buckets) == (16, 32)
    assert nearest_bucket(3, 4, buckets[::-1]) == (32, 32)


@pytest.mark.parametrize(
    ("aspect_ratio", "ratio"),
    [
        ("16:9", 9 / 16),
        ("9:16", 16 / 9),
        ("3x2", 2 / 3),
        (" 4 : 3 ", 3 / 4),
        ("1.5", 1 / 1.5),
        ("2.35:1", 1 / 2.35),
        (1.5, 1 / 1.5),
        (2, 0.5),
        ("100:1", 0.01),
        ("1:100", 100),
    ],
)
def test_parse_aspect_ratio_is_height_over_width(aspect_ratio, ratio):
    assert parse_aspect_ratio(aspect_ratio) == pytest.approx(ratio)


@pytest.mark.parametrize(
    "aspect_ratio",
    [
        "",
        "wide",
        ":9",
        "16:9:4",
        "16/9",
        "0:1",
        "1:0",
        "1:101",
        "102:1",
        "nan",
        0,
        -1.5,
        float("nan"),
        float("inf"),
        [1],
    ],
)
def test_parse_aspect_ratio_refuses_what_is_none(aspect_ratio):
    with pytest.raises(ValueError, match="`aspect_ratio` must be width:height") as error:
        parse_aspect_ratio(aspect_ratio)
    assert repr(aspect_ratio) in str(error.value)
    assert "`height` and `width`" in str(error.value)


# ---------------------------------------------------------------------- resize and crop


def test_cover_size_covers_touches_and_truncates():
    for height, width, target_height, target_width in random_sizes(400):
        scale = max(Fraction(target_height, height), Fraction(target_width, width))
        covered = cover_size(height, width, target_height, target_width)
        assert covered == (int(height * scale), int(width * scale))
        assert covered[0] >= target_height
        assert covered[1] >= target_width
        assert covered[0] == target_height or covered[1] == target_width


def test_cover_size_of_the_target_itself_is_the_target():
    for height, width in TABLE.values():
        assert cover_size(height, width, height, width) == (height, width)
        assert cover_size(2 * height, 2 * width, height, width) == (height, width)


def test_center_crop_box_is_centred_inside_and_of_the_size():
    for height, width, target_height, target_width in random_sizes(400):
        covered = cover_size(height, width, target_height, target_width)
        left, top, right, bottom = center_crop_box(*covered, target_height, target_width)
        assert (bottom - top, right - left) == (target_height, target_width)
        assert left >= 0
        assert top >= 0
        assert right <= covered[1]
        assert bottom <= covered[0]
        assert abs(left - (covered[1] - right)) <= 1
        assert abs(top - (covered[0] - bottom)) <= 1


@pytest.mark.parametrize(("overhang", "start"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)])
def test_center_crop_box_rounds_halves_to_even(overhang, start):
    assert center_crop_box(32 + overhang, 48, 32, 48) == (0, start, 48, start + 32)
    assert center_crop_box(32, 48 + overhang, 32, 48) == (start, 0, start + 48, 32)


# ---------------------------------------------------------------------- rows


def test_join_rows_puts_row_ends_between_rows_only():
    assert join_rows(3, 2, "c", "|") == "cc|cc|cc"
    assert join_rows(1, 4, "c", "|") == "cccc"
    assert join_rows(3, 2, "c", "") == "cccccc"


def test_join_rows_has_the_length_that_image_turn_length_says():
    for height in range(1, 9):
        for width in range(1, 9):
            text = join_rows(height, width, "c", "|")
            assert text.count("|") == height - 1
            assert not text.startswith("|")
            assert not text.endswith("|")
            assert len(text) == image_turn_length(height, width)
            assert len(join_rows(height, width, "c", "")) == image_turn_length(height, width, row_ends=False)


def test_image_turn_length_of_the_released_square():
    assert image_turn_length(32, 32) == 1024 + 31
    assert image_turn_length(32, 32, row_ends=False) == 1024


def test_split_rows_inverts_rows_of_any_grid():
    draw = random.Random(3)
    for height in range(2, 12):
        for width in range(1, 12):
            rows = [[draw.randrange(NUM_CODES) for _ in range(width)] for _ in range(height)]
            assert read(turn(rows)) == rows


def test_split_rows_agrees_with_join_rows():
    for height in range(2, 7):
        for width in range(1, 7):
            ids = [{"c": CODE_OFFSET, "|": ROW_END_ID}[mark] for mark in join_rows(height, width, "c", "|")]
            assert read(ids) == [[0] * width] * height


def test_split_rows_passes_over_marks_text_and_padding():
    rows = [[0, 1, 255], [7, 8, 9]]
    assert read([542, 10, *turn(rows), 543, 522, 198, 520, 520]) == rows


def read_square(codes):
    return split_rows([CODE_OFFSET + code for code in codes], CODE_OFFSET, NUM_CODES, ROW_END_ID, row_ends=False)


def test_split_rows_reads_a_turn_without_row_ends_as_a_square():
    assert read_square(range(9)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert read_square([5]) == [[5]]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_split_rows_reads_a_single_row(length):
    assert read([CODE_OFFSET + code for code in range(length)]) == [list(range(length))]


@pytest.mark.parametrize("length", [2, 3, 5, 7])
def test_split_rows_refuses_what_is_no_square(length):
    with pytest.raises(ValueError, match=rf"`sequences` holds {length} codes, but .* is a square"):
        read_square(range(length))


@pytest.mark.parametrize(
    ("ids", "lengths"),
    [
        (turn([[1, 2, 3], [4, 5]]), r"\[2, 3\]"),
        ([*turn([[1, 2, 3], [4, 5, 6]]), ROW_END_ID], r"\[0, 3\]"),
        ([ROW_END_ID, ROW_END_ID], r"\[0\]"),
    ],
    ids=["cut in a row", "cut after a row end", "row ends alone"],
)
def test_split_rows_refuses_what_is_no_whole_image(ids, lengths):
    with pytest.raises(ValueError, match=rf"`sequences` must hold whole images, but one has rows of {lengths} codes"):
        read(ids)


def test_split_rows_refuses_an_id_beyond_the_codebook():
    with pytest.raises(ValueError, match=r"`sequences` holds id 896, but the largest code, 255, is id 895"):
        read([CODE_OFFSET, CODE_OFFSET + NUM_CODES])


# ---------------------------------------------------------------------- tasks


def test_tasks_are_the_three_of_the_paper():
    assert list(TASKS) == ["understand", "generate", "edit"]
    assert [task.index for task in TASKS.values()] == [0, 1, 2]
    assert [task.head for task in TASKS.values()] == ["lm_head", "generation_head", "editing_head"]


def test_only_the_image_tasks_write_codes():
    assert [isinstance(task, ImageTask) for task in TASKS.values()] == [False, True, True]
    assert [task.adapter for task in (GENERATE, EDIT)] == ["generation_adapter", "editing_adapter"]
    assert [task.code_type for task in (GENERATE, EDIT)] == [TokenType.GENERATED_CODE, TokenType.EDITED_CODE]
    assert [task.has_source for task in (GENERATE, EDIT)] == [False, True]


def test_get_task_gives_the_task_itself():
    assert [get_task(name) for name in ("understand", "generate", "edit")] == [UNDERSTAND, GENERATE, EDIT]


@pytest.mark.parametrize("name", ["draw", "Generate", "", None, 1])
def test_get_task_names_the_known_tasks(name):
    with pytest.raises(ValueError, match="`task` must be one of 'understand', 'generate', 'edit'") as error:
        get_task(name)
    assert repr(name) in str(error.value)


def test_tasks_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GENERATE.index = 5


def test_token_types_start_with_those_of_transformers():
    assert [(kind.name, int(kind)) for kind in TokenType] == [
        ("TEXT", 0),
        ("IMAGE", 1),
        ("VIDEO", 2),
        ("GENERATED_CODE", 3),
        ("EDITED_CODE", 4),
        ("SOURCE_CELL", 5),
    ]
