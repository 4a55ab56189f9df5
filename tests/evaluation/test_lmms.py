"""The plug-in within the real lmms-eval, on tasks of the shapes world; `make test-lmms` has the library."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("lmms_eval", reason="lmms-eval is heavy; `make test-lmms` installs it in a venv of its own")

from lmms_eval import evaluator
from lmms_eval.models import get_model, get_model_manifest
from lmms_eval.tasks import TaskManager

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.evaluation.answering import answer_all
from transformers_wallaroo.evaluation.lmms import WallarooChat, WallarooSimple

from questions import edit_request, shapes_questions, write_parquet, write_tasks

ANSWERS, PICTURES = 24, 4


@pytest.fixture(scope="module", autouse=True)
def no_shared_caches(tmp_path_factory):
    """Datasets' cache is keyed by paths, lmms-eval's by names."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("caches")
        patch.setenv("HF_HOME", str(folder / "hf"))
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"), answers=ANSWERS, pictures=PICTURES)


@pytest.fixture(scope="module")
def expected():
    """The model's answers, without lmms-eval."""
    questions, _ = shapes_questions(ANSWERS)
    return [answer.text for answer in answer_all(*load_checkpoint(device="cpu"), questions, batch_size=8)]


@pytest.fixture
def evaluate(tasks, tmp_path):
    """Runs tasks in this process, as the command does, but without reading its thousand tasks first."""

    def run(*names, include_path=tasks, force_simple=False, gen_kwargs=None, repeats=1, **model_args):
        settings = {"device": "cpu", "image_dir": str(tmp_path / "images"), **model_args}
        batch_size = settings.pop("batch_size", 8)
        return evaluator.simple_evaluate(
            "wallaroo",
            ",".join(f"{name}={value}" for name, value in settings.items()),
            tasks=list(names),
            task_manager=TaskManager(include_path=str(include_path), include_defaults=False, model_name="wallaroo"),
            batch_size=batch_size,
            force_simple=force_simple,
            gen_kwargs=gen_kwargs,
            repeats=repeats,
            bootstrap_iters=0,
            cli_args=None,
            log_samples=True,
        )

    return run


def responses(results, task):
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]


def test_lmms_eval_finds_the_model():
    assert get_model("wallaroo") is WallarooChat and get_model("wallaroo", force_simple=True) is WallarooSimple
    assert get_model_manifest("wallaroo").model_id == "wallaroo"


@pytest.mark.parametrize("force_simple", [False, True])
def test_answers_and_scores(evaluate, expected, force_simple):
    results = evaluate("shapes_answers", force_simple=force_simple)
    assert responses(results, "shapes_answers") == expected
    _, truth = shapes_questions(ANSWERS)
    right = sum(answer == true for answer, true in zip(expected, truth, strict=True)) / ANSWERS
    assert results["results"]["shapes_answers"]["exact_match,none"] == pytest.approx(right)
    assert right >= 0.8


def test_batch_size_does_not_matter(evaluate, expected):
    assert responses(evaluate("shapes_answers", batch_size=1), "shapes_answers") == expected


def test_several_pictures_stand_where_the_task_has_them(evaluate):
    results = evaluate("shapes_two")
    model, processor = load_checkpoint(device="cpu")
    questions, _ = shapes_questions(4)
    for question, said in zip(questions, responses(results, "shapes_two"), strict=True):
        picture = question.media("image")[0]
        mark = "<|vision_start|><|image_pad|><|vision_end|>"
        text = f"{mark}Here is one. And another: {mark}{question.text()}"
        inputs = processor(text=text, images=[picture, picture], task="understand", return_tensors="pt")
        ids = model.generate(**inputs, task="understand", max_new_tokens=32)[:, inputs["input_ids"].shape[1] :]
        assert said == processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


def test_generation_options(evaluate, expected):
    cut_short = responses(evaluate("shapes_answers", gen_kwargs="max_new_tokens=1"), "shapes_answers")
    assert all(
        len(said.split()) == 1 and whole.startswith(said) for said, whole in zip(cut_short, expected, strict=True)
    )
    stopped = responses(evaluate("shapes_answers", gen_kwargs="until=and"), "shapes_answers")
    assert stopped == [answer.split("and")[0] for answer in expected] != expected


def test_repetitions_are_drawn_anew_and_the_same_again(evaluate):
    hot = {"gen_kwargs": "do_sample=True,temperature=4,max_new_tokens=4", "repeats": 3}

    def drawn(**more):
        results = evaluate("shapes_answers", **hot, **more)
        return [sample["resps"] for sample in results["samples"]["shapes_answers"]]

    first = drawn()
    assert any(len(set(map(str, resps[0] if len(resps) == 1 else resps))) > 1 for resps in first)
    assert first == drawn(batch_size=3) != drawn(seed=1)


def test_answers_are_kept_for_their_dtype_alone(evaluate, tmp_path):
    short = {"gen_kwargs": "max_new_tokens=1", "answers_dir": tmp_path / "answers"}
    kept = []
    for dtype in ("float32", "float32", "bfloat16"):
        evaluate("shapes_answers", dtype=dtype, **short)
        kept.append(len((tmp_path / "answers" / "rank-0.jsonl").read_text().splitlines()))
    assert kept == [ANSWERS, ANSWERS, 2 * ANSWERS]


def test_choices_by_likelihood(evaluate):
    results = evaluate("shapes_choices", force_simple=True)
    samples = results["samples"]["shapes_choices"]
    assert len(samples) >= 4
    assert results["results"]["shapes_choices"]["acc,none"] >= 0.75  # of yes and no
    for sample in samples:
        assert all(resp[0][0] >= 0 for resp in sample["resps"])  # losses: lmms-eval takes the least
    with pytest.raises(AssertionError, match="messages is used for generation only"):
        evaluate("shapes_choices")


@pytest.mark.parametrize("task", ["shapes_edit", "shapes_draw"])
def test_pictures(evaluate, tmp_path, task):
    results = evaluate(task, image_tasks="shapes_edit+shapes_draw", seed=5)
    made = [json.loads(response) for response in responses(results, task)]
    assert [entry["images"] for entry in made] == [[str(tmp_path / f"images/{task}/{i}.png")] for i in range(PICTURES)]
    assert results["results"][task]["shapes_score,none"] >= 0.75  # the score of pictures on the disk
    drawn = [Image.open(entry["images"][0]).tobytes() for entry in made]
    evaluate(task, image_tasks="all", seed=5, batch_size=3, image_dir=tmp_path / "again")
    assert [Image.open(tmp_path / f"again/{task}/{i}.png").tobytes() for i in range(PICTURES)] == drawn


# ---------------------------------------------------------------- lmms-eval's own image tasks


class Judge(BaseHTTPRequestHandler):
    """In place of the judge on the network: keeps the pictures that lmms-eval sends, and gives marks."""

    pictures: list = []

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]
        sent = [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]
        self.pictures.append([Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in sent])
        marks = {"role": "assistant", "content": "Brief reasoning.\nCompliance: 5\nNaturalness: 4\nDetail: 3"}
        choice = {"index": 0, "finish_reason": "stop", "message": marks}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def judge(monkeypatch):
    """The pictures that a judge on this machine was sent; lmms-eval finds it by its environment variables."""
    Judge.pictures = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("IMGEDIT_API_KEY", "none")
    monkeypatch.setenv("IMGEDIT_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield Judge.pictures
    server.shutdown()
    server.server_close()


@pytest.fixture
def judged_tasks(tmp_path):
    """lmms-eval's `imgedit` and `gedit_bench` over local documents."""
    import lmms_eval.tasks

    [folder] = lmms_eval.tasks.__path__
    sources = [edit_request(index, "")[1] for index in range(2)]
    rows = {
        "imgedit": [
            {"image": sample["source_image"], "prompt": sample["prompt"], "key": f"{i}", "edit_type": "adjust"}
            for i, sample in enumerate(sources)
        ],
        "gedit_bench": [
            {
                "input_image": sample["source_image"],
                "instruction": sample["prompt"],
                "key": f"{i}",
                "task_type": "color_alter",
                "instruction_language": "en",
                "Intersection_exist": True,
            }
            for i, sample in enumerate(sources)
        ],
    }
    (tmp_path / "judged").mkdir()
    for task, split in (("imgedit", "test"), ("gedit_bench", "train")):
        data = write_parquet(tmp_path / "judged" / f"{task}.parquet", rows[task])
        local = f"dataset_path: parquet\ndataset_kwargs:\n  data_files:\n    {split}: {data}\n"
        # Keys before `include` stand above what is included.
        (tmp_path / "judged" / f"{task}.yaml").write_text(
            f"include: {folder}/{task}/{task}.yaml\ntask: {task}\n{local}"
        )
    return tmp_path / "judged", sources


def test_imgedit_gets_its_pictures(evaluate, judged_tasks, judge, tmp_path):
    folder, sources = judged_tasks
    results = evaluate("imgedit", include_path=folder)
    made = [Image.open(tmp_path / f"images/imgedit/{index}.png") for index in range(2)]
    seen = {(source.tobytes(), edited.tobytes()) for source, edited in judge}
    assert seen == {(s["source_image"].tobytes(), m.tobytes()) for s, m in zip(sources, made, strict=True)}
    assert results["results"]["imgedit"]["imgedit_avg_score,none"] == pytest.approx(4.0)


def test_gedit_bench_gets_its_pictures(evaluate, judged_tasks, monkeypatch):
    from lmms_eval.tasks.gedit_bench import viescore

    folder, sources = judged_tasks
    seen = []

    class Score:
        def __init__(self, task):
            assert task == "tie"

        def evaluate(self, pictures, instruction):
            seen.append((instruction, pictures[1].size))
            return [8.0, 6.0, 7.0]

    monkeypatch.setattr(viescore, "VIEScore", Score)
    results = evaluate("gedit_bench", include_path=folder)
    assert sorted(seen) == sorted((sample["prompt"], (512, 512)) for sample in sources)
    assert results["results"]["gedit_bench"]["gedit_bench_en_fullset_overall,none"] == pytest.approx(7.0)


# ---------------------------------------------------------------- the command


def command(*options, launch=(), tasks):
    """`python -m lmms_eval --model wallaroo ...`, offline."""
    return [
        sys.executable,
        *launch,
        "-m",
        "lmms_eval",
        "--model",
        "wallaroo",
        "--include_path",
        str(tasks),
        "--verbosity",
        "DEBUG",
        *options,
    ]


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


def run_command(*options, launch=(), tasks, **environment):
    result = subprocess.run(
        command(*options, launch=launch, tasks=tasks),
        env={**os.environ, **ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result


def scores(output):
    [path] = output.glob("**/*_results.json")
    return json.loads(path.read_text())["results"]


def logged(output, task):
    [path] = output.glob(f"**/*_samples_{task}.jsonl")
    samples = sorted(map(json.loads, path.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"] for sample in samples]


CONFIG = Path(__file__).parents[2] / "examples" / "accelerate" / "ddp_cpu.yaml"
LAUNCH = ("-m", "accelerate.commands.launch", "--config_file", str(CONFIG), "--num_processes", "2")
LAUNCH += ("--main_process_port", "0")


def test_the_command_with_one_process_and_with_two(tasks, tmp_path, expected):
    """End to end: questions and edits in one run, scores read from its file; two processes give the same."""
    made = {}
    for name, launch in (("one", ()), ("two", LAUNCH)):
        output, images = tmp_path / name, tmp_path / f"{name}-images"
        run_command(
            "--tasks",
            "shapes_answers,shapes_edit",
            "--batch_size",
            "4",
            "--model_args",
            f"image_tasks=shapes_edit,image_dir={images},answers_dir={output / 'answers'}",
            "--output_path",
            str(output),
            "--log_samples",
            launch=launch,
            tasks=tasks,
            ACCELERATE_USE_CPU="true",
        )
        found = scores(output)
        made[name] = (
            found["shapes_answers"]["exact_match,none"],
            found["shapes_edit"]["shapes_score,none"],
            logged(output, "shapes_answers"),
            [(images / f"shapes_edit/{index}.png").read_bytes() for index in range(PICTURES)],
        )
    assert made["one"] == made["two"]
    assert made["one"][0] >= 0.8 and made["one"][1] >= 0.75
    assert [resp[0] if isinstance(resp, list) else resp for resp in made["one"][2]] == expected
    assert len(list((tmp_path / "two" / "answers").iterdir())) == 2  # so there were two processes


def test_a_run_that_is_killed_goes_on(tasks, tmp_path):
    """`kill -9` after the first answers: the next run makes the rest alone."""
    answers = tmp_path / "answers"
    options = ("--tasks", "shapes_answers", "--output_path", str(tmp_path / "out"), "--log_samples")
    options += ("--model_args", f"answers_dir={answers}")
    process = subprocess.Popen(
        command(*options, tasks=tasks),
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    path = answers / "rank-0.jsonl"
    deadline = time.monotonic() + 600
    while not (path.is_file() and path.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = path.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    assert 3 <= kept.count(b"\n") < ANSWERS
    run_command(*options, tasks=tasks)
    whole = path.read_bytes()
    assert whole.startswith(kept)
    keys = [json.loads(line)[0] for line in whole.splitlines() if line.strip().endswith(b"]")]
    assert len(keys) == len(set(keys)) == ANSWERS
    assert scores(tmp_path / "out")["shapes_answers"]["exact_match,none"] >= 0.8


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"batch_size": "auto"}, "`batch_size` must be a positive int, such as 8, but got 'auto'"),
        ({"dtype": "int3"}, "`dtype` must be one of 'auto', 'float32'"),
        ({"pretrained": "/nowhere/wallaroo"}, "there is no folder /nowhere/wallaroo"),
        ({"guidance": 3}, "`model_args` has 'guidance', which Wallaroo does not know.*guidance_scale"),
    ],
)
def test_wrong_arguments(wrong, said):
    with pytest.raises(ValueError, match=said):
        WallarooChat(**wrong)


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were started, but accelerate sees 1.*ACCELERATE_USE_CPU=true"):
        WallarooChat(device="cpu")


def test_arguments_reach_the_checkpoint():
    model = WallarooChat(device="cpu", dtype="bfloat16", max_pixels=2048, batch_size="3", paper=True, top_k=7)
    assert model.model.dtype == torch.bfloat16 and model.batch_size == 3
    assert dict(model.processor.image_processor.size)["longest_edge"] == 2048
    assert (model.picture_options.layout, model.picture_options.top_k) == ("evaluation", 7)
    assert model.device == torch.device("cpu") and (model.rank, model.world_size) == (0, 1)
    assert model.tokenizer is model.processor.tokenizer and model.config is model.model.config


def test_a_system_prompt_changes_the_conversation(tmp_path):
    (tmp_path / "system.txt").write_text("three green circles")
    told = WallarooChat(device="cpu", system_prompt=str(tmp_path / "system.txt"))
    assert told.system_prompt == "three green circles"
    turn = [{"role": "user", "content": "hi"}]
    assert told._with_system_prompt(turn) == [{"role": "system", "content": "three green circles"}, *turn]


def test_rounds_are_refused():
    model = WallarooChat(device="cpu")
    request = type("Request", (), {"task_name": "mmmu_rounds"})
    with pytest.raises(NotImplementedError, match="The task 'mmmu_rounds' asks in several rounds"):
        model.generate_until_multi_round([request])
    with pytest.raises(NotImplementedError, match="add --force_simple"):
        model.loglikelihood([request])
