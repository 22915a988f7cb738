"""Tokens on disk."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.oauth.client import Grant
from relay.oauth.token_file import Token, read_token, write_token

TOKEN = Token("access", "refresh", 1000.5, 4600.5)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "isp.json"
    write_token(path, TOKEN)
    assert read_token(path) == TOKEN


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        path = tmp_path / "tokens" / "isp.json"
        write_token(path, TOKEN)
    finally:
        os.umask(old_mask)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_a_token_replaces_another_whole(tmp_path: Path) -> None:
    path = tmp_path / "isp.json"
    path.write_text("something older, which others may read")
    path.chmod(0o644)
    write_token(path, TOKEN)
    assert read_token(path) == TOKEN
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "isp.json"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_token(path, TOKEN)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.needs_root
def test_what_root_writes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 10001, 10002)
    path = tmp_path / "tokens" / "isp.json"
    write_token(path, TOKEN)
    for made in (path.parent, path):
        assert (made.stat().st_uid, made.stat().st_gid) == (10001, 10002)


def test_others_than_root_write_what_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 10001)
    path = tmp_path / "tokens" / "isp.json"
    write_token(path, TOKEN)
    assert path.stat().st_uid == os.getuid()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"access_token": "a", "refresh_token": "b", "obtained_at": "x", "expires_at": 1}',
        '{"access_token": "a", "refresh_token": "b", "obtained_at": null, "expires_at": 1}',
        "[" * 60000,
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "isp.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path} holds no token$"):
        read_token(path)


@given(content=st.binary())
def test_any_content_is_a_token_or_told(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "token"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no token"):
        read_token(path)


def test_a_grant_without_a_refresh_token_leaves_the_old_one() -> None:
    assert Token.of(Grant("a", "", 60), 1000, "old") == Token("a", "old", 1000, 1060)
    assert Token.of(Grant("a", "new", 60), 1000, "old").refresh_token == "new"


def test_a_token_does_not_show_itself() -> None:
    assert "access" not in repr(TOKEN).replace("access_token", "")
    assert "refresh" not in repr(TOKEN)
