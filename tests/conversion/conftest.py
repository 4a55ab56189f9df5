"""What the conversion tests share: the released files in a folder that a test may spoil, and a look at results."""

import json
import shutil
import weakref
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from transformers_wallaroo import WallarooConfig, WallarooForConditionalGeneration
from transformers_wallaroo.conversion import qwen, writing

import convert_checkpoint
from reference import REFERENCE

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

VQ = "model.vq_model."
# Beginnings of released names and of ours, written apart from the tables that are tested.
NAMES = (
    ("wallaroo.visual.", "model.visual."),
    ("wallaroo.model.", "model.language_model."),
    ("wallaroo.lm_head.", "lm_head."),
    ("gen_input_adpater.0.", "model.generation_adapter.fc1."),
    ("gen_input_adpater.2.", "model.generation_adapter.fc2."),
    ("edit_input_adpater.0.", "model.editing_adapter.fc1."),
    ("edit_input_adpater.2.", "model.editing_adapter.fc2."),
    ("pixel_adapter.0.", "model.source_adapter.fc1."),
    ("pixel_adapter.2.", "model.source_adapter.fc2."),
    ("gen_image_head.0.", "generation_head.fc1."),
    ("gen_image_head.2.", "generation_head.fc2."),
    ("edit_image_head.0.", "editing_head.fc1."),
    ("edit_image_head.2.", "editing_head.fc2."),
)
# Within the names of the VQ tokenizer, LlamaGen's and ours.
VQ_NAMES = (
    ("encoder.conv_blocks.", "encoder.down."),
    ("decoder.conv_blocks.", "decoder.up."),
    (".res.", ".block."),
    (".mid.0.", ".mid.block_1."),
    (".mid.1.", ".mid.attn_1."),
    (".mid.2.", ".mid.block_2."),
)


@lru_cache(maxsize=4)
def load(path: Path, _changed: int) -> dict[str, Any]:
    """A torch file, read once for many tests."""
    return torch.load(path, weights_only=True)


class Released:
    """The released files of the fixtures below a folder of the test's own.

    Attributes:
        base, checkpoint, vq: what the commands read; a test may change the folder `base` and replace the files.
        output: where the commands write.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.base = Path(shutil.copytree(REFERENCE / "base", folder / "base"))
        self.checkpoint, self.vq = REFERENCE / "wallaroo.ckpt", REFERENCE / "vq_ds16_t2i.pt"
        self.output = folder / "results" / "out"

    # ------------------------------------------------------------------ input

    def state(self) -> dict[str, torch.Tensor]:
        return dict(load(self.checkpoint, self.checkpoint.stat().st_mtime_ns)["state_dict"])

    def vq_state(self) -> dict[str, torch.Tensor]:
        return dict(load(self.vq, self.vq.stat().st_mtime_ns)["model"])

    def save(self, state: Any, **more: Any) -> None:
        """Makes `state` the checkpoint, wrapped as released."""
        self.checkpoint = self.folder / "changed.ckpt"
        torch.save({"epoch": 3, "global_step": 7, "state_dict": state}, self.checkpoint, **more)

    def save_vq(self, state: Any) -> None:
        self.vq = self.folder / "changed_vq.pt"
        torch.save({"model": state}, self.vq)

    def change_json(self, name: str, **values: Any) -> None:
        """Sets fields of a JSON file of the base folder; `None` takes one out."""
        path = self.base / name
        content = {**json.loads(path.read_text(encoding="utf-8")), **values}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    def save_qwen(self, max_shard_size: str = "5GB") -> Qwen2_5_VLForConditionalGeneration:
        """Puts a stock Qwen2.5-VL with random weights, biases and norms included, into the base folder."""
        model = seeded(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig.from_pretrained(self.base))
        model.generation_config = GenerationConfig.from_pretrained(self.base)
        model.generation_config.do_sample = True  # else its temperature is refused
        model.save_pretrained(self.base, max_shard_size=max_shard_size)
        return model

    def save_random(self, folder: Path, **changes: Any) -> WallarooForConditionalGeneration:
        """Makes the released files those of a random Wallaroo: the config in `folder`, with `changes`."""
        config = WallarooConfig.from_dict({**AutoConfig.from_pretrained(folder).to_dict(), **changes})
        model = seeded(WallarooForConditionalGeneration, config)
        state = model.state_dict()
        self.save({self.theirs(key): value for key, value in state.items() if not key.startswith(VQ)})
        self.save_vq({self.theirs(key): value for key, value in state.items() if key.startswith(VQ)})
        return model

    # ------------------------------------------------------------------ running

    def arguments(self, *more: str) -> list[str]:
        """Command line of convert_checkpoint."""
        names = {"--base": self.base, "--checkpoint": self.checkpoint, "--vq-checkpoint": self.vq}
        given = [text for name, path in names.items() for text in (name, str(path))]
        return [*given, "--output", str(self.output), *more]

    def convert(self, **more: Any) -> list[str]:
        return convert_checkpoint.convert(
            self.base, self.checkpoint, self.vq, self.output, **{"dtype": torch.float32, **more}
        )

    # ------------------------------------------------------------------ results

    @staticmethod
    def ours(key: str) -> str:
        """Our name of a released one."""
        for theirs, ours in NAMES:
            if key.startswith(theirs):
                return ours + key.removeprefix(theirs)
        for theirs, ours in VQ_NAMES:
            key = key.replace(theirs, ours)
        return VQ + key

    @staticmethod
    def theirs(key: str) -> str:
        """The released name of one of ours."""
        for theirs, ours in NAMES:
            if key.startswith(ours):
                return theirs + key.removeprefix(ours)
        for theirs, ours in VQ_NAMES:
            key = key.replace(ours, theirs)
        return key.removeprefix(VQ)

    @staticmethod
    def weights(folder: Path) -> dict[str, torch.Tensor]:
        """All tensors of a folder's safetensors files, each in one file only."""
        found: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            shard = load_file(file)
            assert not found.keys() & shard.keys(), f"{file} repeats tensors of another shard"
            found.update(shard)
        return found

    @staticmethod
    def content(folder: Path) -> dict[str, bytes]:
        """Every file below a folder, hidden ones too."""
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    @staticmethod
    def same(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
        """Same names, dtypes and bits."""
        assert sorted(actual) == sorted(expected)
        assert {key: value.dtype for key, value in actual.items()} == {k: v.dtype for k, v in expected.items()}
        assert [key for key in expected if not torch.equal(actual[key], expected[key])] == []


def seeded(model_class: type[ModelT], config: PreTrainedConfig) -> ModelT:
    """A model of random weights, the same every time: no bias is zero and no norm one."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        model = model_class(config).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture
def released(tmp_path) -> Released:
    return Released(tmp_path)


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Runs a command that must fail: exit status 1, one error on stderr, nothing on stdout, no output."""

    def run(main: Callable[[list[str]], int], arguments: list[str]) -> str:
        output = Path(arguments[arguments.index("--output") + 1])
        capsys.readouterr()
        assert main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert "Traceback" not in err
        assert not output.exists()
        assert not output.parent.exists() or list(output.parent.iterdir()) == []
        return err.removeprefix("error: ").strip()

    return run


@pytest.fixture
def question(processor, picture) -> dict[str, torch.Tensor]:
    """A question about a picture, as a stock Qwen2.5-VL takes it too."""
    inputs = dict(processor(text="What is this?", images=picture, task="understand", return_tensors="pt"))
    del inputs["task_ids"]
    return inputs


class ShardMemory:
    """Watches what the writing of shards keeps in memory.

    Attributes:
        bytes_written: bytes of the tensors of each shard.
        bytes_left: the most bytes, at any moment, of tensors of earlier shards, or read and no longer needed.
    """

    def __init__(self) -> None:
        self.bytes_written: list[int] = []
        self.bytes_left = 0
        self._written: list[weakref.ref[torch.Tensor]] = []
        self._read: list[weakref.ref[torch.Tensor]] = []

    def _note(self, references: list["weakref.ref[torch.Tensor]"], but: Collection[int] = ()) -> None:
        alive = [tensor for reference in references if (tensor := reference()) is not None]
        self.bytes_left = max(self.bytes_left, sum(tensor.nbytes for tensor in alive if id(tensor) not in but))

    def read(self, load: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Calls a loader, which must find no earlier shard in memory."""
        self._note(self._written)
        tensor = load()
        if load() is not tensor:  # else it is the input itself, which may stay
            self._read.append(weakref.ref(tensor))
        return tensor

    def write(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """A shard is written: of what was read, nothing but its own tensors may be in memory."""
        self._note(self._read, [id(tensor) for tensor in tensors.values()])
        self.bytes_written.append(sum(tensor.nbytes for tensor in tensors.values()))
        self._written += [weakref.ref(tensor) for tensor in tensors.values()]


@pytest.fixture
def shard_memory(monkeypatch) -> ShardMemory:
    memory = ShardMemory()
    save_file, write_shards = writing.save_file, writing.write_shards

    def noted_save(tensors, *args, **kwargs):
        memory.write(tensors)
        save_file(tensors, *args, **kwargs)

    def noted_write(folder, entries, *args):
        noted = {key: (partial(memory.read, load), shape) for key, (load, shape) in entries.items()}
        write_shards(folder, noted, *args)

    monkeypatch.setattr(writing, "save_file", noted_save)
    monkeypatch.setattr(writing, "write_shards", noted_write)
    monkeypatch.setattr(qwen, "write_shards", noted_write)
    return memory
