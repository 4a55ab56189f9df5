"""Questions about the shapes world, and tasks of lmms-eval with them."""

import json
from pathlib import Path

from transformers_wallaroo.evaluation.answering import Question, TextSettings
from transformers_wallaroo.shapes import make_sample

SEED = 77
SHORT = TextSettings(max_new_tokens=32)


def question_of(sample, name, settings=SHORT):
    """The question of a sample about a picture."""
    text = sample["messages"][0]["content"]
    parts = [{"type": "image", "url": picture} for picture in sample["images"]]
    return Question(name, [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}], settings)


def shapes_questions(count, settings=SHORT):
    """Questions, with the answers that are expected."""
    samples = [make_sample("understand", index, SEED, language="en") for index in range(count)]
    questions = [question_of(sample, f"shapes/{index}", settings) for index, sample in enumerate(samples)]
    return questions, [sample["messages"][1]["content"] for sample in samples]


def edit_request(index, name):
    """A request for an edit, and its sample."""
    sample = make_sample("edit", index, SEED, language="en", bucket=(64, 64))
    parts = [{"type": "image", "url": sample["source_image"]}, {"type": "text", "text": sample["prompt"]}]
    return Question(name, [{"role": "user", "content": parts}]), sample


# ---------------------------------------------------------------- tasks of lmms-eval over local files

UTILS = '''
import json

from PIL import Image

from transformers_wallaroo.shapes import make_sample, score

def doc_to_visual(doc):
    return [doc["image"].convert("RGB")] if doc.get("image") is not None else []

def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def two_pictures(doc, lmms_eval_specific_kwargs=None):
    picture = doc["image"].convert("RGB")
    parts = [
        {"type": "image", "url": picture},
        {"type": "text", "text": "Here is one. And another: "},
        {"type": "image", "url": picture},
        {"type": "text", "text": doc["question"]},
    ]
    return [{"role": "user", "content": parts}]

def score_picture(doc, results):
    """Exactly whether the picture is the one that was asked for."""
    given = json.loads(results[0])
    sample = make_sample(doc["task"], doc["index"], doc["seed"], language="en", bucket=(64, 64))
    return {"shapes_score": float(score(Image.open(given["images"][0]), sample)["correct"])}
'''
TASK = """
task: {task}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {output_type}
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
{more}
"""
ANSWERS = """
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 32
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
PICTURES = """
doc_to_target: question
generation_kwargs:
  max_new_tokens: 512
  temperature: 0
  do_sample: false
process_results: !function utils.score_picture
metric_list:
  - metric: shapes_score
    aggregation: mean
    higher_is_better: true
"""
CHOICES = """
doc_to_choice: ["yes", "no"]
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def write_parquet(path: Path, rows) -> Path:
    from datasets import Dataset, Features, Image, Value

    kinds = {str: Value("string"), int: Value("int64"), bool: Value("bool")}
    pictures = ("image", "input_image")
    features = {name: Image() if name in pictures else kinds[type(value)] for name, value in rows[0].items()}
    Dataset.from_list(rows, features=Features(features)).to_parquet(path)
    return path


def write_tasks(folder: Path, *, answers: int, pictures: int) -> Path:
    """Writes the tasks `shapes_answers`, `shapes_two`, `shapes_choices`, `shapes_edit` and `shapes_draw`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "utils.py").write_text(UTILS)

    def write(task, rows, output_type, more):
        data = write_parquet(folder / f"{task}.parquet", rows)
        text = TASK.format(task=task, data=json.dumps(str(data)), output_type=output_type, more=more)
        (folder / f"{task}.yaml").write_text(text)

    questions, expected = shapes_questions(answers)
    rows = [
        {"image": question.media("image")[0], "question": question.text(), "answer": answer}
        for question, answer in zip(questions, expected, strict=True)
    ]
    write("shapes_answers", rows, "generate_until", ANSWERS)
    write("shapes_two", rows[:4], "generate_until", "doc_to_messages: !function utils.two_pictures" + ANSWERS)
    write("shapes_choices", [row for row in rows if row["answer"] in ("yes", "no")], "multiple_choice", CHOICES)
    made = {}
    for task in ("edit", "generate"):
        samples = [make_sample(task, index, SEED, language="en", bucket=(64, 64)) for index in range(pictures)]
        made[task] = [
            {"question": sample["prompt"], "task": task, "index": index, "seed": SEED}
            | ({"image": sample["source_image"]} if task == "edit" else {})
            for index, sample in enumerate(samples)
        ]
    write("shapes_edit", made["edit"], "generate_until", PICTURES)
    write("shapes_draw", made["generate"], "generate_until", PICTURES)
    return folder
