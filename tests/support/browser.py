"""Debian's Chromium, driven by its ChromeDriver, to look at the status page as the house does."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

DESKTOP = (1200, 900)
PHONE = (390, 844)
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # it would need rights that containers don't give
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-proxy-server",
    "--disable-background-networking",
)


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Start a browser."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in _ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()


def look(driver: webdriver.Chrome, size: tuple[int, int], *, dark: bool = False, scale: float = 1) -> None:
    """Make the browser a phone or a desktop, by day or by night."""
    width, height = size
    metrics: dict[str, Any] = {
        "width": width,
        "height": height,
        "deviceScaleFactor": scale,
        "mobile": width < 600,
    }
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def photograph(driver: webdriver.Chrome, height: int | None = None) -> bytes:
    """Return the page as PNG: all of it, or its first ``height`` pixels."""
    content = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": content["width"], "height": height or content["height"], "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(shot["data"])
