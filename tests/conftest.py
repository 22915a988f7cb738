"""What all tests share: saying which programs and rights a test needs.

A test without what it needs is skipped; where CI=true it fails, so that nothing stays untested unseen.
"""

from __future__ import annotations

import logging
import os
import shutil
from typing import NoReturn

import pytest
from hypothesis import settings

# A busy machine is no error; and what CI tries is the same each time.
settings.register_profile("relay", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("relay")
# asyncio's debug mode warns of what takes long, which on a busy machine is anything.
logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith("Executing %s took"))

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    programs = [program for marker in item.iter_markers("needs") for program in marker.args]
    lacking = [program for program in programs if shutil.which(program, path=SEARCH_PATH) is None]
    if lacking:
        leave_out(f"needs {', '.join(lacking)}; install it (Debian's packages are named in .ci/run)")
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        leave_out("needs root")


def leave_out(reason: str) -> NoReturn:
    """End a test that cannot be done here."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
