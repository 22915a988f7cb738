"""The log on standard output: its two forms, and who else hears of events.

A line has no character that could break it, move a cursor or not be encoded.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from relay.config.model import Log
from relay.texts import make_plain

_log = logging.getLogger("relay")


class _TextFormatter(logging.Formatter):
    """``2026-11-24T08:00:00+0000 QUEUEID: text``; above INFO the level stands before the text."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        if int(record.created) != self._second:
            self._second = int(record.created)
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._second))
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        line = f"{self._stamp} {level}{make_plain(record.getMessage())}"
        return "\n    ".join([line, *_traceback(record)]) if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time (epoch seconds), level, event, text and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = record.args if isinstance(record.args, Mapping) else {}
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            **{name: _json_value(value) for name, value in fields.items()},
            "text": make_plain(record.getMessage()),
        }
        if traceback := _traceback(record):
            line["traceback"] = "\n".join(traceback)
        return json.dumps(line)


class _Handler(logging.Handler):
    """Writes the log: what is said in one turn of the event loop in one piece.

    Mail goes on where that fails, be it a full disk or a reader that has gone.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)
            return
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:  # there is no loop here
                self.flush()

    def flush(self) -> None:
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                self._stream.write("".join(lines))
                self._stream.flush()
        except OSError:
            pass
        finally:
            self.release()


def configure(settings: Log) -> None:
    """Send the log to standard output in the form and from the level that the owner chose."""
    handler = _Handler(sys.stdout)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_JsonFormatter() if settings.format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    handler.setLevel(settings.level.upper())
    _choose_level()
    logging.getLogger("mail").setLevel(logging.CRITICAL)  # aiosmtpd's own account of each connection
    # No line names a thread or process: then they need not be found out.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def observe(observer: logging.Handler) -> None:
    """Hand each event from INFO on to an observer too, whatever the log shows.

    The arguments of a record are the event's fields, with its name as ``event``.
    """
    _log.addHandler(observer)
    _choose_level()


def ignore(observer: logging.Handler) -> None:
    """Hand an observer no more events."""
    _log.removeHandler(observer)
    _choose_level()


def _choose_level() -> None:
    """Make no record that nobody wants."""
    levels = [handler.level for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]
    _log.setLevel(min([*levels, logging.INFO] if _log.handlers else levels, default=logging.NOTSET))


def _json_value(value: object) -> object:
    return value if isinstance(value, int | float) else make_plain(str(value))


def _traceback(record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    lines = logging.Formatter().formatException(record.exc_info).splitlines()
    return [make_plain(line) for line in lines]


def emit(level: int, event: str, text: str, /, **fields: object) -> None:
    """Log a text with its fields filled in, which are formatted only if the level is on.

    The record is made here: ``Logger.log`` would look for the line of code that called it.
    """
    if _log.isEnabledFor(level):
        record = logging.LogRecord(_log.name, level, "", 0, text, None, None)
        record.args = {"event": event, **fields}
        _log.handle(record)


def emit_defect(text: str, error: BaseException, /, **fields: object) -> None:
    """Log an event that only a defect of ours leads to, with its traceback."""
    _log.error(text, {"event": "failed", **fields}, exc_info=error)
