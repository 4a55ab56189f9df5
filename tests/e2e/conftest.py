# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The page, served by this process, and a browser at it.

`pytest tests/e2e --screenshots docs/images` takes the pictures of docs/page.md as well.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from pathlib import Path

import pytest

from transformers_wallaroo.apps import Engine

from browser import Visitor, find_program, start_chromium


def pytest_addoption(parser):
    parser.addoption("--screenshots", type=Path, help="folder for the screenshots of the documentation")


@pytest.fixture(scope="session")
def engine():
    return Engine.load()


@pytest.fixture(scope="session")
def address(engine):
    from transformers_wallaroo.apps.web import Page

    page = Page(engine)
    yield page.launch()
    page.blocks.close(verbose=False)


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def driver(tmp_path_factory, downloads):
    if not find_program("chromium", "chromium-browser", "google-chrome") or not find_program("chromedriver"):
        pytest.fail("These tests need Chromium and its driver: apt-get install chromium chromium-driver.")
    driver = start_chromium(tmp_path_factory.mktemp("profile"), downloads)
    yield driver
    driver.quit()


@pytest.fixture
def visitor(driver, address):
    """Someone who has just come: nothing is remembered of the tests before."""
    visitor = Visitor(driver, address)
    visitor.visit()
    yield visitor
    # gradio's own scripts note requests that they take back; what could not be loaded is ours.
    logged = [entry for entry in driver.get_log("browser") if entry["source"] == "network"]
    assert [entry["message"] for entry in logged if entry["level"] == "SEVERE"] == []
