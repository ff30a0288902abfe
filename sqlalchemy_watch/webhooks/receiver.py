"""`webhook`: a receiver that tells an endpoint of each event."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..declaring.spec import READ
from ..declaring.targets import watches_of
from ..errors import ConfigurationError, GiveUp
from ..events.event import Event
from ..events.models import name_of_model
from ..signals.coroutines import is_coroutine_function
from .answers import Pauses, WebhookFailed, read_date, read_retry_after
from .payloads import check_type, payload_of
from .sending import Answer, Sender
from .signing import read_secrets, sign
from .targets import Target, read_headers, read_proxy, read_url

#: Seconds.
_DAY = 86_400.0

#: The same for all events, or computed for each.
Url = str | Callable[[Event[Any]], str | None]
Secret = str | Sequence[str] | Callable[[Event[Any]], str | Sequence[str]]


class Webhook:
    """A receiver that tells an endpoint of each event; made by `webhook`."""

    def __init__(
        self, url: Url, secret: Secret, body: Callable[[Event[Any]], Any] | None, type_: str | None,
        headers: dict[str, str], insecure: bool, pauses: Pauses, sender: Sender,
    ) -> None:  # fmt: skip
        self._url = url if callable(url) else read_url(url, insecure=insecure)
        self._secret = secret if callable(secret) else read_secrets(secret)
        self._body, self._type, self._headers, self._insecure = body, type_, headers, insecure
        self._pauses, self._sender = pauses, sender

    def __call__(self, sender: Any, /, *, event: Event[Any]) -> None:
        """Tell the endpoint of an event.

        :raises RetryAfter: it asks for a pause.
        :raises GiveUp: it has answered 410, and wants no more events.
        :raises WebhookFailed: it has not taken the event.
        :raises ConfigurationError: for an event that came by NOTIFY, unless its watch is durable as well; for a URL, a
            secret or a body that is computed, and wrong.
        """
        if event.lsn is None and not _is_heard_by_groups(event):
            raise ConfigurationError(
                f"webhook: {name_of_model(event.model)}.{event.label} came by NOTIFY, of which each process that "
                f"listens would tell the partner, and none after a failure: declare delivery='durable' in its Watch, "
                f"and start a Listener(durable='a_group')"
            )
        target = None if event.lsn is None else self._target_of(event)
        if target is not None:
            self._tell(target, event)

    def _target_of(self, event: Event[Any]) -> Target | None:
        if isinstance(self._url, Target):
            return self._url
        url = self._url(event)
        return None if url is None else read_url(url, insecure=self._insecure)

    def _tell(self, target: Target, event: Event[Any]) -> None:
        pause = self._pauses.present(target.url, target.host, time.monotonic())
        if pause is not None:
            raise pause
        keys = self._secret if isinstance(self._secret, tuple) else read_secrets(self._secret(event))
        payload = payload_of(event, self._body, self._type)
        headers = {**self._headers, **sign(keys, event.id, int(time.time()), payload)}
        self._judge(target, self._sender.post(target, headers, payload))

    def _judge(self, target: Target, answer: Answer) -> None:
        """Raise what an answer other than 2xx is to the listener."""
        host, status = target.host, answer.status
        if 200 <= status < 300:
            self._pauses.end(target.url)
            return
        if status == 410:
            raise GiveUp(
                f"webhook to {host}: answered 410, which says that it wants no more events: disconnect the receiver, "
                f"or return None for its url"
            )
        if 300 <= status < 400:
            raise WebhookFailed(host, f"answered {status}, and redirects are not followed: give its new url", status)
        asked = answer.retry_after if status >= 400 else None
        seconds = read_retry_after(asked, read_date(answer.date) or datetime.now(UTC))
        if seconds is not None:
            raise self._pauses.begin(target.url, host, status, seconds, time.monotonic())
        raise WebhookFailed(host, f"answered {status}", status)

    def close(self) -> None:
        """Close the connections that are kept. A later event makes new ones."""
        self._sender.close()

    def __repr__(self) -> str:
        host = self._url.host if isinstance(self._url, Target) else "a url for each event"
        return f"<webhook to {host}>"


def _is_heard_by_groups(event: Event[Any]) -> bool:
    """Return True if the event's watch is durable as well, so that a consumer group tells the partner."""
    return any(
        watch.is_durable and (watch.label == event.label or event.label == READ) for watch in watches_of(event.model)
    )


def webhook(
    url: Url,
    *,
    secret: Secret,
    body: Callable[[Event[Any]], Any] | None = None,
    type: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 15.0,
    max_pause: float = 900.0,
    insecure: bool = False,
    allow_private: bool | None = None,
    proxy: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Webhook:
    """Return a receiver that sends each event to an endpoint, signed as Standard Webhooks has it::

        Order.watch.shipped.connect(webhook("https://partner.example/orders", secret=secret), name="partner")

    It is for consumer groups (`Listener(durable=)`): an answer of 2xx is what counts as taken. With any other one, or
    none, the event is tried again as the group's `RetryPolicy` has it, under the same `webhook-id`, which is the
    event's `id`. A `Retry-After` is heeded: nothing is sent to that url before, which counts as no attempt. 410 gives
    the event up at once. Events that come by NOTIFY are an error, or are left to the group where the watch is "both".

    :param url: https, without credentials; or a function of the event that returns it, for customers with endpoints of
        their own, or None to send nothing.
    :param secret: `whsec_…`, as `new_secret()` makes it; several while it is replaced, all of which sign; or a function
        of the event that returns it.
    :param body: a function of the event that returns what is sent: anything that JSON has, or a text or bytes as they
        are. Without it, `type`, `timestamp` (of the commit) and `data`, which has `identity`, `values`, `old` and
        `changed` as `Event.to_dict()` has them.
    :param type: in place of model and label, such as `order.shipped`; not together with `body`.
    :param headers: to send as well, in every call.
    :param timeout: seconds for a call as a whole.
    :param max_pause: seconds, the longest pause that `Retry-After` gets. Where an endpoint takes nothing for as long,
        further pauses count as attempts, so that the policy may park events, or give them up.
    :param insecure: True to take http for other machines than this one.
    :param allow_private: False to send nothing to addresses of private networks, and of this machine. None is True for
        one url, and False for a function, whose urls may be other people's.
    :param proxy: the URL of an HTTP proxy, which looks at addresses itself.
    :param ssl_context: with certificates of one's own; by default those of the system and of certifi are trusted.
    :raises ConfigurationError: for a wrong argument; at an event for what a function returns.
    """
    for name, function in (("url", url), ("secret", secret), ("body", body)):
        _check_function(name, function)
    if body is not None and type is not None:
        raise ConfigurationError("webhook: type is for the body that is made without body=: leave out one of them")
    check_type(type)
    for name, seconds in (("timeout", timeout), ("max_pause", max_pause)):
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= _DAY:
            raise ConfigurationError(f"webhook: {name} must be seconds, more than 0 and at most a day, not {seconds!r}")
    is_private = not callable(url) if allow_private is None else allow_private
    sender = Sender(timeout, is_private, None if proxy is None else read_proxy(proxy), ssl_context)
    return Webhook(url, secret, body, type, read_headers(headers), insecure, Pauses(max_pause), sender)


def _check_function(name: str, function: object) -> None:
    if name == "body" and function is not None and not callable(function):
        raise ConfigurationError("webhook: body must be a function of the event, or None")
    if is_coroutine_function(function):
        raise ConfigurationError(f"webhook: {name} must be a plain function: a coroutine function is not awaited")
