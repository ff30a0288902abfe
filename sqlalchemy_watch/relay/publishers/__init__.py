"""What brokers are told with: `Publisher` is what one has to be able to do, and `publisher_for` finds one by URL.

From above; each imports only from those below it, and a broker's client only where it is used:

nats, redis, kafka      brokers
protocol, urls          what all of them keep to, and how they are named
"""

from __future__ import annotations

from importlib import import_module
from urllib.parse import urlsplit

from ...errors import ConfigurationError
from ..subjects import SUBJECT
from .protocol import TIMEOUT, Publisher, Refusals, Refused, runs

__all__ = ["Publisher", "Refusals", "Refused", "publisher_for", "runs"]

#: By scheme: the module, which is named as the extra is, and its class.
_PUBLISHERS = {
    "nats": ("nats", "NatsPublisher"),
    "tls": ("nats", "NatsPublisher"),
    "redis": ("redis", "RedisPublisher"),
    "rediss": ("redis", "RedisPublisher"),
    "unix": ("redis", "RedisPublisher"),
    "kafka": ("kafka", "KafkaPublisher"),
}


def publisher_for(url: str, *, subject: str = SUBJECT, create: bool = False, timeout: float = TIMEOUT) -> Publisher:
    """Return the publisher for a URL; it connects when it is started::

        nats://[user:password@]host:4222[,host:4222][?credentials=/path]      tls:// for TLS
        redis://[[user]:password@]host:6379/0[?stream=watch&maxlen=100000]    rediss:// for TLS, unix:///path
        kafka://[user:password@]host:9092[,host:9092][/topic][?security_protocol=SASL_SSL&…]

    :param subject: the template of the messages' subjects, for NATS.
    :param create: of NATS: make the stream where it is missing.
    :param timeout: seconds within which the broker has to answer.
    :raises ConfigurationError: for a URL or an argument that can't be, and without the extra.
    """
    try:
        scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    except ValueError as error:
        raise ConfigurationError(f"to=…: the URL can't be read ({error})") from None
    if scheme not in _PUBLISHERS:
        raise ConfigurationError(
            f"to={scheme + '://…' if scheme else '…'!r}: no broker is known by it; give nats://, tls://, redis://, "
            f"rediss://, unix:// or kafka://, or a Publisher of your own"
        )
    module, name = _PUBLISHERS[scheme]
    try:
        found = getattr(import_module(f".{module}", __name__), name)
    except ImportError as error:
        raise ConfigurationError(
            f'to={scheme}://…: its client is not installed: pip install "sqlalchemy-watch[{module}]" ({error})'
        ) from error
    made: Publisher = found.from_url(url, subject=subject, create=create, timeout=timeout)
    return made
