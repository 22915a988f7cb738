"""Certificates made in the test run, and an authority that relays trust for as long as a test lasts."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme


@dataclass(frozen=True)
class Authority:
    """Signs certificates of servers; ``folder`` is for their files."""

    ca: trustme.CA
    folder: Path

    @classmethod
    def trusted(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
        """Return an authority that OpenSSL trusts instead of those of the system."""
        made = cls(trustme.CA(), folder)
        made.ca.cert_pem.write_to_path(str(folder / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))
        return made

    def context(
        self, *names: str, not_before: dt.datetime | None = None, not_after: dt.datetime | None = None
    ) -> ssl.SSLContext:
        """Return the context of a server with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names, not_before=not_before, not_after=not_after).configure_cert(context)
        return context

    def self_signed(self) -> ssl.SSLContext:
        """Return the context of a server that vouches for itself."""
        own = trustme.CA()
        own.cert_pem.write_to_path(str(self.folder / "own-cert.pem"))
        own.private_key_pem.write_to_path(str(self.folder / "own-key.pem"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "own-cert.pem", self.folder / "own-key.pem")
        return context

    def files(self, *names: str) -> tuple[Path, Path]:
        """Return certificate chain and key of a server with a certificate for these names."""
        issued = self.ca.issue_cert(*names)
        chain, key = self.folder / "server-chain.pem", self.folder / "server-key.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return chain, key
