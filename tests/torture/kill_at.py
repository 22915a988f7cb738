"""Run as a program: ``relay`` with its arguments, killed at one moment; relay itself knows nothing of it.

    kill_at.py MOMENT PATTERN ... COMMAND ARGUMENTS

MOMENT is ``before-commit`` or ``after-commit`` of the first transaction whose statements match the pattern,
or the name of one of Python's audit events (``os.rename``), with the pattern to be found in its arguments.
What stands between the pattern and the command of relay, as Service has it there, is left out.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
from collections.abc import Iterable
from typing import Any

SAID = "killed itself as asked"
COMMANDS = {"serve", "send"}


def die() -> None:
    """Say so and be gone."""
    os.write(2, f"{SAID}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(sqlite3.Connection):
    """A connection that ends the process at one commit."""

    moment = ""
    pattern = re.compile("")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._statements: list[str] = []

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        """Execute a statement, unless it is the one."""
        if sql.startswith("BEGIN"):
            self._statements = []
        self._statements.append(sql)
        is_it = sql == "COMMIT" and self.pattern.search("\n".join(self._statements)) is not None
        if is_it and self.moment == "before-commit":
            die()
        cursor = super().execute(sql, *args)
        if is_it:
            die()
        return cursor

    def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        """Take note of a statement that is for some rows at least."""
        listed = list(rows)
        if listed:
            self._statements.append(sql)
        return super().executemany(sql, listed)


def main() -> int:
    """Set the trap and be ``relay``."""
    moment, pattern, *arguments = sys.argv[1:]
    start = next(index for index, argument in enumerate(arguments) if argument in COMMANDS)
    if moment.endswith("-commit"):
        Dying.moment, Dying.pattern = moment, re.compile(pattern, re.DOTALL)
        connect = sqlite3.connect
        sqlite3.connect = lambda *args, **options: connect(*args, **options, factory=Dying)  # type: ignore[assignment]
    else:
        sys.addaudithook(
            lambda event, args: die() if event == moment and re.search(pattern, repr(args)) else None
        )
    from relay.cli.main import main as relay

    sys.argv = ["relay", *arguments[start:]]
    return relay(arguments[start:])


if __name__ == "__main__":
    raise SystemExit(main())
