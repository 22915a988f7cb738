from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from relay.config.secrets import Secret, SecretError


def write(folder: Path, content: bytes) -> Secret:
    path = folder / "secret"
    path.write_bytes(content)
    return Secret(file=path)


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b" two words \n", " two words "),
        (b"\xef\xbb\xbfhunter2\r\n", "hunter2"),
        ("pässwört".encode(), "pässwört"),
    ],
)
def test_a_secret_in_a_file_is_its_text_without_the_last_line_end(
    tmp_path: Path, content: bytes, secret: str
) -> None:
    assert write(tmp_path, content).read({}) == secret


def test_a_secret_is_read_anew_each_time(tmp_path: Path) -> None:
    secret = write(tmp_path, b"old")
    assert secret.read({}) == "old"
    write(tmp_path, b"new")
    assert secret.read({}) == "new"


def test_a_secret_may_stand_in_the_configuration_or_in_the_environment() -> None:
    assert Secret("hunter2").read({}) == "hunter2"
    assert Secret(variable="ISP").read({"ISP": "hunter2"}) == "hunter2"


@pytest.mark.parametrize("environ", [{}, {"ISP": ""}])
def test_a_variable_that_is_not_set_is_told_by_name(environ: dict[str, str]) -> None:
    with pytest.raises(SecretError, match="the environment variable ISP is not set"):
        Secret(variable="ISP").read(environ)


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(SecretError) as caught:
        Secret(file=tmp_path / "gone").read({})
    assert str(caught.value) == f"the secret file {tmp_path}/gone cannot be read: No such file or directory"


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_an_empty_file_holds_no_secret(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SecretError, match="is empty"):
        write(tmp_path, content).read({})


def test_a_file_in_another_encoding_is_refused_without_showing_any_of_it(tmp_path: Path) -> None:
    secret = write(tmp_path, bytes([0x68, 0x75, 0xE9]))
    with pytest.raises(SecretError, match="is not UTF-8 text") as caught:
        secret.read({})
    assert "byte" not in "".join(traceback.format_exception(caught.value))


def test_the_representation_tells_where_a_secret_is_but_not_the_secret() -> None:
    assert repr(Secret("hunter2")) == "Secret(file=None, variable='')"
