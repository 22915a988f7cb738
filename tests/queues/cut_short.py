"""Run as a program: brings a queue to the present version, and is killed on the way.

    python -m tests.queues.cut_short QUEUE INSTRUCTIONS

It kills itself after so many instructions of SQLite; with 0 it prints how many there are.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from itertools import count
from pathlib import Path

from relay.queue.schema import migrate


def main(path: Path, last: int) -> None:
    """Begin to bring a queue forward."""
    db = sqlite3.connect(path, isolation_level=None)
    instructions = count(1)

    def step() -> None:
        if next(instructions) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    db.set_progress_handler(step, 1)
    migrate(db, path)
    print(next(instructions) - 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
