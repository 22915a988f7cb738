"""Draws pictures/form-*.svg: .venv/bin/python docs/forms.py

What to fill in where no photograph could be made. The names of fields are those of the makers; the rest is no
copy of their screens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "pictures"
WIDTH, MARGIN, ROW, LABEL = 600, 20, 38, 290
OFF = "☐"


@dataclass(frozen=True)
class Form:
    """A dialogue: what stands above it, and its fields: name and value, or a line of text and ""."""

    title: str
    fields: tuple[tuple[str, str], ...]


FORMS = {
    "outlook": Form(
        "Internet E-mail Settings",
        (
            ("Outgoing mail server (SMTP)", "192.168.0.2"),
            (f"Outgoing Server tab: {OFF} My outgoing server (SMTP) requires authentication", ""),
            ("Advanced tab: Outgoing server", "25"),
            ("Advanced tab: encrypted connection", "None"),
        ),
    ),
    "outlook-express": Form(
        "Properties of the account",
        (
            ("Servers tab: Outgoing mail (SMTP)", "192.168.0.2"),
            (f"Servers tab: {OFF} My server requires authentication", ""),
            ("Advanced tab: Outgoing mail (SMTP)", "25"),
            (f"Advanced tab: {OFF} This server requires a secure connection (SSL)", ""),
        ),
    ),
    "iphone": Form(
        "SMTP › Add Server",
        (
            ("Host Name", "192.168.0.2"),
            ("User Name", "(empty)"),
            ("Password", "(empty)"),
            ("Use SSL", "off"),
            ("Authentication", "Password"),
            ("Server Port", "25"),
        ),
    ),
    "android": Form(
        "Outgoing server",
        (
            ("SMTP server", "192.168.0.2"),
            ("Security", "None"),
            ("Port", "25"),
            (f"{OFF} Require sign-in", ""),
        ),
    ),
    "printer": Form(
        "E-mail (SMTP)",
        (
            ("SMTP server", "192.168.0.2"),
            ("Port", "25"),
            ("Encryption, SSL/TLS", "Off"),
            ("Authentication", "Off"),
            ("Sender, device e-mail", "scanner@gw1.maison.mrs"),
        ),
    ),
    "nas": Form(
        "Notification › Email",
        (
            ("Service provider", "Custom SMTP server"),
            ("SMTP server", "192.168.0.2"),
            ("SMTP port", "25"),
            (f"{OFF} Secure connection (SSL/TLS) is required", ""),
            (f"{OFF} Authentication required", ""),
            ("Sender email", "nas@gw1.maison.mrs"),
        ),
    ),
}


def draw(form: Form) -> str:
    """Return a form as SVG."""
    height = 56 + ROW * len(form.fields) + MARGIN
    described = "; ".join(" ".join(filter(None, field)) for field in form.fields)
    style = 'font-size="14" font-family="system-ui, sans-serif" fill="#222"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {style}>',
        f"<title>{escape(form.title)}</title>",
        f"<desc>{escape(described)}</desc>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="8" fill="#fafafa" stroke="#999"/>',
        f'<text x="{MARGIN}" y="32" font-size="16" font-weight="bold">{escape(form.title)}</text>',
    ]
    for place, field in enumerate(form.fields):
        parts += _draw_field(56 + ROW * place, *field)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _draw_field(top: int, label: str, value: str) -> Iterator[str]:
    yield f'<text x="{MARGIN}" y="{top + 20}">{escape(label)}</text>'
    if value:
        left, width = MARGIN + LABEL, WIDTH - LABEL - 2 * MARGIN
        box = f'x="{left}" y="{top + 1}" width="{width}" height="28"'
        yield f'<rect {box} rx="4" fill="#fff" stroke="#bbb"/>'
        yield f'<text x="{left + 10}" y="{top + 20}">{escape(value)}</text>'


def main() -> None:
    """Write all pictures."""
    for name, form in FORMS.items():
        (FOLDER / f"form-{name}.svg").write_text(draw(form), encoding="utf-8")


if __name__ == "__main__":
    main()
