# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The paper's settings, and changes to them."""

import pytest

from transformers_wallaroo.evaluation.benchmarks import BENCHMARKS, get_benchmark
from transformers_wallaroo.evaluation.settings import generate_options, settings_for, template_of

SHARED = {"paper": True, "departures": [], "layout": "evaluation", "do_sample": True, "temperature": 1.0, "top_k": 1000}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("geneval", {"language": "en", "guidance_scale": 3.0, "top_p": 1.0, "size": 512}),
        ("dpg", {"language": "en", "guidance_scale": 4.0, "top_p": 0.95, "size": 512}),
        ("imgedit", {"language": "en", "guidance_scale": 3.0, "top_p": 1.0}),
        ("gedit", {"language": None, "guidance_scale": 3.0, "top_p": 1.0}),
    ],
)
def test_the_papers_settings(name, expected):
    """docs/protocol.md, sections 4, 8 and 9."""
    assert settings_for(BENCHMARKS[name], paper=True) == {**SHARED, **expected}


def test_changes_are_noted():
    settings = settings_for(BENCHMARKS["dpg"], paper=True, size=64, guidance_scale=4.0, top_k=None)
    assert settings["size"] == 64 and settings["departures"] == ["size"]
    assert settings_for(BENCHMARKS["dpg"]) == {"paper": False, "departures": []}
    assert settings_for(BENCHMARKS["dpg"], top_p=0.5) == {"paper": False, "departures": [], "top_p": 0.5}


def test_each_setting_goes_where_it_belongs(processor):
    settings = settings_for(BENCHMARKS["dpg"], paper=True)
    assert generate_options(settings) == {
        "do_sample": True,
        "guidance_scale": 4.0,
        "temperature": 1.0,
        "top_k": 1000,
        "top_p": 0.95,
    }
    assert template_of(settings, "generate", processor) == processor.templates["generate"]["en"][0]
    assert template_of(settings_for(BENCHMARKS["gedit"], paper=True), "edit", processor) is None
    with pytest.raises(ValueError, match="has no templates of 'edit' in the language 'fr'"):
        template_of({"language": "fr"}, "edit", processor)


def test_refusals():
    with pytest.raises(ValueError, match="`size` is for benchmarks that draw, but GEdit-Bench edits"):
        settings_for(BENCHMARKS["gedit"], size=64)
    with pytest.raises(ValueError, match="`seed` is no setting of a benchmark; there are layout,"):
        settings_for(BENCHMARKS["gedit"], seed=3)
    with pytest.raises(ValueError, match="`benchmark` must be one of geneval, dpg, imgedit, gedit, but got 'mme'"):
        get_benchmark("mme")
