"""Secrets, and the signatures made with them: the symmetric scheme of Standard Webhooks, `v1`."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from ..errors import ConfigurationError

_PREFIX = "whsec_"

#: Bytes of a key.
_LEAST, _MOST, _NEW = 24, 64, 32

_RULE = f"it is {_PREFIX!r} and the base64 of {_LEAST} to {_MOST} random bytes, as new_secret() makes it"


def new_secret() -> str:
    """Return a new random secret, `whsec_…`, to be kept, and told the partner."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_NEW)).decode()


def read_secrets(secret: object) -> tuple[bytes, ...]:
    """Return the keys of a secret, or of several.

    :raises ConfigurationError: for what is none. Errors never show it.
    """
    found = (secret,) if isinstance(secret, str) else secret
    if not isinstance(found, Sequence) or isinstance(found, (bytes, bytearray)) or not found:
        raise ConfigurationError(f"webhook: secret must be a text or several, not {_kind(secret)}: {_RULE}")
    return tuple(_read(each) for each in found)


def _read(secret: object) -> bytes:
    if not isinstance(secret, str):
        raise ConfigurationError(f"webhook: a secret must be a text, not {_kind(secret)}: {_RULE}")
    if secret.startswith("whsk_"):
        raise ConfigurationError(f"webhook: the secret is an asymmetric key, and signatures are symmetric: {_RULE}")
    if not secret.startswith(_PREFIX):
        raise ConfigurationError(f"webhook: the secret does not begin with {_PREFIX!r}: {_RULE}")
    text = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)  # some leave out the padding
    except (binascii.Error, ValueError):
        raise ConfigurationError(f"webhook: the secret is not base64: {_RULE}") from None
    if not _LEAST <= len(key) <= _MOST:
        raise ConfigurationError(f"webhook: the secret has {len(key)} bytes: {_RULE}")
    return key


def _kind(value: object) -> str:
    return "an empty list" if isinstance(value, (list, tuple)) and not value else type(value).__name__


def sign(keys: Sequence[bytes], message_id: str, timestamp: int, payload: bytes) -> dict[str, str]:
    """Return the headers of a message.

    :param keys: the signature is made with each: while a secret is replaced, both are good.
    :param message_id: the same for each attempt.
    :param timestamp: of the attempt, in seconds since 1970.
    """
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, payload)
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
