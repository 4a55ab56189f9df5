"""The wrapper for VLMEvalKit. The kit is on no package index, so what it offers is stood in for: the base class with
`generate` and its checks, the table of models, and a `run.py` that takes a model from the table and asks it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from transformers_wallaroo.embedded import load_checkpoint
from transformers_wallaroo.shapes import make_sample

EXAMPLE = Path(__file__).parents[1] / "examples" / "vlmevalkit" / "wallaroo_vlm.py"
# What the kit's own `BaseModel` and `run.py` do with a model, as far as a model can tell.
KIT = {
    "vlmeval/__init__.py": "",
    "vlmeval/vlm/__init__.py": "",
    "vlmeval/config.py": "supported_VLM = {}\n",
    "vlmeval/vlm/base.py": """
class BaseModel:
    INTERLEAVE = False
    allowed_types = ["text", "image"]
    def use_custom_prompt(self, dataset):
        return False
    def set_dump_image(self, dump_image):
        self.dump_image_func = dump_image
    def generate(self, message, dataset=None):
        assert all(part["type"] in self.allowed_types for part in message)
        return self.generate_inner(message, dataset)
""",
    "run.py": """
import argparse, json
from vlmeval.config import supported_VLM
parser = argparse.ArgumentParser()
parser.add_argument("--model", nargs="+")
parser.add_argument("--data")
parser.add_argument("--out")
arguments = parser.parse_args()
[name] = arguments.model
model = supported_VLM[name]()
model.set_dump_image(None)
assert not model.use_custom_prompt("shapes") and model.INTERLEAVE
answers = [model.generate(message=message, dataset="shapes") for message in json.load(open(arguments.data))]
json.dump(answers, open(arguments.out, "w"))
""",
}


@pytest.fixture
def kit(tmp_path):
    for name, text in KIT.items():
        path = tmp_path / "kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "kit"


def messages_and_answers(folder, count=4):
    """Messages as the kit sends them, with files for pictures, and what the model says through the processor."""
    model, processor = load_checkpoint(device="cpu")
    messages, answers = [], []
    for index in range(count):
        sample = make_sample("understand", index, 77, language="en")
        path, text = folder / f"{index}.png", sample["messages"][0]["content"]
        sample["images"][0].save(path)
        messages.append([{"type": "image", "value": str(path)}, {"type": "text", "value": text}])
        inputs = processor(text=text, images=sample["images"][0], task="understand", return_tensors="pt")
        ids = model.generate(**inputs, task="understand", max_new_tokens=64)[:, inputs["input_ids"].shape[1] :]
        answers.append(processor.batch_decode(ids, skip_special_tokens=True)[0])
    return messages, answers


def test_the_kit_runs_it(kit, tmp_path):
    messages, answers = messages_and_answers(tmp_path)
    (tmp_path / "messages.json").write_text(json.dumps(messages))
    command = [sys.executable, str(EXAMPLE), str(kit / "run.py"), "--data", "messages.json", "--out", "answers.json"]
    path = f"{kit}:{':'.join(sys.path)}"
    result = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": path, "PATH": ""}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads((tmp_path / "answers.json").read_text()) == answers


@pytest.fixture
def wrapper(kit, monkeypatch):
    """The example as a module, with its kit."""
    monkeypatch.syspath_prepend(str(kit))
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    names = [name for name in sys.modules if name.split(".")[0] in ("vlmeval", "wallaroo_vlm")]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    yield importlib.import_module("wallaroo_vlm")
    for name in [name for name in sys.modules if name.split(".")[0] in ("vlmeval", "wallaroo_vlm")]:
        del sys.modules[name]


def test_options(wrapper, tmp_path):
    wrapper.register(name="coarse", device="cpu", max_pixels=3000)
    assert dict(wrapper.supported_VLM["coarse"]().processor.image_processor.size)["longest_edge"] == 3000
    wrapper.register(name="short", device="cpu", max_new_tokens=1)
    model = wrapper.supported_VLM["short"]()
    messages, answers = messages_and_answers(tmp_path, 2)
    assert [model.generate(message) for message in messages] == [answers[0], answers[1].split()[0]]
    assert model.generate([{"type": "text", "value": "hello"}], dataset="text") is not None


def test_a_wrong_path_is_told(wrapper, capsys):
    with pytest.raises(SystemExit):
        wrapper.main(["/nowhere/run.py", "--data", "POPE"])
    assert "there is no file /nowhere/run.py" in capsys.readouterr().err
