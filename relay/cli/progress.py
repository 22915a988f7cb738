"""What a person sees while a command is long at work: a line on the terminal, gone when it is over."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from relay.texts import make_plain


class Show(Protocol):
    """Shows what is being done, and how much of it is done."""

    def __call__(self, text: str, done: int = 0, total: int | None = None) -> None:
        """Replace what was shown; without ``total`` nobody knows how much there is."""


@contextmanager
def showing_progress() -> Iterator[Show]:
    """Yield what shows progress on standard error, where that is a terminal, and does nothing elsewhere."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _show_nothing
        return
    # Not at the top: it takes longer than most commands do.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415
    from rich.table import Column  # noqa: PLC0415

    columns = (
        SpinnerColumn("line"),  # of ASCII characters, which every terminal has
        BarColumn(bar_width=20),
        TextColumn(
            "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
        ),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(text: str, done: int = 0, total: int | None = None) -> None:
            progress.update(task, description=make_plain(text), completed=done, total=total, refresh=True)

        yield show


def _show_nothing(text: str, done: int = 0, total: int | None = None) -> None:
    pass
