"""One alert: its words and its forms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

LONGEST_TEXT = 600


@dataclass(frozen=True, slots=True)
class Alert:
    """What the owner is told. Its text is one line of printable characters, whatever servers said."""

    cause: str
    """See ``relay.alerts.conditions``."""
    state: Literal["begins", "over"]
    text: str
    host: str
    """The name of this relay."""
    time: float
    """Epoch seconds."""

    @property
    def fields(self) -> dict[str, object]:
        """Return the fields as JSON has them."""
        return asdict(self)

    @property
    def title(self) -> str:
        """Return what stands above the text."""
        return f"Mail relay {self.host}" + (": solved" if self.state == "over" else "")


class AlertError(Exception):
    """An alert could not be handed over; the text says why, and holds no secret."""
