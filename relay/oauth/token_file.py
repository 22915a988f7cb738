"""A token on disk: a small JSON file that only its owner may read, replaced whole."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from relay.files import hand_over, sync_folder
from relay.oauth.client import Grant


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and what renews it; times are epoch seconds."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    obtained_at: float
    expires_at: float

    @classmethod
    def of(cls, grant: Grant, now: float, refresh_token: str = "") -> Self:
        """Return the token of a grant; ``refresh_token`` is the old one, which may still hold."""
        return cls(grant.access_token, grant.refresh_token or refresh_token, now, now + grant.lifetime)


def read_token(path: Path) -> Token:
    """Return the token in a file. Raises OSError, and ValueError where the file holds none."""
    try:
        fields = json.loads(path.read_bytes())
        return Token(
            access_token=str(fields["access_token"]),
            refresh_token=str(fields["refresh_token"]),
            obtained_at=float(fields["obtained_at"]),
            expires_at=float(fields["expires_at"]),
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path} holds no token") from None


def write_token(path: Path, token: Token) -> None:
    """Put a token into a file; after a crash the file holds the old one or the new one. Raises OSError."""
    folder = path.parent
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        hand_over(folder, folder.parent)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
    new = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump(asdict(token), file)
            file.flush()
            os.fsync(file.fileno())
        hand_over(new, folder)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(folder)
