"""Pictures that other kits ask for: as drawn one by one, once, and in the paper's settings."""

import pytest
import torch
from PIL import Image

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation.answering import Question, seed_of
from transformers_wallaroo.evaluation.picture_requests import PictureOptions, make_pictures, request_of
from transformers_wallaroo.shapes import score

from questions import edit_request


@pytest.fixture(scope="module")
def tiny():
    return load_checkpoint(device="cpu")


def draw_request(text, name):
    return Question(name, [{"role": "user", "content": text}])


def make(tiny, requests, folder, **options):
    return make_pictures(
        *tiny, requests, folder, **{"checkpoint": "tiny", "options": PictureOptions(), "batch_size": 4, **options}
    )


def pixels(path):
    return Image.open(path).convert("RGB").tobytes()


def test_a_batch_draws_as_one_by_one_and_as_generate(tiny, tmp_path):
    model, processor = tiny
    edits = [edit_request(index, f"edit/{index}") for index in range(3)]
    requests = [request for request, _ in edits] + [draw_request("a red star", "draw/0")]
    settled = []
    together = make(tiny, requests, tmp_path / "a", seed=5, on_pictures=settled.append)
    assert settled == [4]
    alone = make(tiny, requests, tmp_path / "b", seed=5, batch_size=1)
    assert [str(path.relative_to(tmp_path / "a")) for path in together] == [
        "edit/0.png", "edit/1.png", "edit/2.png", "draw/0.png"
    ]  # fmt: skip
    assert list(map(pixels, together)) == list(map(pixels, alone))
    for (request, sample), path in zip(edits, together, strict=False):
        inputs = processor(text=sample["prompt"], images=sample["source_image"], task="edit", return_tensors="pt")
        sequences = model.generate(**inputs, seed=[seed_of(request.name, 5)], show_progress=False)
        assert processor.image_processor.postprocess(model.decode_image_tokens(sequences))[0].tobytes() == pixels(path)
    # A source that is left out, or another's, would be scored 0.
    assert (
        sum(score(Image.open(path), sample)["correct"] for path, (_, sample) in zip(together, edits, strict=False)) >= 2
    )


def test_pictures_that_are_there_stay(tiny, tmp_path, monkeypatch):
    model, _ = tiny
    requests = [draw_request(f"{colour} stars", f"draw/{colour}") for colour in ("red", "green", "blue")]
    paths = make(tiny, requests, tmp_path)
    drawn = [path.read_bytes() for path in paths]
    paths[1].write_bytes(drawn[1][:100])  # as a kill leaves it, were it not written under another name
    calls = []
    generate = type(model).generate
    monkeypatch.setattr(
        type(model), "generate", lambda self, *a, **k: calls.append(k["seed"]) or generate(self, *a, **k)
    )
    settled = []
    assert make(tiny, requests, tmp_path, on_pictures=settled.append) == paths
    assert calls == [[seed_of("draw/green", 0)]] and settled == [2, 1]
    assert [path.read_bytes() for path in paths] == drawn
    make(tiny, requests, tmp_path, checkpoint="another")
    assert len(calls[-1]) == 3


@pytest.mark.parametrize("change", ["dtype", "pixels"])
def test_pictures_of_another_dtype_or_seen_otherwise_are_made_anew(tmp_path, change):
    model, processor = load_checkpoint(device="cpu")

    def is_made_now():
        made, generate = [], model.generate
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model, "generate", lambda **options: made.append(1) or generate(**options))
            make((model, processor), [edit_request(0, "edit/0")[0]], tmp_path)
        return bool(made)

    assert is_made_now() and not is_made_now()
    if change == "dtype":
        model.to(torch.bfloat16)
    else:
        size = processor.image_processor.size
        processor.image_processor.size = {"shortest_edge": size["shortest_edge"], "longest_edge": 32 * 32}
    assert is_made_now()


def test_the_settings_of_the_paper():
    paper = PictureOptions.of_paper(top_p=0.95)
    assert (paper.height, paper.width, paper.layout) == (None, None, "evaluation")
    sampling = {"guidance_scale": 3.0, "temperature": 1.0, "top_k": 1000, "top_p": 0.95, "do_sample": True}
    assert paper.sampling() == sampling


def test_the_papers_sizes_and_languages_are_those_of_the_benchmarks(tiny, tmp_path, monkeypatch):
    processor = tiny[1]
    seen = {}
    call = type(processor).__call__
    monkeypatch.setattr(type(processor), "__call__", lambda self, **k: seen.update(k) or call(self, **k))
    parts = [{"type": "image", "url": Image.new("RGB", (64, 32))}, {"type": "text", "text": "把圆形变成红色"}]
    names = ("gedit_bench/0", "imgedit/0")
    requests = [Question(name, [{"role": "user", "content": parts}]) for name in names]
    requests.append(draw_request("一颗红色的星星", "WISE/0"))
    paths = make(tiny, requests, tmp_path, options=PictureOptions.of_paper())
    assert [Image.open(path).size for path in paths] == [(64, 32), (64, 32), (64, 64)]
    english = [processor.templates[task]["en"][0] for task in ("generate", "edit")]
    # Drawings go first; None is for the first template of the prompt's own language.
    assert seen["template"] == [english[0], None, english[1]]


def test_options_reach_processor_and_model(tiny, tmp_path, monkeypatch):
    model, processor = tiny
    seen = {}
    call, generate = type(processor).__call__, type(model).generate
    monkeypatch.setattr(type(processor), "__call__", lambda self, **k: seen.update(k) or call(self, **k))
    monkeypatch.setattr(type(model), "generate", lambda self, **k: seen.update(k) or generate(self, **k))
    options = PictureOptions(
        32, 64, "evaluation", "grey", "en", guidance_scale=2.0, temperature=0.5, top_k=7, top_p=0.9
    )
    [path] = make(tiny, [draw_request("一颗红色的星星", "draw/0")], tmp_path, options=options)
    assert Image.open(path).size == (64, 32)
    expected = {"height": 32, "width": 64, "layout": "evaluation", "negative_prompt": "grey", "guidance_scale": 2.0}
    expected |= {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "template": [processor.templates["generate"]["en"][0]]}
    assert {name: seen[name] for name in expected} == expected


def test_requests_that_cannot_be_drawn(tiny, tmp_path, picture):
    two = [{"type": "image", "url": picture}] * 2 + [{"type": "text", "text": "join them"}]
    with pytest.raises(ValueError, match=r"kris/3: a picture is asked for from 2 pictures and 0 videos"):
        request_of(Question("kris/3", [{"role": "user", "content": two}]))
    with pytest.raises(ValueError, match=r"wise/1: .*no text that says which"):
        request_of(Question("wise/1", [{"role": "user", "content": [{"type": "image", "url": picture}]}]))
    with pytest.raises(ValueError, match=r"`height`.*This was in draw/0\."):
        make(tiny, [draw_request("a star", "draw/0")], tmp_path, options=PictureOptions(height=30, width=30))
