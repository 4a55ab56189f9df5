"""What lmms-eval finds of this package, and what is said where lmms-eval is not there. None of it needs lmms-eval."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tomllib

from transformers_wallaroo.evaluation import lmms_plugin

GROUP = "lmms_eval.models"
# An `lmms_eval` that cannot be imported, whatever is installed.
WITHOUT = "import sys; sys.modules['lmms_eval'] = None\n"


def test_the_entry_point_is_declared():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"][GROUP]
    assert declared == {"wallaroo": f"{lmms_plugin.__name__}:manifest"}


def test_the_installed_entry_point_loads():
    found = [point for point in entry_points(group=GROUP) if point.name == "wallaroo"]
    if not found:
        pytest.skip("this package is not installed from this pyproject.toml; `make test` installs it")
    assert found[0].load() is lmms_plugin.manifest


@pytest.mark.parametrize(
    "program, said",
    [
        ("from transformers_wallaroo.evaluation.lmms_plugin import manifest; manifest()", "The model `wallaroo` of"),
        ("import transformers_wallaroo.evaluation.lmms", "Wallaroo's model for lmms-eval"),
    ],
)
def test_without_lmms_eval_the_error_says_what_to_install(program, said):
    result = subprocess.run([sys.executable, "-c", WITHOUT + program], capture_output=True, text=True, check=False)
    [line] = [line for line in result.stderr.splitlines() if line.startswith("ImportError")]
    assert said in line and "needs lmms-eval 0.7 or newer: `pip install 'lmms-eval>=0.7.3'`" in line
