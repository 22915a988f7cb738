"""Private keys for DKIM, from and to PEM. This is imported only where there is a key: cryptography is big."""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from relay.mail.dkim import SigningKey

RSA_BITS = 2048
"""Of a new key: what all receivers verify, and what DNS still takes well (RFC 8301 section 3.2)."""
FEWEST_BITS, MOST_BITS = 1024, 4096
"""Of an RSA key that receivers must accept (RFC 8301 section 3.2)."""


def parse_key(pem: bytes) -> SigningKey:
    """Return the private key of a PEM file. Raises ValueError, with words for the owner of the file."""
    try:
        # To look for primes takes half a second on a small machine; a trial shows the same.
        key = load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise ValueError("its key has a passphrase, which nobody could type here; store it without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it holds no private key in PEM form") from None
    match key:
        case RSAPrivateKey():
            return _rsa_key(key)
        case Ed25519PrivateKey():
            public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            return SigningKey("ed25519", base64.b64encode(public).decode(), key.sign)
    raise ValueError("its key is neither of RSA nor of Ed25519, and DKIM knows no others")


def make_key(kind: str) -> bytes:
    """Return a new private key in PEM form, of the kind "rsa" or "ed25519"."""
    key = generate_private_key(65537, RSA_BITS) if kind == "rsa" else Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _rsa_key(key: RSAPrivateKey) -> SigningKey:
    if not FEWEST_BITS <= key.key_size <= MOST_BITS:
        raise ValueError(
            f"its RSA key has {key.key_size} bits; receivers want from {FEWEST_BITS} to {MOST_BITS}, best"
            f" {RSA_BITS}"
        )
    public, trial = key.public_key(), bytes(SHA256.digest_size)

    def sign(digest: bytes) -> bytes:
        return key.sign(digest, PKCS1v15(), Prehashed(SHA256()))

    try:
        public.verify(sign(trial), trial, PKCS1v15(), Prehashed(SHA256()))
    except (InvalidSignature, ValueError):
        raise ValueError("its key is damaged") from None
    text = base64.b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return SigningKey("rsa", text.decode(), sign)
