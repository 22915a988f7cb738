"""DKIM keys for tests, and two judges of signatures that are not ours: dkimpy and Debian's OpenDKIM."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import dkim

from relay.mail.dkim import Signer, SigningKey
from relay.mail.dkim_key import make_key, parse_key
from tests.conftest import SEARCH_PATH
from tests.support.service import run_program

DOMAIN = "maison.example"
KINDS = ("rsa", "ed25519")
Records = Mapping[str, str]
"""The TXT records that publish keys, by name."""


@functools.cache
def pem(kind: str = "ed25519") -> bytes:
    """Return a key in PEM form, the same each time."""
    return make_key(kind)


def key_of(kind: str = "ed25519") -> SigningKey:
    return parse_key(pem(kind))


def signer(kind: str = "ed25519", domain: str = DOMAIN) -> Signer:
    return Signer(domain, kind, key_of(kind))


def record_of(*signers: Signer) -> Records:
    return {f"{each.selector}._domainkey.{each.domain}": each.key.record for each in signers}


@functools.cache
def published() -> Records:
    """Return the records of ``DOMAIN``; the selector of a key is its kind."""
    return record_of(*map(signer, KINDS))


def write_key(path: Path, kind: str = "ed25519") -> Path:
    """Put a key into a file."""
    path.write_bytes(pem(kind))
    path.chmod(0o600)
    return path


def toml_of(folder: Path, *, kind: str = "ed25519", domain: str = DOMAIN) -> str:
    """Return the table that signs a domain's mail, its key put into a file."""
    key = write_key(folder / f"{domain}.pem", kind)
    return f'[dkim."{domain}"]\nselector = "{kind}"\nkey_file = "{key}"\n'


def find_fault(content: bytes, records: Records | None = None) -> str:
    """Return why dkimpy finds the topmost signature of a message wrong; else ""."""
    known = published() if records is None else records

    def ask(name: bytes, timeout: int) -> bytes:
        return known.get(name.decode().rstrip("."), "").encode()

    try:
        return "" if dkim.DKIM(content).verify(dnsfunc=ask) else "no signature that is right"
    except dkim.DKIMException as error:
        return str(error)


async def judge(contents: Iterable[bytes], folder: Path, records: Records | None = None) -> list[str]:
    """Return what OpenDKIM says of each message: the domain of its good signature, or its own words."""
    known = published() if records is None else records
    folder.mkdir(exist_ok=True)
    keys, settings = folder / "keys", folder / "opendkim.conf"
    keys.write_text("".join(f"{name} {record}\n" for name, record in known.items()))
    settings.write_text(f"TestPublicKeys {keys}\nMode v\n")
    files = list(_write(contents, folder))
    program = shutil.which("opendkim", path=SEARCH_PATH)
    assert program is not None
    done = await run_program(program, "-x", settings, "-t", ",".join(map(str, files)))
    words = dict(re.findall(r"^opendkim: (\S+?\.eml): (.*)$", done.out + done.err, re.MULTILINE))
    said = [words[str(file)] for file in files]
    good = [re.fullmatch(r"verification \(s=\S+, d=(\S+), \d+-bit key\) succeeded", text) for text in said]
    return [match[1] if match else text for match, text in zip(good, said, strict=True)]


def _write(contents: Iterable[bytes], folder: Path) -> Iterator[Path]:
    for number, content in enumerate(contents):
        file = folder / f"{number}.eml"
        file.write_bytes(content)
        yield file
