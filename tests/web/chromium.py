"""A real browser for tests: Chromium, where it is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None, reason="chromium or chromedriver is not installed"
)


@contextmanager
def started_chromium(folder: Path) -> Iterator[webdriver.Chrome]:
    """Start it with a profile in a folder, and end it behind the block."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    arguments = [
        "--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=800,640",
        f"--user-data-dir={folder}",
    ]  # fmt: skip
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()
