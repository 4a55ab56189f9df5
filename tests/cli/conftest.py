"""The embedded checkpoint, loaded once, behind commands that run in the process of the test."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from transformers_wallaroo import cli
from transformers_wallaroo.apps import Engine


@pytest.fixture(scope="session")
def engine():
    return Engine.load()


@pytest.fixture
def wallaroo(engine, monkeypatch, tmp_path):
    """Runs a command in an empty folder; `loaded` has the arguments of each time that a checkpoint was loaded."""
    loaded = []

    def load(checkpoint=None, **options):
        loaded.append((checkpoint, options))
        return engine

    monkeypatch.setattr(Engine, "load", load)
    monkeypatch.delenv("WALLAROO_CHECKPOINT", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0, **options):
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.stderr
        return result

    def refused(*arguments, **options):
        """The sentence that a command ends in."""
        result = run(*arguments, code=2, **options)
        assert result.stdout == ""
        line = result.stderr.strip().splitlines()[-1]
        assert line.startswith("wallaroo: ")
        return line

    return SimpleNamespace(run=run, refused=refused, loaded=loaded, folder=tmp_path)
