"""Lets a relay that is soaked say how many tasks it has: SIGUSR2 writes the number to the file SOAK_TASKS."""

import asyncio
import os
import signal
from pathlib import Path
from types import FrameType


def _count_tasks(_number: int, _frame: FrameType | None) -> None:
    new = Path(os.environ["SOAK_TASKS"] + ".new")
    new.write_text(str(len(asyncio.all_tasks())))
    new.rename(os.environ["SOAK_TASKS"])


signal.signal(signal.SIGUSR2, _count_tasks)
