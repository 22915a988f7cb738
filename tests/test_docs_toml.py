"""Every piece of a relay.toml in the documentation is right; a whole one, by itself.

A whole one has "# relay.toml" as its first line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from relay.config.loading import parse_config
from tests.support.documents import PAGES, Block, blocks, name

WHOLE = "# relay.toml"
FRAME = """
hostname = "gw1.maison.example"
[smarthost]
isp = { host = "smtp.isp.example" }
gmail = { host = "smtp.gmail.example" }
[local]
domains = ["gw1.maison.example", "maison.example", "gw1.maison.mrs", "maison.mrs"]
users = ["chris", "marc"]
maildir = "/var/mail/{user}"
[users]
chris = "$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$ca+UNSvPUNsDvh2I8ijnHGGJJAVw6AORKGaw/11W0N0"
"""
"""What the pieces take for granted."""
PIECES = [
    pytest.param(block, id=f"{name(page)}:{block.line}")
    for page in PAGES
    for block in blocks(page.read_text(encoding="utf-8"))
    if block.language == "toml"
]


def merge(frame: Mapping[str, Any], piece: Mapping[str, Any]) -> dict[str, Any]:
    """Return the frame with what the piece says in addition, or in its place."""
    both = {**frame, **piece}
    for key in ("smarthost", "users"):
        both[key] = {**frame[key], **piece.get(key, {})}
    if "lmtp" in piece.get("local", {}):
        both["local"] = piece["local"]
    return both


@pytest.mark.parametrize("block", PIECES)
def test_toml_is_right(block: Block, tmp_path: Path) -> None:
    text = block.text
    if not text.startswith(WHOLE):
        text = tomli_w.dumps(merge(tomllib.loads(FRAME), tomllib.loads(text)))
    for file in ("fullchain.pem", "key.pem"):
        (tmp_path / file).touch()
    text = text.replace("/etc/relay/", f"{tmp_path}/")
    parse_config(text, machine_name="gw1", folder=tmp_path)
