"""URLs, headers and addresses."""

from __future__ import annotations

from typing import Any

import pytest

from sqlalchemy_watch import ConfigurationError
from sqlalchemy_watch.webhooks import webhook
from sqlalchemy_watch.webhooks.targets import is_public, read_headers, read_proxy, read_url

from .partner import SECRET


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (7, "the url must be a text, not int"),
        (None, "the url must be a text, not NoneType"),
        ("", "not printable ASCII"),
        ("https://partner.example/t0ken\r\nX: y", "not printable ASCII"),
        ("https://pärtner.example/t0ken", "write a host as punycode"),
        ("https://partner.example/t0ken more", "not printable ASCII"),
        ("partner.example/t0ken", "the url must be https://host/path"),
        ("ftp://partner.example/t0ken", "the url must be https://host/path"),
        ("https:///t0ken", "the url must be https://host/path"),
        ("https://partner.example:0/t0ken", "the url must be https://host/path"),
        ("https://partner.example:99999/t0ken", "its host or its port is none"),
        ("https://partner.example:t0ken/", "its host or its port is none"),
        ("https://[::1/t0ken", "its host or its port is none"),
        ("https://user:t0ken@partner.example/", "webhook to partner.example: the url has credentials"),
        ("http://partner.example/t0ken", "webhook to partner.example: whoever is on the way reads"),
        ("http://10.0.0.1/t0ken", "use https, or insecure=True"),
    ],
)
def test_a_url_that_is_none_is_refused_at_declaration_and_not_shown(url: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        webhook(url, secret=SECRET)
    assert words in str(caught.value)
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://localhost:8000/", "http://127.0.0.1/x", "http://[::1]:80/", "https://10.0.0.1/"]
)
def test_http_is_taken_for_this_machine(url: str) -> None:
    assert read_url(url).url == url


def test_a_url_has_a_host_and_no_fragment() -> None:
    target = read_url("https://Partner.example:8443/a?b=c#d")
    assert target == ("https://Partner.example:8443/a?b=c", "partner.example", "Partner.example:8443")
    assert read_url("http://partner.example/", insecure=True).host == "partner.example"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"": "x"}, "'' is no name of a header"),
        ({"a b": "x"}, "is no name of a header"),
        ({"a\r\nb": "x"}, "is no name of a header"),
        ({7: "x"}, "7 is no name of a header"),
        ({"Webhook-Id": "x"}, "the header 'Webhook-Id' is made by the call itself"),
        ({"Content-Length": "1"}, "is made by the call itself"),
        ({"Host": "other.example"}, "is made by the call itself"),
        ({"X": "s3cr3t\r\nY: z"}, "the value of the header 'X' is no text"),
        ({"X": "s3cr3tä"}, "the value of the header 'X' is no text"),
        ({"X": 7}, "the value of the header 'X' is no text"),
    ],
)
def test_a_header_that_is_none_is_refused_and_its_value_not_shown(headers: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        webhook("https://partner.example", secret=SECRET, headers=headers)
    assert words in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_headers_of_ones_own_replace_the_defaults() -> None:
    assert read_headers({"Content-Type": "text/plain", "Authorization": "Bearer x"}) == {
        "content-type": "text/plain", "user-agent": "sqlalchemy-watch", "authorization": "Bearer x",
    }  # fmt: skip


@pytest.mark.parametrize("proxy", ["proxy:3128", "socks5://proxy", "http://", 7, "http://pröxy"])
def test_a_proxy_that_is_none_is_refused(proxy: Any) -> None:
    with pytest.raises(ConfigurationError, match="webhook: "):
        webhook("https://partner.example", secret=SECRET, proxy=proxy)


def test_a_proxys_credentials_are_told_apart_from_its_url() -> None:
    assert read_proxy("http://ada:x@proxy:3128") == ("http://proxy:3128", ("ada", "x"))
    assert read_proxy("http://proxy:3128") == ("http://proxy:3128", None)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff0e::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:a00:1::", "2001:0:a00:1::", "no address",
    ],
)  # fmt: skip
def test_addresses_of_private_networks_are_not_public(address: str) -> None:
    assert not is_public(address)
