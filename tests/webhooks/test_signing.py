"""Secrets and signatures."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from sqlalchemy_watch import ConfigurationError
from sqlalchemy_watch.webhooks import new_secret, webhook
from sqlalchemy_watch.webhooks.signing import read_secrets, sign

from .partner import SECRET


def test_the_signature_is_that_of_the_published_test_vector() -> None:
    payload = b'{"test": 2432232314}'
    headers = sign(read_secrets(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, payload)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("payload", ["", "{}", "\u2028 ä 😀 \n\t\0", "x" * 100_000])
def test_signatures_are_those_of_the_standards_own_library(payload: str) -> None:
    secret, now = new_secret(), datetime.now(UTC).replace(microsecond=0)
    headers = sign(read_secrets(secret), "1-2", int(now.timestamp()), payload.encode())
    assert headers["webhook-signature"] == Verifier(secret).sign("1-2", now, payload)
    Verifier(secret).verify(payload, headers, json_parse=False)


def test_each_secret_signs_while_one_is_replaced() -> None:
    old, new = new_secret(), new_secret()
    headers = sign(read_secrets([new, old]), "1-2", int(datetime.now(UTC).timestamp()), b"{}")
    for secret in (old, new):
        assert Verifier(secret).verify(b"{}", headers) == {}
    assert headers["webhook-signature"].count(" ") == 1


def test_a_new_secret_is_another_one_each_time() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(len(read_secrets(secret)[0]) == 32 for secret in made)


def test_a_secret_may_be_without_padding() -> None:
    secret = "whsec_" + base64.b64encode(b"x" * 25).decode()
    assert secret.endswith("=")
    assert read_secrets(secret.rstrip("=")) == (b"x" * 25,)


def encoded(length: int) -> str:
    return "whsec_" + base64.b64encode(b"s3cr3t" * 20)[: length * 4 // 3].decode()


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (None, "secret must be a text or several, not NoneType"),
        ((), "secret must be a text or several, not an empty list"),
        (b"whsec_x", "secret must be a text or several, not bytes"),
        ([SECRET, 7], "a secret must be a text, not int"),
        ("", "does not begin with 'whsec_'"),
        ("s3cr3t-and-long-enough-for-anybody", "does not begin with 'whsec_'"),
        ("whsk_" + SECRET[6:], "is an asymmetric key"),
        ("whsec_s3cr3t!", "is not base64"),
        ("whsec_ä", "is not base64"),
        (encoded(12), "has 12 bytes"),
        (encoded(66), "has 66 bytes"),
        ([SECRET, encoded(12)], "has 12 bytes"),
    ],
)
def test_a_secret_that_is_none_is_refused_at_declaration_and_not_shown(secret: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        webhook("https://partner.example", secret=secret)
    message = str(caught.value)
    assert message.startswith("webhook: ")
    assert words in message
    assert "24 to 64 random bytes" in message
    assert "s3cr3t" not in message
    assert "czNjcjN0" not in message  # base64 of it
