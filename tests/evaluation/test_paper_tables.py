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


# ------------------------------------------------------------------ what lmms-eval writes


def lmms_results(**changes):
    """As lmms-eval 0.7.3 writes `*_results.json`: a metric is followed by the name of its filter."""
    results = {
        "pope": {"alias": "pope", "pope_accuracy,none": 0.871, "pope_accuracy_stderr,none": "N/A"},
        "mme": {"alias": "mme", "mme_cognition_score,none": 300.0, "mme_perception_score,none": 1650.5},
        "mmbench_en_dev": {"alias": "mmbench_en_dev", "gpt_eval_score,none": 82.5, "submission,none": []},
        "seedbench": {"alias": "seedbench", "seed_all,none": 0.6, "seed_image,none": 0.75, "seed_video,none": 0.4},
        "gqa": {"alias": "gqa", "exact_match,none": 0.6, "exact_match_stderr,none": 0.004},
        "mmmu_val": {"alias": "mmmu_val", "mmmu_acc,none": 0.42},
        "mmvet": {"alias": "mmvet", "gpt_eval_score,none": 49.5},
        **changes,
    }
    return {
        "results": results,
        "group_subtasks": {task: [] for task in results},
        "configs": {task: {"task": task} for task in results},
        "versions": dict.fromkeys(results, "Yaml"),
        "n-samples": {task: {"original": 100, "effective": 100} for task in results},
        "config": {"model": "wallaroo"},
        "model_name": "wallaroo-7b",
    }


def write_lmms(tmp_path, content):
    path = tmp_path / "20261123_003144_results.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_what_lmms_eval_writes_goes_beside_table_3(tmp_path):
    assert read_scores([write_lmms(tmp_path, lmms_results())]) == pytest.approx(
        {
            "understanding/pope": 87.1,
            "understanding/mme_p": 1650.5,
            "understanding/mmb": 82.5,
            "understanding/seed": 75.0,
            "understanding/gqa": 60.0,
            "understanding/mmmu": 42.0,
            "understanding/mm_vet": 49.5,
        }
    )
    assert {task for score in paper_tables()[0].scores for task in score.lmms} > set(lmms_results()["results"])


def test_tasks_of_lmms_eval_that_are_in_no_table_are_told(tmp_path, caplog):
    content = lmms_results(shapes_vqa={"exact_match,none": 0.9})
    assert len(read_scores([write_lmms(tmp_path, content)])) == 7
    assert "shapes_vqa are in none of the paper's tables" in caplog.text
    content["results"] = {"shapes_vqa": {"exact_match,none": 0.9}}
    with pytest.raises(ValueError, match=r"must have tasks of the paper's table 3, but .* has 'shapes_vqa'\. There"):
        read_scores([write_lmms(tmp_path, content)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pope": {"pope_f1_score,none": 0.9}},
            "one 'pope_accuracy' of 'pope', but .* 0 among 'pope_f1_score,",
        ),
        ({"pope": []}, "must have one 'pope_accuracy' of 'pope', but .* has 0 among nothing"),
        (
            {"gqa": {"exact_match,none": 0.6, "exact_match,other": 0.5}},
            "one 'exact_match' of 'gqa', but .* 2 among",
        ),
        ({"mmvet": {"gpt_eval_score,none": []}}, r"has \[\] for 'understanding/mm_vet'"),
        ({"gqa": {"exact_match,none": 60.0}}, "has 6000.0 for 'understanding/gqa' .* from 0 to 100"),
        ({"mmbench_en_dev_static": {"gpt_eval_score,none": 80.0}}, "has 'understanding/mmb' twice"),
    ],
)
def test_results_of_lmms_eval_that_are_no_scores(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_scores([write_lmms(tmp_path, lmms_results(**changes))])


def test_a_part_of_a_benchmark_is_no_score_of_it(tmp_path):
    content = lmms_results()
    content["n-samples"]["pope"] = {"original": 9000, "effective": 8}
    with pytest.raises(ValueError, match=r"of 'pope' in .* are of 8 of its 9000 samples \(--limit\)"):
        read_scores([write_lmms(tmp_path, content)])
