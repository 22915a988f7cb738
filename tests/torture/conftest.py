"""What the trials share: how long they go on, and where their figures are kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Figure = Callable[[str, str, int | float | str], None]
"""Keep a figure: (area, what was counted, value)."""


@pytest.fixture
def is_whole() -> bool:
    """Whether the trial is to be the long one."""
    return os.environ.get("TORTURE") == "whole"


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Return what keeps a figure of this trial where TORTURE_FIGURES names a file."""

    def keep(area: str, what: str, value: int | float | str) -> None:
        path = os.environ.get("TORTURE_FIGURES")
        if path:
            line = {"area": area, "what": what, "value": value, "test": request.node.nodeid}
            with Path(path).open("a") as file:
                file.write(json.dumps(line) + "\n")

    return keep
