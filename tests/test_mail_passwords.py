"""Hashes of passwords: their form, and what they are of."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.mail.passwords import MOST_MEMORY, SALT_SIZE, PasswordHash, make_hash, parse_hash

SALT = bytes(range(SALT_SIZE))
TEXT = "$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$lUTkiXnaPIlt+39/W8AV+zIOgQ+DcviNZtmSHaWiqmU"


def test_a_hash_is_of_its_password_and_no_other() -> None:
    made = make_hash("été".encode(), SALT)
    assert made.is_of("été".encode())
    assert not made.is_of(b"ete")
    assert not made.is_of(b"")


def test_a_hash_takes_the_promised_memory() -> None:
    assert 16 * 1024 * 1024 <= make_hash(b"secret", SALT).memory < 17 * 1024 * 1024


def test_a_hash_is_written_and_read() -> None:
    made = make_hash(b"secret", SALT)
    assert str(made).startswith("$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$")
    assert "=" not in str(made).rpartition("$")[2]
    assert parse_hash(str(made)) == made


def test_the_hash_of_a_password_stays_the_same() -> None:
    assert str(make_hash(b"secret", SALT)) == TEXT


def test_two_salts_make_two_hashes() -> None:
    assert make_hash(b"secret", SALT).key != make_hash(b"secret", SALT[::-1]).key


def test_a_hash_is_not_shown() -> None:
    made = make_hash(b"secret", SALT)
    assert repr(made) == "PasswordHash(log2_n=14, r=8, p=1)"


def test_padding_does_not_matter() -> None:
    salt, key = TEXT.split("$")[3:]
    assert parse_hash(f"$scrypt$ln=14,r=8,p=1${salt}==${key}=") == parse_hash(TEXT)


def test_other_costs_are_read_too() -> None:
    """This is the second vector of RFC 7914 section 12."""
    key = bytes.fromhex(
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )
    parsed = parse_hash(f"$scrypt$ln=10,r=8,p=16$TmFDbA${b64encode(key).decode()}")
    assert (parsed.log2_n, parsed.r, parsed.p, parsed.salt, parsed.key) == (10, 8, 16, b"NaCl", key)
    assert parsed.is_of(b"password")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        TEXT.replace("scrypt", "argon2id"),
        TEXT.removeprefix("$"),
        TEXT + "$",
        TEXT + "\n",
        TEXT.replace("ln=14", "ln=x"),
        TEXT.replace("r=8,", ""),
        TEXT.replace("AAEC", "AA*C"),
        "$scrypt$ln=14,r=8,p=1$A$" + "A" * 43,
        "$scrypt$ln=14,r=8,p=1$AAAA$" + "A" * 41,
    ],
)
def test_what_is_no_hash_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^this is not the hash of a password: make one with 'relay passwd'$"
    ):
        parse_hash(text)


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("ln=14", "ln=0"),
        TEXT.replace("r=8", "r=0"),
        TEXT.replace("p=1", "p=0"),
        TEXT.replace("ln=14", "ln=17"),
        TEXT.replace("ln=14", "ln=99"),
        TEXT.replace("ln=14,r=8", "ln=16,r=1"),
        TEXT[:-25],
    ],
)
def test_a_hash_that_is_weak_or_dear_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^this hash is too weak or takes too much memory"):
        parse_hash(text)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 9))
@example(16, 7, 1)
@example(15, 1, 1)
def test_what_is_read_can_be_checked(log2_n: int, r: int, p: int) -> None:
    try:
        parsed = parse_hash(f"$scrypt$ln={log2_n},r={r},p={p}$AAAA${'A' * 43}")
    except ValueError:
        return
    assert parsed.memory <= MOST_MEMORY
    if log2_n <= 10 or r == 1:
        assert not parsed.is_of(b"secret")


@given(st.binary(min_size=1, max_size=40), st.binary(min_size=16, max_size=70))
def test_any_salt_and_key_survive_being_written(salt: bytes, key: bytes) -> None:
    assert parse_hash(str(PasswordHash(salt, key))) == PasswordHash(salt, key)
