"""DKIM: canonicalisation, what is signed, keys; judged by the RFCs' own examples and by dkimpy."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from dkim.canonicalization import Relaxed
from hypothesis import example, given
from hypothesis import strategies as st

from relay.mail.dkim import GUARDED, SIGNED, BodyHash, author_domain, relax_header
from relay.mail.dkim_key import parse_key
from relay.mail.headers import split_content
from relay.mail.mime import HEADER_SIZE_LIMIT
from tests.support.dkim import DOMAIN, KINDS, find_fault, key_of, pem, signer

NOW = 1_790_000_000.9
BLOCK = b"From: Chris <chris@maison.example>\r\nTo: ann@dest.example\r\nSubject: hi\r\n"

# RFC 8463 appendix A
RFC8463_HEADER = (
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
)
RFC8463_BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
RFC8463_SIGNATURE = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n"
    b" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n"
)
RFC8463_KEY = (
    b"-----BEGIN PRIVATE KEY-----\r\n"
    b"MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\r\n"
    b"-----END PRIVATE KEY-----\r\n"
)


def hash_of(body: bytes, *cuts: int) -> bytes:
    """Return the hash of a body that comes in pieces of these sizes, over and over."""
    hashed, data, number = BodyHash(), b"\r\n" + body, 0
    while data:
        size = cuts[number % len(cuts)] if cuts else len(data)
        hashed.feed(data[:size])
        data, number = data[size:], number + 1
    return hashed.digest()


def sign(block: bytes = BLOCK, body: bytes = b"Hello\r\n", kind: str = "ed25519") -> bytes:
    """Return a whole message, signed."""
    return signer(kind).sign(block, hash_of(body), NOW) + block + b"\r\n" + body


def names_of(message: bytes) -> list[str]:
    """Return the names of the headers that a signature covers."""
    [header, *_], _ = split_content(message)
    found = re.search(rb"; h=([^;]+);", re.sub(rb"\s+", b" ", header))
    assert found
    return found[1].decode().replace(" ", "").split(":")


# Canonicalisation


def test_the_example_of_rfc_6376_is_canonicalised_as_there() -> None:
    assert relax_header(b"A: X\r\n") + relax_header(b"B : Y\t\r\n\tZ  \r\n") == b"a:X\r\nb:Y Z\r\n"
    assert hash_of(b" C \r\nD \t E\r\n\r\n\r\n") == hashlib.sha256(b" C\r\nD E\r\n").digest()


@pytest.mark.parametrize("body", [b"", b"\r\n", b"\r\n\r\n", b" \t\r\n", b" "])
def test_an_empty_body_has_the_hash_of_rfc_6376(body: bytes) -> None:
    assert base64.b64encode(hash_of(body)) == b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="


def test_a_message_without_even_an_empty_line_has_an_empty_body() -> None:
    assert BodyHash().digest() == hash_of(b"")


def test_the_example_of_rfc_8463_gets_the_signature_that_it_has_there() -> None:
    assert base64.b64encode(hash_of(RFC8463_BODY)) in RFC8463_SIGNATURE
    headers, _ = split_content(RFC8463_HEADER)
    unsigned, signature = re.split(rb"(?<= b=)", RFC8463_SIGNATURE)
    signed = b"".join(map(relax_header, headers)) + relax_header(unsigned)[:-2]
    key = parse_key(RFC8463_KEY)
    assert key.record == "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    assert key.sign(hashlib.sha256(signed).digest()) == base64.b64decode(signature)


@given(st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"a", b".", b"\xc3"]), max_size=30), st.data())
@example([b"a", b" ", b"\r\n", b" ", b"\r\n", b" ", b"b"], None)
@example([b"a", b"\r\n", b" "], None)
def test_a_body_is_hashed_the_same_however_it_is_cut(pieces: list[bytes], data: st.DataObject | None) -> None:
    body = b"".join(pieces)
    on_the_wire = body if not body or body.endswith(b"\r\n") else body + b"\r\n"
    expected = hashlib.sha256(Relaxed.canonicalize_body(on_the_wire)).digest()
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)) if data else [1]
    assert hash_of(body) == hash_of(body, 1) == hash_of(body, *sizes) == expected


# What is signed

LINES = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\v\f\x00", exclude_categories=["Cc"]), max_size=40
)
TEXT = st.lists(LINES, max_size=8).map(lambda lines: "\r\n".join([*lines, ""]).encode())
VALUES = st.lists(LINES, min_size=1, max_size=3).map("\r\n\t".join)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([*(name for name in SIGNED if name != "from"), "X-Other", "SUBJECT", "received"]),
        VALUES,
    )
)


@given(HEADERS, TEXT, st.sampled_from(KINDS))
def test_whatever_is_signed_dkimpy_finds_right(
    headers: list[tuple[str, str]], body: bytes, kind: str
) -> None:
    block = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers)
    message = sign(block + BLOCK, body, kind)
    assert not find_fault(message)


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_is_folded_and_says_how_it_was_made(kind: str) -> None:
    message = sign(kind=kind)
    header = message[: message.index(b"From:")]
    assert header.startswith(
        f"DKIM-Signature: v=1; a={kind}-sha256; c=relaxed/relaxed;\r\n"
        f"\td=maison.example; s={kind}; t=1790000000;\r\n"
        "\th=from:from:reply-to:to:to:cc:subject:subject;\r\n\tbh=".encode()
    )
    assert max(map(len, header.split(b"\r\n"))) < 78
    assert not {b"l", b"x", b"i"} & set(re.findall(rb"(\w+)=", header))


def test_each_header_is_named_once_more_than_it_is_there() -> None:
    block = (
        BLOCK
        + b"To: bob@dest.example\r\nDate: today\r\nX-Other: 1\r\nReceived: from x\r\nDKIM-Signature: v=1\r\n"
    )
    names = names_of(sign(block))
    counts = {"from": 2, "reply-to": 1, "to": 3, "cc": 1, "subject": 2, "date": 2}
    assert names == [name for name, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize("name", [*GUARDED, "Date", "content-type"])
def test_nobody_can_add_a_header_that_readers_would_see(name: str) -> None:
    message = sign(BLOCK + b"Date: today\r\nContent-Type: text/plain\r\n")
    assert not find_fault(message)
    added = f"{name}: added@evil.example\r\n".encode()
    assert find_fault(message.replace(b"From:", added + b"From:", 1))
    assert find_fault(message.replace(b"\r\n\r\n", b"\r\n" + added + b"\r\n", 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"Chris <", b"Christina <"), (b"hi\r\n", b"ho\r\n"), (b"Hello", b"Hallo"), (b"To: ann", b"To: bob")],
)
def test_nobody_can_change_what_is_signed(old: bytes, new: bytes) -> None:
    assert find_fault(sign().replace(old, new, 1))


def test_what_servers_on_the_way_do_does_no_harm() -> None:
    message = sign(body=b"Hello  dear\t reader \r\nbye\r\n\r\n")
    moved = (
        message.replace(b"Chris <", b"Chris\r\n  <")
        .replace(b"reader \r\n", b"reader\r\n")
        .removesuffix(b"\r\n")
    )
    assert moved != message
    assert not find_fault(b"Received: from here\r\n\tby there\r\n" + moved)


def test_a_header_block_that_breaks_off_is_signed_as_far_as_it_goes() -> None:
    assert names_of(sign(BLOCK + b"no header\r\nDate: today\r\n")).count("date") == 0


# Whose mail


@pytest.mark.parametrize(
    ("block", "domain"),
    [
        (b"From: chris@maison.example\r\n", DOMAIN),
        (b"FROM : Chris <chris@Maison.EXAMPLE>\r\n", DOMAIN),
        (b'From: "ann@dest.example" (x@y) <chris@maison.example>\r\n', DOMAIN),
        (b"From: Chris\r\n <chris@maison.example>\r\n", DOMAIN),
        (b"Sender: x@y\r\nFrom: chris@sub.maison.example\r\n", "sub.maison.example"),
        ("From: chris@m\u00fcller.example\r\n".encode(), "xn--mller-kva.example"),
        (b"From: chris@\xff.example\r\n", ""),
        ("From: chris@\u00fc..example\r\n".encode(), ""),
        (b"From: chris\r\n", ""),
        (b"From: chris@maison.example, ann@maison.example\r\n", ""),
        (b"From: chris@maison.example ann@maison.example\r\n", ""),
        (b"From: undisclosed:;\r\n", ""),
        (b"From: <>\r\n", ""),
        (b"From: a@maison.example\r\nFrom: a@maison.example\r\n", ""),
        (b"Sender: chris@maison.example\r\n", ""),
        (b"From: " + b"x" * HEADER_SIZE_LIMIT + b" <chris@maison.example>\r\n", ""),
    ],
)
def test_mail_is_of_the_domain_of_its_only_author(block: bytes, domain: str) -> None:
    assert author_domain(split_content(block)[0]) == domain


# Keys

WEAK = b"""-----BEGIN PRIVATE KEY-----
MIIB5gIBADANBgkqhkiG9w0BAQEFAASCAdAwggHMAgEAAmEA5YlMhJ5TNKgzl0Ro
X6qGbCbkl/SMpTo0aM8drwzjBRd+XCEf5WPqlbD9Nn+flUXJyicI7f6b0R8n1BIm
0gLwnK8PJwt6ydYZcvIdJ48KYOu1hA+PZilcXlCMvmAy/9wVAgMBAAECYCSLQXVz
x4eAqAYTTBK/EXuyjX5r3uCHbcSqBO3TvWkYHnQIig15ZOXEMew1UXDwlSy750b2
t9+b3HYieYBicxMA8DzCtjRjfajF+i7jf6lTJmeD9mNnOpDPclOOhsEG2QIxAPOV
01GmdXNBqNDzMNmGrEI6C9DM8DGFbZZjDh5wTmI5ThkU39RUwykNGjPXNkBerwIx
APE8K5Q/cmrsqDs8BPcQRsVuHNxhHL+gwMJQqrbvXjOGlz7CAw3Ko1DKqEwx4TsC
ewIxAOXhri9Oo2WEv+eCu8Vu3b8avO/vmXeC7uuQzFBZuP/mCRiOpLbkz9I8NVBb
eS3CrQIxAOSu5KUJrH6eUDCvCgnoPR7F7sgfq3AhhPnwHJWEvylbSp9srhZx5XYe
V4K7ukcFZwIxAM3XyMvO6dcGdiCNGhuyDZ7v8zu5V8SR6MTbuxL/6bCy99NHsYBq
xQZ6tbYPwd3U9A==
-----END PRIVATE KEY-----
"""


def as_pem(key: PrivateKeyTypes, secret: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(secret) if secret else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, encryption)


def damage(pem: bytes) -> bytes:
    """Return an RSA key with another modulus than its primes make."""
    data = bytearray(base64.b64decode(b"".join(pem.splitlines()[1:-1])))
    data[60] ^= 1
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(data) + b"\n-----END PRIVATE KEY-----\n"


def test_keys_are_equal_if_their_public_halves_are() -> None:
    assert key_of() == key_of()
    assert key_of() != key_of("rsa")
    assert "sign" not in repr(key_of())


def test_a_key_in_the_old_form_of_rsa_is_taken() -> None:
    key = load_pem_private_key(pem("rsa"), None)
    assert as_pem(key).startswith(b"-----BEGIN RSA PRIVATE KEY-----")
    assert parse_key(as_pem(key)) == key_of("rsa")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "it holds no private key in PEM form"),
        (b"\xff\x00", "it holds no private key in PEM form"),
        (pem()[:-60], "it holds no private key in PEM form"),
        (
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "it holds no private key in PEM form",
        ),
        (as_pem(ec.generate_private_key(ec.SECP256R1())), "its key is neither of RSA nor of Ed25519"),
        (WEAK, "its RSA key has 768 bits; receivers want from 1024 to 4096, best 2048"),
        (as_pem(load_pem_private_key(pem("rsa"), None), b"secret"), "its key has a passphrase"),
        (damage(pem("rsa")), "its key is damaged"),
    ],
    ids=["empty", "binary", "cut", "public", "elliptic", "weak", "passphrase", "damaged"],
)
def test_what_cannot_sign_is_refused_in_words_for_its_owner(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        parse_key(text)
    assert caught.value.__cause__ is None
