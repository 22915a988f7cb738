"""Passwords and other secrets: where they stand, and how they stay out of what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class SecretError(Exception):
    """A secret cannot be read; the text says which and why, and never holds it."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in the configuration, in a file, or in the environment; its ``repr`` does not show it."""

    value: str = field(default="", repr=False)
    file: Path | None = None
    variable: str = ""
    """The name of an environment variable."""

    def read(self, environ: Mapping[str, str]) -> str:
        """Return the secret as it is now, never an empty one. Raises SecretError.

        A trailing newline of a file is not part of it.
        """
        if self.file is not None:
            return _read_file(self.file)
        if self.variable:
            if not environ.get(self.variable):
                raise SecretError(f"the environment variable {self.variable} is not set")
            return environ[self.variable]
        return self.value


def _read_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except OSError as error:
        raise SecretError(f"the secret file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        # Its words and its object hold what was read.
        raise SecretError(f"the secret file {path} is not UTF-8 text") from None
    if not text:
        raise SecretError(f"the secret file {path} is empty")
    return text
