# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The paper's tables as data, and scores given by name."""

import json
from pathlib import Path

import pytest

from transformers_wallaroo.evaluation.benchmarks import BENCHMARKS
from transformers_wallaroo.evaluation.paper_tables import paper_tables, read_scores

# The rows as the paper prints them, typed apart from the file.
ROWS = {
    3: "86.4 1690.3 83.0 76.4 60.1 42.7 50.1",
    4: "1.00 0.81 0.51 0.87 0.69 0.61 0.75",
    5: "75.00 81.20 83.33 78.13 92.31 79.35",
    6: "2.02 3.41 2.93 3.32 2.54 1.61 4.14 2.58 3.73 2.92",
}
HEADS = {
    3: "POPE,MME-P,MMB,SEED,GQA,MMMU,MM-Vet",
    4: "Single Obj.,Two Obj.,Counting,Colors,Position,Color Attri.,Overall",
    5: "Global,Entity,Attribute,Relation,Other,Overall",
    6: "Extract,Adjust,Background,Add,Replace,Remove,Style,Compose,Action,Overall",
}


def test_the_papers_rows():
    tables = {table.number: table for table in paper_tables()}
    assert set(tables) == set(ROWS)
    for number, table in tables.items():
        assert " ".join(f"{score.paper:.{table.places}f}" for score in table.scores) == ROWS[number]
        assert ",".join(score.title for score in table.scores) == HEADS[number]
        assert all(score.least <= score.paper <= score.most for score in table.scores)
    assert {table.name for table in tables.values()} - {"understanding"} <= set(BENCHMARKS)


def test_the_understanding_page_says_the_same():
    page = (Path(__file__).parents[2] / "docs" / "evaluation-understanding.md").read_text(encoding="utf-8")
    cells = [line.split("|")[-2].strip() for line in page.splitlines() if "`--tasks" in line and line.startswith("|")]
    assert [float(cell) for cell in cells] == [score.paper for score in paper_tables()[0].scores]


def test_scores_by_name_and_from_files(tmp_path):
    (tmp_path / "nested.json").write_text(json.dumps({"geneval": {"overall": 0.74, "colors": 1}}))
    (tmp_path / "flat.json").write_text(json.dumps({"understanding/pope": 86.0}))
    given = ["dpg/overall=79", str(tmp_path / "nested.json"), str(tmp_path / "flat.json")]
    assert read_scores(given) == {
        "dpg/overall": 79.0,
        "geneval/overall": 0.74,
        "geneval/colors": 1.0,
        "understanding/pope": 86.0,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["geneval/total=0.7"], "has 'geneval/total'. There are: understanding/pope, "),
        (["geneval/overall=74"], "a number from 0 to 1: the paper's is 0.75. Is it a percentage, or a share?"),
        (["geneval/overall=nan"], "'nan' for 'geneval/overall'"),
        (["geneval/overall=high"], "'high' for 'geneval/overall'"),
        (["dpg/overall=1", "dpg/overall=2"], "has 'dpg/overall' twice"),
        (["nowhere.json"], "'nowhere.json' has no '=' and is no file"),
    ],
)
def test_wrong_scores_are_refused(given, message):
    with pytest.raises(ValueError) as error:
        read_scores(given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is no JSON"), ("[1]", "holds none"), ('{"dpg/overall": true}', "True")]
)
def test_wrong_files_are_refused(tmp_path, text, message):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores([str(tmp_path / "scores.json")])


def test_the_file_comes_with_the_package():
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    packaged = project["tool"]["setuptools"]["package-data"]["transformers_wallaroo"]
    assert {"evaluation/*.yaml", "evaluation/*.jinja"} <= set(packaged)
