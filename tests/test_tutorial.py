"""docs/tutorial.md and docs/tutoriel.md: every step in them is done, and what they show is what was seen."""

from __future__ import annotations

import re

import pytest

from tests.tutorial.page import PAGES, Block, compose, read_blocks, revise
from tests.tutorial.replay import replay
from tests.tutorial.steady import Steady

PROGRAMS = ("bsd-mailx", "dovecot", "ip", "mount", "nsenter", "sendmail", "setpriv", "telnet", "unshare")


def without_comments(block: Block) -> tuple[str, str, str]:
    """Return what must be the same in all languages."""
    return (
        block.kind,
        block.about,
        re.sub(r"(?m) *# .*$", "", block.text) if block.kind == "toml" else block.text,
    )


@pytest.mark.needs_root
@pytest.mark.needs(*PROGRAMS)
def test_the_pages_show_what_is_seen() -> None:
    pages = {path.name: path.read_text() for path in PAGES}
    seen = replay(read_blocks(pages[PAGES[0].name]))
    for page in pages.values():
        assert page == revise(page, seen), "if that is as it should be: python -m tests.tutorial --write"


def test_the_pages_have_the_same_blocks_in_both_languages() -> None:
    english, french = ([*map(without_comments, read_blocks(path.read_text()))] for path in PAGES)
    assert english == french


def test_what_a_block_says_of_relay_toml_takes_the_place_of_what_stood_there() -> None:
    pieces = [
        'hostname = "a"\n\n[local]\nusers = ["chris"]\nmaildir = "m"\n',
        '# why\nrelayhost = "isp"\n\n[transport]\n"x.example" = "isp"\n\n[[header_checks]]\npattern = "1"\n',
        'hostname = "b"\n#relayhost = "isp"\n\n[local]\nlmtp = "l"\n\n[transport]\n# nothing\n',
        '[[header_checks]]\npattern = "2"\n\n[[header_checks]]\npattern = "3"\n',
    ]
    checks = '[[header_checks]]\npattern = "2"\n\n[[header_checks]]\npattern = "3"\n'
    assert compose(pieces) == f'hostname = "b"\n\n[local]\nlmtp = "l"\n\n{checks}'
    page = "".join(f"```toml relay.toml\n{piece}```\n" for piece in pieces[:1])
    assert revise(f"{page}\n```toml relay.toml whole\n```\n", ["", ""]).endswith(f"whole\n{pieces[0]}```\n")


def test_what_is_different_at_each_run_is_made_the_same() -> None:
    texts = [
        f"2026-11-24T20:22:0{n}+0100 6610AA1{n}E7317: removed\ndelay=0.0{n}\n"
        f"id +BjFMzXlBWtgAAAAGGTvr{n}:T{n}\n"
        f"Message-Id: <2026112420220{n}.6610AA1{n}E7317@gw1>\nDate: Tue, 24 Nov 2026 20:22:0{n} +0100\n"
        f'boundary="=_6610AB4{n}7DAF6.179555000{n}"\n'
        for n in range(2)
    ]
    assert Steady()(texts[0]) == Steady()(texts[1])
    steady = Steady()
    assert steady(texts[0]) != steady(texts[1]), "other messages have other ids"
