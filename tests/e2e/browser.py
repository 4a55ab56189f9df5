# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""A headless Chromium that a test drives, by what a person sees: tabs, labels, buttons."""

import json
import shutil
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

# Seconds that a thing on the page may take, on a machine that does other work.
PATIENCE = 120
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--lang=en",
)


def find_program(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


def start_chromium(profile: Path, downloads: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = find_program("chromium", "chromium-browser", "google-chrome")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(executable_path=find_program("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


class Visitor:
    """Someone at the page."""

    def __init__(self, driver: webdriver.Chrome, address: str):
        self.driver, self.address = driver, address

    def visit(self, width: int = 1280, height: int = 900, *, phone: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(self.address)
        self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, "button[role=tab]"))

    def wait(self, seen, patience: float = PATIENCE):
        """What `seen` gives once it gives something."""
        return WebDriverWait(self.driver, patience, poll_frequency=0.1, ignored_exceptions=(Exception,)).until(
            lambda _: seen()
        )

    def tab(self, name: str) -> None:
        self.press(self.wait(lambda: next(tab for tab in self.all("button[role=tab]") if tab.text.strip() == name)))
        self.wait(lambda: self.selected_tab() == name)

    def selected_tab(self) -> str:
        return self.find("button[role=tab][aria-selected=true]").text.strip()

    def find(self, selector: str):
        return self.wait(lambda: self.driver.find_element(By.CSS_SELECTOR, selector))

    def all(self, selector: str) -> list:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def press(self, target) -> None:
        element = self.find(target) if isinstance(target, str) else target
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'});", element)
        self.wait(lambda: element.is_displayed() and element.is_enabled())
        element.click()

    def write(self, selector: str, text: str) -> None:
        element = self.find(f"{selector} textarea, {selector} input:not([type=file])")
        element.send_keys(Keys.CONTROL, "a")
        element.send_keys(Keys.DELETE)
        element.send_keys(text)

    def upload(self, selector: str, path: Path) -> None:
        self.driver.find_element(By.CSS_SELECTOR, f"{selector} input[type=file]").send_keys(str(path))

    def labelled(self, within: str, label: str):
        """The field of a label."""
        script = """
            const inside = [...document.querySelectorAll(arguments[0] + ' label, ' + arguments[0] + ' .block')];
            const own = inside.filter(e => e.innerText.trim().startsWith(arguments[1]) && e.querySelector('input'));
            own.sort((a, b) => a.innerText.length - b.innerText.length);
            return own.length ? own[0].querySelector('input') : null;
        """
        return self.wait(lambda: self.driver.execute_script(script, within, label))

    def set_number(self, within: str, label: str, value: int) -> None:
        field = self.labelled(within, label)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(str(value), Keys.TAB)

    def text(self, selector: str) -> str:
        return self.find(selector).text.strip()

    def value(self, selector: str) -> str:
        return self.find(f"{selector} textarea, {selector} input:not([type=file])").get_attribute("value")

    def images(self, selector: str) -> list[str]:
        """Addresses of the pictures that are shown, once each is loaded."""
        return [
            image.get_attribute("src")
            for image in self.all(f"{selector} img")
            if image.get_property("complete") and image.get_property("naturalWidth")
        ]

    def fetched(self, address: str) -> bytes:
        script = """
            const done = arguments[arguments.length - 1];
            fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => done([...new Uint8Array(b)]));
        """
        return bytes(self.driver.execute_async_script(script, address))

    def notices(self) -> list[str]:
        return [toast.text for toast in self.all(".toast-body")]

    def width(self) -> tuple[int, int]:
        """Pixels that the page needs and has."""
        return tuple(
            self.driver.execute_script(
                "return [document.scrollingElement.scrollWidth, document.documentElement.clientWidth]"
            )
        )

    def requests(self) -> list[str]:
        """Addresses that the browser asked for since the last call."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [entry["params"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def shot(self, path: Path) -> Path:
        """A screenshot once nothing moves any more, with the mouse out of the way."""
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 1, "y": 1})
        before = None
        deadline = time.monotonic() + PATIENCE
        while (now := self.driver.get_screenshot_as_png()) != before and time.monotonic() < deadline:
            before = now
        path.write_bytes(now)
        return path
