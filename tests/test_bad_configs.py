"""Each file in bad_configs/ begins with the exact errors that it must cause, in "# expect:" lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.loading import ConfigError, parse_config

PREFIX = "# expect: "
FILES = sorted((Path(__file__).parent / "bad_configs").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_error_is_told_at_once(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    expected = [line.removeprefix(PREFIX) for line in text.splitlines() if line.startswith(PREFIX)]
    with pytest.raises(ConfigError) as caught:
        parse_config(text, machine_name="gw1")
    assert list(caught.value.errors) == expected


def test_there_are_files_to_try() -> None:
    assert len(FILES) >= 120
