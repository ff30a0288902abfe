"""Where webhooks go: URLs and headers, looked at before anything is sent.

Errors name the host alone: path and query may have a secret in them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigurationError, in_one_line

#: What a URL is made of.
_URL = re.compile(r"[!-~]+")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")

#: Those that the call itself makes.
_OWN_HEADERS = {
    "host", "content-length", "transfer-encoding", "connection", "expect", "upgrade", "te", "trailer",
}  # fmt: skip

#: Characters of a host that a message has.
_MOST_SHOWN = 100


class Target(NamedTuple):
    """An endpoint."""

    url: str
    #: As messages name it.
    host: str
    #: The header of this name.
    authority: str


def read_url(url: object, *, insecure: bool = False) -> Target:
    """Return the endpoint of a URL.

    :param insecure: True to take http for other machines than this one, too.
    :raises ConfigurationError: for one that is none, or that is not taken.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"webhook: the url must be a text, not {type(url).__name__}")
    if not _URL.fullmatch(url):
        raise ConfigurationError(
            "webhook: the url has a character that is not printable ASCII: write a host as punycode, and escape the "
            "rest by percent signs"
        )
    parts, host = _split(url)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"webhook to {host}: the url has credentials: give a header, headers={{...}}")
    if parts.scheme == "http" and not insecure and not _is_this_machine(parts.hostname or ""):
        raise ConfigurationError(
            f"webhook to {host}: whoever is on the way reads what is sent by http: use https, or insecure=True"
        )
    return Target(parts._replace(fragment="").geturl(), host, parts.netloc)


def _split(url: str) -> tuple[SplitResult, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigurationError("webhook: the url can't be read: its host or its port is none") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise ConfigurationError("webhook: the url must be https://host/path, or https://host:port/path")
    return parts, in_one_line(host)[:_MOST_SHOWN]


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_proxy(url: object) -> tuple[str, tuple[str, str] | None]:
    """Return a proxy's URL without credentials, and these.

    :raises ConfigurationError: for what is no URL of a proxy.
    """
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise ConfigurationError("webhook: proxy must be a URL, such as http://proxy:3128")
    parts, _ = _split(url)
    auth = None if parts.username is None else (parts.username, parts.password or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), auth


def read_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers that are sent besides those of Standard Webhooks.

    :raises ConfigurationError: for one that is none, or that the call itself makes. Errors never show a value.
    """
    found = {"content-type": "application/json", "user-agent": "sqlalchemy-watch"}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"webhook: {name!r} is no name of a header")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("webhook-"):
            raise ConfigurationError(f"webhook: the header {name!r} is made by the call itself")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(f"webhook: the value of the header {name!r} is no text of ASCII in one line")
        found[name.lower()] = value
    return found


#: All of the internet's addresses begin with one of these, but those that a gateway translates to IPv4.
_UNICAST, _NAT64 = ipaddress.ip_network("2000::/3"), ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return True for an IP address of the internet, False for those of this machine and of private networks."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found not in _UNICAST or found.sixtofour is not None or found.teredo is not None:
            return False
    return found.is_global and not found.is_multicast
