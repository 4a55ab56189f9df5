# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""From `make tiny` to the package: the stages in their order, and the checkpoint that ships."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel

from transformers_wallaroo import WallarooForConditionalGeneration, WallarooProcessor
from transformers_wallaroo.training.stages import StageConfig

import package_tiny
import train_tiny
from untrained import save_untrained

# ------------------------------------------------------------------ the package


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    return save_untrained(tmp_path_factory.mktemp("untrained") / "wallaroo")


@pytest.fixture(scope="module")
def packaged(untrained, tmp_path_factory) -> Path:
    """By the command, with a card."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "card.md").write_text("# wallaroo-tiny")
    with pytest.MonkeyPatch.context() as patch:
        arguments = [str(untrained), "--target", str(folder / "tiny"), "--card", str(folder / "card.md")]
        patch.setattr("sys.argv", ["package_tiny.py", *arguments])
        package_tiny.main()
    assert {path.name for path in folder.iterdir()} == {"card.md", "tiny"}, "nothing temporary is left"
    return folder / "tiny"


def test_what_is_packaged_loads_and_says_the_same(untrained, packaged):
    before = WallarooForConditionalGeneration.from_pretrained(untrained)
    after = WallarooForConditionalGeneration.from_pretrained(packaged, dtype=torch.float32)
    for (name, weight), other in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        assert torch.allclose(weight, other, rtol=2**-8, atol=1e-6), name
    auto = AutoModel.from_pretrained(packaged, trust_remote_code=True)
    assert isinstance(auto, WallarooForConditionalGeneration) and auto.dtype == torch.bfloat16
    text = "Draw a red star."
    ids = [WallarooProcessor.from_pretrained(path).tokenizer(text).input_ids for path in (untrained, packaged)]
    assert ids[0] == ids[1]
    assert (packaged / "README.md").read_text() == "# wallaroo-tiny"


def test_what_is_packaged_is_half_and_has_no_code(untrained, packaged):
    assert list(untrained.glob("*.py")) and not list(packaged.rglob("*.py"))
    for path in packaged.glob("*.json"):
        assert not set(package_tiny.REMOTE_CODE) & set(json.loads(path.read_text(encoding="utf-8"))), path.name
    with safe_open(packaged / "model.safetensors", "pt") as weights:
        types = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert types == {"BF16", "F16"}, "the model's own, and that of the VQ tokenizer"


def test_what_is_too_large_is_refused_and_the_old_one_stays(untrained, tmp_path, monkeypatch):
    target = tmp_path / "tiny"
    target.mkdir()
    (target / "old").write_text("old")
    monkeypatch.setattr(package_tiny, "LIMIT", 2**20)
    with pytest.raises(ValueError, match=r"The checkpoint would have \d+\.\d MB, but the limit is 1 MB"):
        package_tiny.package(untrained, target)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"] and (target / "old").read_text() == "old"


def test_a_folder_is_replaced_or_stays(tmp_path, monkeypatch):
    folder, target = tmp_path / "new" / "tiny", tmp_path / "tiny"
    for path in (folder, target):
        path.mkdir(parents=True)
        (path / "name").write_text(path.parent.name)
    rename = Path.rename

    def fail(self, other):
        if self == folder:
            raise OSError("no space left")
        return rename(self, other)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match="no space left"):
            package_tiny.put_in_place(folder, target)
    assert (target / "name").read_text() == tmp_path.name and folder.is_dir()
    package_tiny.put_in_place(folder, target)
    assert (target / "name").read_text() == "new"


# ------------------------------------------------------------------ `make tiny`


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture
def trained(monkeypatch):
    """Stands in for the trainings; the list has the recipe's stage and its folders, or "vq"."""
    done = []

    def train_vq(config, *, output_dir):  # noqa: ARG001
        done.append("vq")
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (Path(output_dir) / name).write_text("{}")

    def run_stage(config):
        assert isinstance(config, StageConfig)
        assert Path(config.init).is_dir(), config.init
        final = Path(config.output) / "final"
        # As the real one: what is there already is not done again.
        if not final.is_dir():
            done.append((Path(config.init), Path(config.output), config.vq_model))
            final.mkdir(parents=True)
        return final

    class Saved:
        def save_pretrained(self, folder):
            Path(folder).mkdir(parents=True, exist_ok=True)

    class VQ:
        config = "the config of the tokenizer"

        @classmethod
        def from_pretrained(cls, folder):
            assert (folder / "model.safetensors").is_file()
            return cls

    def build_tiny(config, *, seed):
        assert (config, seed) == (VQ.config, 5)
        return Saved(), Saved()

    for name, value in {"train_vq": train_vq, "run_stage": run_stage, "build_tiny": build_tiny}.items():
        monkeypatch.setattr(train_tiny, name, value)
    monkeypatch.setattr(train_tiny, "WallarooVQModel", VQ)
    return done


def make_tiny(monkeypatch, output, *arguments) -> None:
    options = ["--output", str(output), "--seed", "5", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["train_tiny.py", *options, *arguments])
    train_tiny.main()


def test_stages_run_in_order_from_each_other_and_once(trained, tmp_path, monkeypatch, caplog):
    make_tiny(monkeypatch, tmp_path, "--until", "base-1")
    assert trained[0] == "vq" and len(trained) == 2 and "package_tiny" not in caplog.text
    make_tiny(monkeypatch, tmp_path)
    assert trained.count("vq") == 1
    stages = trained[1:]
    assert [output.relative_to(tmp_path).as_posix() for _, output, _ in stages] == list(train_tiny.STAGES)
    befores = [tmp_path / "init", *(output / "final" for _, output, _ in stages)]
    assert [init for init, _, _ in stages] == befores[:-1]
    assert {vq for *_, vq in stages if vq is not None} == {str(tmp_path / "vq")}
    command = f"python examples/package_tiny.py {tmp_path / 'stage-4-auto' / 'final'}"
    assert caplog.text.count(command) == 1
    make_tiny(monkeypatch, tmp_path)
    assert len(trained) == 1 + len(train_tiny.STAGES), "nothing is done again"


def test_what_a_kill_left_is_not_taken_for_done(trained, tmp_path, monkeypatch):
    # The tokenizer's weights are written after its config.
    (tmp_path / "vq").mkdir()
    (tmp_path / "vq" / "config.json").write_text("{}")

    class Half:
        def save_pretrained(self, folder):
            Path(folder).mkdir()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_tiny, "build_tiny", lambda config, seed: (Half(), Half()))  # noqa: ARG005
        with pytest.raises(Killed):
            make_tiny(monkeypatch, tmp_path)
    assert trained == ["vq"] and not (tmp_path / "init").exists()
    make_tiny(monkeypatch, tmp_path, "--until", "base-1")
    assert trained[1][0] == tmp_path / "init" and trained.count("vq") == 1
    assert not (tmp_path / "init.partial").exists()
