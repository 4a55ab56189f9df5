# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""`/v1/images/generations` and `/v1/images/edits` by OpenAI's own client, against a live server."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs the extra `serve`")
openai = pytest.importorskip("openai", reason="the server is tested with OpenAI's client")

from transformers_wallaroo.apps import ImageJob, read_picture_info
from transformers_wallaroo.apps.engine import NOT_TOLD
from transformers_wallaroo.apps.pictures import picture_hash
from transformers_wallaroo.shapes import make_sample

from live import HeldEngine, in_thread, live, png, until

SMALL = {"size": "64x32"}
PROMPT = "a red circle on a white background"
SMALL_PICTURE = png(Image.new("RGB", (8, 8)))
NOISE = png(Image.effect_noise((90, 90), 80))


@pytest.fixture(scope="module")
def server(engine):
    with live(engine, max_images=3, max_queue=3, max_pixels=100 * 100, max_upload=30_000) as server:
        yield server


@pytest.fixture(scope="module")
def source() -> Image.Image:
    return make_sample("edit", 1, 5)["source_image"]


def opened(image) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.b64_json)))


def test_pictures_are_the_engines(server, engine):
    sampling = {"guidance_scale": 2.0, "top_k": 100}
    answer = server.client().images.generate(
        model="wallaroo-tiny", prompt=PROMPT, n=2, **SMALL, response_format="b64_json", quality="auto", user="ann",
        extra_body={"seed": 7, "negative_prompt": "blue", **sampling},
    )  # fmt: skip
    assert [image.seed for image in answer.data] == [7, 8]
    assert answer.size == "64x32" and answer.output_format == "png"
    for image in answer.data:
        job = ImageJob(PROMPT, height=32, width=64, seed=image.seed, negative_prompt="blue", sampling=sampling)
        [own] = engine.make([job])
        assert picture_hash(opened(image)) == picture_hash(own.picture)
        info = read_picture_info(io.BytesIO(base64.b64decode(image.b64_json)))
        assert info["prompt"] == PROMPT and info["seed"] == image.seed and info["sampling"]["top_k"] == 100
    usage = answer.usage
    assert usage.input_tokens == int(engine.prepare([job])["attention_mask"].sum())
    assert usage.output_tokens == 2 * 2 * 4 and usage.total_tokens == usage.input_tokens + 16


def test_edits_are_the_engines(server, engine, source):
    options = {"extra_body": {"seed": 4, "temperature": 0, "guidance_scale": 3}}
    answer = server.client().images.edit(image=("a.png", png(source)), prompt="remove the red circle", **options)
    [image] = answer.data
    sampling = {"do_sample": False, "guidance_scale": 3}
    [own] = engine.make([ImageJob("remove the red circle", source=source, seed=4, sampling=sampling)])
    assert picture_hash(opened(image)) == picture_hash(own.picture)
    info = read_picture_info(io.BytesIO(base64.b64decode(image.b64_json)))
    assert info["task"] == "edit" and info["source"] == {"sha256": picture_hash(source)}
    assert answer.usage.input_tokens_details.image_tokens > 0


def test_what_an_edit_keeps(server, engine, source):
    """The mask is OpenAI's: what is fully transparent is drawn anew."""
    source = source.resize((50, 70))
    mask = Image.new("RGBA", source.size, "#00000001")
    mask.paste((255, 255, 255, 0), (0, 0, 25, 70))
    sampling = {"do_sample": False, "image_guidance_scale": 2.5}
    fields = {"temperature": 0, "image_guidance_scale": 2.5, "seed": 4, "original_size": True, "keep_source": True}
    answer = server.client().images.edit(
        image=png(source), mask=png(mask), prompt="remove the red circle", n=2, extra_body=fields
    )
    region = np.zeros((70, 50), dtype=bool)
    region[:, :25] = True
    job = ImageJob("remove the red circle", source, seed=4, sampling=sampling, region_mask=region, original_size=True)
    assert answer.size == "50x70"
    pictures = [opened(image) for image in answer.data]
    own = engine.make([replace(job, keep_source=True), replace(job, keep_source=True, seed=5)])
    assert [picture_hash(picture) for picture in pictures] == [picture_hash(made.picture) for made in own]
    pixels, before = np.asarray(pictures[0]), np.asarray(source)
    assert (pixels[:, 25:] == before[:, 25:]).all() and (pixels[:, :25] != before[:, :25]).any()
    info = read_picture_info(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert info["region_mask"] == {"sha256": own[0].info["region_mask"]["sha256"]} and info["keep_source"] is True


def test_image_may_be_a_list_of_one(server, source):
    answer = server.client().images.edit(image=[png(source)], prompt="remove the red circle", size="32x32")
    assert opened(answer.data[0]).size == (32, 32)


def test_requests_of_equal_settings_share_a_batch(engine):
    held = HeldEngine(engine)
    with live(held, batch_wait=0.0, max_batch=4) as server:
        calls = []

        def draw(seed, scale):
            body = {"seed": seed, "guidance_scale": scale}
            calls.append(in_thread(server.client().images.generate, prompt=PROMPT, size="16x16", extra_body=body))
            until(lambda: held.batches and server.service.scheduler.waiting == len(calls) - 1)

        draw(0, 2.0)
        for seed, scale in [(1, 2.0), (2, 3.0), (3, 2.0)]:
            draw(seed, scale)
        held.go.set()
        for thread, results in calls:
            thread.join()
            assert opened(results[0].data[0]).size == (16, 16)
        metrics = server.get("/metrics").text
    assert held.batches == [[0], [1, 3], [2]]
    infos = [read_picture_info(io.BytesIO(base64.b64decode(results[0].data[0].b64_json))) for _, results in calls]
    assert [info["batch"] for info in infos[1::2]] == [  # not what another client asked for
        {"index": 0, "size": 2, "others": NOT_TOLD},
        {"index": 1, "size": 2, "others": NOT_TOLD},
    ]
    assert 'wallaroo_images_total{task="generate"} 4.0' in metrics
    assert 'wallaroo_batch_size_bucket{le="1.0"} 2.0' in metrics and "wallaroo_batch_size_count 3.0" in metrics


@pytest.mark.parametrize(
    ("change", "words", "param"),
    [
        ({"prompt": ""}, "`prompt` is wrong", "prompt"),
        ({"prompt": "a <|image_pad|>"}, "holds the special token <|image_pad|>", None),
        ({"prompt": "word " * 1000}, "but the limit is 512", None),
        ({"n": 0}, "`n` is wrong", "n"),
        ({"n": 4}, "`n` must be at most 3 here, but got 4", "n"),
        ({"size": "large"}, "`size` must be WIDTHxHEIGHT in pixels", "size"),
        ({"size": "33x64"}, "`width` must be a positive multiple of 16 pixels, but got 33", None),
        ({"size": "0x0"}, "must be a positive multiple of 16 pixels, but got 0", None),
        ({"size": "4096x4096"}, "but the limit is 512", None),
        ({"size": "64x64", "extra_body": {"aspect_ratio": "16:9"}}, "or `aspect_ratio`, not both", None),
        ({"extra_body": {"aspect_ratio": "wide"}}, "aspect_ratio", None),
        (
            {"response_format": "url"},
            "`response_format` is not served here, but got 'url'. Leave it out",
            "response_format",
        ),
        ({"output_format": "webp"}, "`output_format` is not served here", "output_format"),
        ({"background": "transparent"}, "`background` is not served here", "background"),
        ({"stream": True}, "`stream` is not served here", "stream"),
        ({"model": "dall-e-3"}, "There is no model 'dall-e-3' here", "model"),
        ({"extra_body": {"guidance_scale": -1}}, "`guidance_scale` is wrong", "guidance_scale"),
        ({"extra_body": {"temperature": -1}}, "`temperature` is wrong", "temperature"),
        ({"extra_body": {"top_k": 1.5}}, "`top_k` is wrong", "top_k"),
        ({"extra_body": {"top_p": 2}}, "`top_p` is wrong", "top_p"),
        ({"extra_body": {"seed": "x"}}, "`seed` is wrong", "seed"),
        ({"extra_body": {"speculative_window": 65}}, "`speculative_window` is wrong", "speculative_window"),
        ({"extra_body": {"guidence": 2}}, "`guidence` is no field that this server knows", "guidence"),
    ],
)
def test_refusals(server, source, change, words, param):
    client = server.client()
    calls = {"generate": {}, "edit": {"image": png(source)}}
    for name, options in calls.items():
        with pytest.raises(openai.APIStatusError) as caught:
            getattr(client.images, name)(**{"prompt": PROMPT, **options, **change})
        error = caught.value
        assert error.status_code == (404 if "model" in change else 400)
        assert words in error.body["message"] and error.body["param"] == param
        assert error.body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ({}, 400, "`image` must be one file, the source, but got 0"),
        ({"image": b"no picture"}, 400, "`image` is no picture that can be read"),
        ({"image": b"x" * 30_001}, 413, "`image` is larger than the 30000 bytes"),
        ({"image": png(Image.new("RGB", (101, 100)))}, 400, "`image` has 101 x 100 pixels"),
        ({"image": NOISE[:2000]}, 400, "cannot be decoded"),
        ({"image": png(Image.new("RGB", (8, 8))), "mask": b"x"}, 400, "`mask` is no picture that can be read"),
        ({"image": SMALL_PICTURE, "mask": SMALL_PICTURE}, 400, "`mask` must have fully transparent pixels"),
        ({"image": SMALL_PICTURE, "mask": png(Image.new("RGBA", (8, 8), "#ffffff01"))}, 400, "transparent pixels"),
        ({"image": SMALL_PICTURE, "mask": png(Image.new("RGBA", (9, 8)))}, 400, "`mask` must have the size of its"),
        ({"image": SMALL_PICTURE, "mask": png(Image.new("RGBA", (101, 100)))}, 400, "`mask` has 101 x 100 pixels"),
        ({"image": SMALL_PICTURE, "mask": NOISE[:2000]}, 400, "`mask` cannot be decoded"),
        ({"image": SMALL_PICTURE, "picture": b"x"}, 400, "`picture` is not served here"),
    ],
)
def test_refused_files(server, files, status, words):
    # Without a file httpx would not send a form with parts.
    parts = {**{name: (f"{name}.png", data) for name, data in files.items()}, "prompt": (None, "remove it")}
    answer = server.post("/v1/images/edits", files=parts)
    assert answer.status_code == status and words in answer.json()["error"]["message"]


def test_two_sources_are_refused(server, source):
    with pytest.raises(openai.BadRequestError, match="`image` must be one file, but got 2"):
        server.client().images.edit(image=[png(source)] * 2, prompt="remove it")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_guidance_scale": "-1"}, "`image_guidance_scale` is wrong"),
        ({"original_size": "perhaps"}, "`original_size` is wrong"),
        ({"keep_source": "true"}, "`keep_source` needs a `mask`"),
        ({"mask": "here"}, "`mask` must be a file"),
    ],
)
def test_refused_fields_of_edits(server, fields, words):
    parts = {name: (None, value) for name, value in {"prompt": "remove it", **fields}.items()}
    answer = server.post("/v1/images/edits", files={"image": ("a.png", SMALL_PICTURE), **parts})
    assert answer.status_code == 400 and words in answer.json()["error"]["message"]
    if "mask" not in fields:  # a drawing has no source
        answer = server.post("/v1/images/generations", json={"prompt": PROMPT, **fields})
        assert answer.status_code == 400 and "is no field that this server knows" in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", [b"--x", b"", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--"])
def test_broken_forms(server, content):
    answer = server.post(
        "/v1/images/edits", content=content, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 400 and answer.json()["error"]["message"].endswith(".")


def test_other_bodies(server):
    answer = server.post("/v1/images/edits", json={"prompt": "a"})
    assert answer.status_code == 400 and "must be a form with files" in answer.json()["error"]["message"]
    for content, words in [
        (b"{", "it cannot be read"),
        (b"[]", "a JSON object"),
        (b'{"prompt": "\\ud800"}', "unicode"),
    ]:
        answer = server.post("/v1/images/generations", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]
    answer = server.post("/v1/images/generations", content=b'{"prompt": "a"}')
    assert answer.status_code == 400 and "`application/json`" in answer.json()["error"]["message"]
