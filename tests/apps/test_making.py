"""Many pictures: batches, the bar, and the preview."""

from dataclasses import replace

import pytest
from PIL import Image

from transformers_wallaroo.apps import ImageJob, making, read_picture_info, save_picture
from transformers_wallaroo.apps.making import GAP, PAPER, check_preview, make_in_batches
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.shapes import make_sample

JOBS = [
    ImageJob("a red circle", height=32, width=64, seed=1),
    ImageJob("two stars", height=64, width=32, seed=2),
    ImageJob("a blue square", height=32, width=64, seed=3),
]


def test_batches_are_those_of_the_engine(engine):
    made = list(make_in_batches(engine, JOBS, batch_size=2))
    assert [index for index, _ in made] == [0, 1, 2]
    expected = [*engine.make(JOBS[:2]), *engine.make(JOBS[2:])]
    for (_, one), other in zip(made, expected, strict=True):
        assert picture_hash(one.picture) == picture_hash(other.picture) and one.info == other.info


def test_a_batch_has_one_sampling(engine, monkeypatch):
    calls = []
    real = engine.make
    monkeypatch.setattr(engine, "make", lambda jobs, **options: calls.append(len(jobs)) or real(jobs, **options))
    greedy = [replace(job, sampling={"do_sample": False}) for job in JOBS]
    made = list(make_in_batches(engine, [*JOBS[:2], *greedy], batch_size=4))
    assert calls == [2, 3] and [index for index, _ in made] == [0, 1, 2, 3, 4]
    assert picture_hash(made[4][1].picture) == picture_hash(real(greedy)[2].picture)


def test_an_edit_in_its_own_size_keeps_to_its_place(engine, tmp_path):
    source = make_sample("edit", 1, 5)["source_image"].resize((100, 100))
    jobs = [ImageJob("remove it", source, height=32, width=32, original_size=True), replace(JOBS[1], height=32)]
    made = dict(make_in_batches(engine, jobs, batch_size=2, preview=tmp_path / "p.png"))
    sheet = Image.open(tmp_path / "p.png")
    assert made[0].picture.size == (100, 100) and sheet.size == (32 + GAP + 32, 32)
    assert picture_hash(sheet.crop((32 + GAP, 0, 64 + GAP, 32))) == picture_hash(made[1].picture)


def test_pictures_come_when_their_batch_is_finished(engine, monkeypatch):
    calls = []
    real = engine.make
    monkeypatch.setattr(engine, "make", lambda jobs, **options: calls.append(len(jobs)) or real(jobs, **options))
    pictures = make_in_batches(engine, JOBS, batch_size=2)
    next(pictures)
    assert calls == [2]
    pictures.close()
    assert calls == [2]


def test_bar_counts_the_codes_of_the_largest_of_each_batch(engine, capsys):
    list(make_in_batches(engine, JOBS, batch_size=2, show_progress=True))
    err = capsys.readouterr().err
    assert "3 pictures:" in err and "/16 " in err  # the last counts may come too fast to be shown


def test_preview_grows_and_is_always_whole(engine, tmp_path, monkeypatch):
    path, seen = tmp_path / "new" / "preview.png", []
    real = making.save_picture

    def save(*arguments, **options):
        saved = real(*arguments, **options)
        seen.append(Image.open(saved).copy())
        return saved

    monkeypatch.setattr(making, "save_picture", save)
    made = dict(make_in_batches(engine, JOBS[:2], batch_size=2, preview=path))
    assert {sheet.size for sheet in seen} == {(64 + GAP + 32, 64)} and len(seen) > 2
    assert seen[0].getpixel((70, 60)) == PAPER  # its lowest row is to come
    last = seen[-1]
    assert picture_hash(last.crop((0, 0, 64, 32))) == picture_hash(made[0].picture)
    assert picture_hash(last.crop((64 + GAP, 0, 64 + GAP + 32, 64))) == picture_hash(made[1].picture)
    assert read_picture_info(path) == {"preview": True}
    assert check_preview(path) == path


def test_preview_takes_nobodys_place(tmp_path):
    picture = save_picture(Image.new("RGB", (16, 16)), tmp_path / "mine.png", {"prompt": "mine"})
    with pytest.raises(ValueError, match=r"`--preview`: .*mine.png is there already and is no preview"):
        check_preview(picture)
    assert check_preview(picture, force=True) == picture
    for path in (tmp_path, tmp_path / "a.jpg"):
        with pytest.raises(ValueError, match=r"`--preview` must be a file that ends in .png"):
            check_preview(path)


def test_bad_batch_size(engine):
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, but got 0"):
        list(make_in_batches(engine, JOBS, batch_size=0))
