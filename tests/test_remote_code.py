"""A saved checkpoint loads and works in a process that cannot import the package, also after saving it again."""

import filecmp
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel, AutoProcessor

import transformers_wallaroo

from reference import REFERENCE

SOURCE = Path(transformers_wallaroo.__file__).parent
REMOTE_FILES = sorted(SOURCE.glob("*_wallaroo*.py"))

# Runs in a process of its own: the three tasks by each Auto class, saving, and the three tasks again.
SCRIPT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers_wallaroo":
            raise ImportError("the package is not here")
sys.meta_path.insert(0, Blocked())
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor
from transformers.models.auto.image_processing_auto import AutoImageProcessor

source, target, picture = sys.argv[1:]
picture = Image.open(picture)

def three_tasks(model, processor):
    results = []
    for task, arguments in (
        ("understand", {"images": picture}),
        ("generate", {"height": 32, "width": 48}),
        ("edit", {"images": picture, "height": 32, "width": 48}),
    ):
        inputs = processor(text="a fox", task=task, return_tensors="pt", **arguments)
        options = {"max_new_tokens": 4} if task == "understand" else {}
        results.append(model.generate(**inputs, seed=3, **options))
    pixels = model.decode_image_tokens(results[-1])
    assert processor.post_process_multimodal_output(pixels, generation_mode="image")[0].size == (48, 32)
    return [ids.tolist() for ids in results]

load = dict(trust_remote_code=True)
classes = (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM)
models = [cls.from_pretrained(source, **load) for cls in classes]
assert {type(model).__name__ for model in models} == {"WallarooForConditionalGeneration"}
assert all(type(model).__module__.startswith("transformers_modules.") for model in models)
assert type(AutoConfig.from_pretrained(source, **load)).__name__ == "WallarooConfig"
assert type(AutoImageProcessor.from_pretrained(source, **load)).__name__ == "WallarooImageProcessor"
processor = AutoProcessor.from_pretrained(source, **load)
expected = three_tasks(models[0], processor)
assert expected == three_tasks(models[2], processor)
for step in ("once", "twice"):
    folder = f"{target}/{step}"
    models[0].save_pretrained(folder)
    processor.save_pretrained(folder)
    again = AutoModel.from_pretrained(folder, **load), AutoProcessor.from_pretrained(folder, **load)
    assert three_tasks(*again) == expected
    models[0], processor = again
print(expected)
"""


def run_without_the_package(tmp_path, *arguments):
    """Runs SCRIPT away from the repository, with a module cache of its own."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_three_tasks_without_the_package(converted, model, processor, tmp_path):
    """Load, use, save, load, use, save, load, use: the same results as with the package; the same bytes each time."""
    output = run_without_the_package(
        tmp_path, converted, tmp_path / "saved", REFERENCE / "cases" / "images" / "understand.png"
    )
    inputs = processor(text="a fox", task="generate", height=32, width=48, return_tensors="pt")
    assert str(model.generate(**inputs, seed=3).tolist()) in output
    names = sorted(path.name for path in (tmp_path / "saved" / "once").iterdir())
    assert {path.name for path in REMOTE_FILES} <= set(names)
    assert sorted(path.name for path in (tmp_path / "saved" / "twice").iterdir()) == names
    assert {path.name for path in converted.iterdir()} - set(names) == {"conversion.json"}
    for before in (converted, tmp_path / "saved" / "once"):
        _, differing, errors = filecmp.cmpfiles(before, tmp_path / "saved" / "twice", names, shallow=False)
        assert (differing, errors) == ([], [])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_save_load_save_gives_the_same_bytes(converted, tmp_path, dtype):
    """Also with the package's own classes, and in bf16 with the VQ tokenizer in fp32."""
    model, processor = AutoModel.from_pretrained(converted, dtype=dtype), AutoProcessor.from_pretrained(converted)
    for folder in ("first", "second"):
        model.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
        model, processor = (
            AutoModel.from_pretrained(tmp_path / folder),
            AutoProcessor.from_pretrained(tmp_path / folder),
        )
    assert str(model.dtype) == f"torch.{dtype}"
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    _, differing, errors = filecmp.cmpfiles(tmp_path / "first", tmp_path / "second", names, shallow=False)
    assert (differing, errors) == ([], [])
    assert {*names, "conversion.json"} == {path.name for path in converted.iterdir()}


def test_saving_writes_what_the_hub_needs(converted):
    names = {path.name for path in converted.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"} <= names
    assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".ckpt"))]


def test_the_package_is_preferred_to_remote_code(converted):
    assert type(AutoModel.from_pretrained(converted, trust_remote_code=True)).__module__.startswith(
        "transformers_wallaroo"
    )


@pytest.mark.parametrize("path", REMOTE_FILES, ids=lambda path: path.name)
def test_import_forms(path):
    """transformers copies a file with its checkpoint only where it sees `from .name import X` of a flat sibling."""
    text = path.read_text(encoding="utf-8")
    relative = re.findall(r"^\s*from\s+(\.\S*)\s+import\s", text, flags=re.MULTILINE)
    siblings = {f".{file.stem}" for file in REMOTE_FILES}
    assert set(relative) <= siblings
    assert not re.findall(r"^\s*(?:from|import)\s+transformers_wallaroo", text, flags=re.MULTILINE)


def test_imports_point_one_way():
    """docs/decisions.md: data and grids know nothing; processing never imports modeling; training is never imported."""
    imports = {
        path.stem: set(re.findall(r"^from \.(\w+) import", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
        for path in REMOTE_FILES
    }
    assert imports["image_grid_wallaroo"] == set()
    assert imports["prompts_wallaroo"] == {"image_grid_wallaroo"}
    assert imports["configuration_wallaroo"] == set()
    assert imports["modeling_wallaroo_vq"] == {"configuration_wallaroo"}
    assert imports["decode_step_wallaroo"] == imports["image_processing_wallaroo"] == {"image_grid_wallaroo"}
    assert imports["step_runners_wallaroo"] == {"decode_step_wallaroo"}
    assert imports["decoding_wallaroo"] == {"decode_step_wallaroo", "image_grid_wallaroo", "step_runners_wallaroo"}
    assert imports["speculative_wallaroo"] == {"decoding_wallaroo"}
    assert imports["generation_wallaroo"] == {
        "decode_step_wallaroo",
        "decoding_wallaroo",
        "image_grid_wallaroo",
        "speculative_wallaroo",
    }
    assert imports["pipeline_wallaroo"] == {"image_grid_wallaroo"}
    assert imports["auto_wallaroo"] == {"generation_wallaroo", "image_grid_wallaroo"}
    assert imports["conversations_wallaroo"] == {"image_grid_wallaroo", "prompts_wallaroo"}
    assert imports["auto_processing_wallaroo"] == {
        "conversations_wallaroo",
        "image_grid_wallaroo",
        "prompts_wallaroo",
    }
    of_prompts = {"conversations_wallaroo", "image_grid_wallaroo", "image_processing_wallaroo", "prompts_wallaroo"}
    assert imports["processing_wallaroo"] == {"auto_processing_wallaroo", *of_prompts}
    pure = [SOURCE / f"{name}_wallaroo.py" for name in ("image_grid", "prompts", "conversations")]
    for path in pure:
        assert not re.search(r"^(?:from|import) (?:torch|transformers|numpy)", path.read_text(), flags=re.MULTILINE)


def test_folders_keep_to_their_table():
    """CONTRIBUTING.md: the shapes world knows the marks of prompts alone, and no torch; training knows no evaluation;
    neither knows the commands."""

    def imported(folder: str) -> set[str]:
        texts = [path.read_text(encoding="utf-8") for path in (SOURCE / folder).rglob("*.py")]
        return {name for text in texts for name in re.findall(r"^\s*(?:from|import) ([\w.]+)", text, re.MULTILINE)}

    ours = {folder: {name for name in imported(folder) if name.startswith("..")} for folder in ("shapes", "evaluation")}
    assert ours["shapes"] == {"..prompts_wallaroo"}
    assert not {name for name in imported("shapes") if name.split(".")[0] in ("torch", "transformers")}
    known = {"embedded", "json_lines", "shapes", "training", *(path.stem for path in REMOTE_FILES)}
    assert {name.split(".")[2] for name in ours["evaluation"]} <= known
    assert not {name for name in imported("conversion") if name.startswith(("..apps", "..cli", "..training"))}
    assert not {name for name in imported("apps") if name.startswith(("..cli", "..training", "..evaluation"))}
    assert not {name for name in imported("training") if name.startswith(("..evaluation", "..cli", "..embedded"))}
