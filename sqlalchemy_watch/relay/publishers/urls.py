"""URLs of brokers, and the options in them."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from ...errors import ConfigurationError


class Address(NamedTuple):
    """The parts of a URL."""

    scheme: str
    user: str | None
    password: str | None
    #: `host:port`, several with commas between them.
    hosts: tuple[str, ...]
    path: str
    #: The options that are the publisher's.
    options: dict[str, str]
    #: The URL without them.
    rest: str


def read(url: str, options: Collection[str], *, has_others: bool = False) -> Address:
    """Return the parts of a URL.

    :param options: the names that its query may have.
    :param has_others: True if the client knows further ones.
    :raises ConfigurationError: for a name that is none of them, and for one without hosts.
    """
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    others = [(name, value) for name, value in query if name not in options]
    if others and not has_others:
        raise ConfigurationError(
            f"to={parts.scheme}://…: {others[0][0]!r} is no option of it; there are {', '.join(sorted(options))}"
        )
    userinfo, at, hosts = parts.netloc.rpartition("@")
    for host in filter(None, hosts.split(",")):
        _, colon, port = host.rpartition(":")
        if colon and "]" not in port and not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
            raise ConfigurationError(f"to={parts.scheme}://…: {port!r} is no port")
    user, colon, password = userinfo.partition(":")
    return Address(
        scheme=parts.scheme,
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
        hosts=tuple(host for host in hosts.split(",") if host),
        path=unquote(parts.path.strip("/")),
        options={name: value for name, value in query if name in options},
        rest=urlunsplit(parts._replace(query=urlencode(others))),
    )


def whole_number(address: Address, name: str) -> int | None:
    """Return an option that is a number; None where it is not given.

    :raises ConfigurationError: it is none.
    """
    text = address.options.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigurationError(f"to={address.scheme}://…?{name}={text}: give a whole number, more than 0")
    return int(text)
