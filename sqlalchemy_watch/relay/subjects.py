"""Subjects: the names under which brokers get messages, such as `watch.public.orders.updated.7`."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping
from urllib.parse import quote, unquote

from ..errors import ConfigurationError

#: The subject of a message, unless another template is given.
SUBJECT = "watch.{schema}.{table}.{operation}.{key}"

#: What a template may name.
FIELDS = ("schema", "table", "operation", "label", "key")

#: Stands where there is no key, and in a resync no table.
NONE = "_"

#: Characters of an escaped text. A NATS server takes 4,096 bytes for the line with the subject.
MOST = 512

_HASH = 32

_LONGEST_LITERAL = 255


def escape(text: str) -> str:
    """Return a text as one token of a subject, whatever it holds.

    ASCII letters, digits, `-`, `_` and `,` stay; other characters are `%` and two hexadecimal digits for each byte of
    UTF-8, as in URLs. The text `_` is `%5F`, since `_` stands for none, and an empty one is `%`. One that is longer
    than 512 characters then is cut, and ends in `~` and 32 hexadecimal digits of its SHA-256. `unescape` undoes all but
    the cut.
    """
    if text == NONE:
        return "%5F"
    found = quote(text, safe=",", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E") or "%"
    return found if len(found) <= MOST else shortened(found, text, MOST, "~")


def unescape(token: str) -> str:
    """Return the text of a token that `escape` has made, and that it has not cut."""
    return "" if token == "%" else unquote(token, errors="surrogatepass")


def shortened(found: str, text: str, most: int, mark: str) -> str:
    """Return a name cut to a length, with a hash of the whole text at its end."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH]
    return f"{found[: most - _HASH - len(mark)]}{mark}{digest}"


class Template:
    """A text with fields in braces, from which the name of each message's place is made.

    :param text: such as `watch.{schema}.{table}.{operation}.{key}`.
    :param option: the option's name, for errors.
    :param fields: those that it may name.
    :raises ConfigurationError: for a text that names another field, and for one that is no subject.
    """

    def __init__(self, text: str, option: str = "subject", fields: tuple[str, ...] = FIELDS) -> None:
        self.text: str = text
        self._option, self._fields = option, fields
        #: Literal texts, and the fields that follow them.
        self._parts = self._parse()
        self._check()

    def render(self, values: Mapping[str, str]) -> str:
        """Return the name for these fields, which are escaped."""
        return "".join(literal + (values[field] if field else "") for literal, field in self._parts)

    @property
    def prefix(self) -> str:
        """The whole tokens before the first field, without the dot: `watch`; empty where there are none."""
        literal, field = self._parts[0]
        return literal.rpartition(".")[0] if field else literal

    @property
    def pattern(self) -> str:
        """What a NATS consumer subscribes to for all messages: `watch.*.*.*.*`."""
        tokens = self.render(dict.fromkeys(self._fields, "*")).split(".")
        return ".".join("*" if "*" in token else token for token in tokens)

    def _parse(self) -> list[tuple[str, str | None]]:
        if not isinstance(self.text, str) or not self.text:
            raise self._wrong("it must not be empty")
        try:
            found = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise self._wrong(f"it can't be read ({error})") from None
        for _, field, spec, conversion in found:
            if field is not None and (field not in self._fields or spec or conversion):
                raise self._wrong(f"{{{field}}} is no field of it")
        return [(literal, field) for literal, field, _, _ in found]

    def _check(self) -> None:
        literals = "".join(literal for literal, _ in self._parts)
        if not all(character.isprintable() and not character.isspace() for character in literals):
            raise self._wrong("whitespace and control characters can't be in it")
        if set(literals) & {"*", ">", "{", "}"}:
            raise self._wrong("'*', '>' and braces can't be in it")
        if not all(self.render(dict.fromkeys(self._fields, "x")).split(".")):
            raise self._wrong("something must stand before, between and after the dots")
        if literals.startswith(("$", "_INBOX.")):
            raise self._wrong("names that begin with '$' or '_INBOX.' are the server's own")
        if len(literals) > _LONGEST_LITERAL:
            raise self._wrong(f"it is longer than {_LONGEST_LITERAL} characters")

    def _wrong(self, rule: str) -> ConfigurationError:
        fields = ", ".join(f"{{{field}}}" for field in self._fields)
        return ConfigurationError(
            f"{self._option}={self.text!r}: {rule}; give words with dots between them, and of the fields {fields}, "
            f"as in {SUBJECT!r}"
        )
