import pytest

from node.core.address import BindAddress


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback", "url_host"),
    [
        ("127.0.0.1:8470", "127.0.0.1", 8470, True, "127.0.0.1"),
        ("127.9.9.9:1", "127.9.9.9", 1, True, "127.9.9.9"),
        ("localhost:0", "localhost", 0, True, "localhost"),
        ("[::1]:8470", "::1", 8470, True, "[::1]"),
        ("0.0.0.0:8470", "0.0.0.0", 8470, False, "127.0.0.1"),
        ("[::]:8470", "::", 8470, False, "127.0.0.1"),
        ("192.168.1.4:80", "192.168.1.4", 80, False, "192.168.1.4"),
        ("example.org:80", "example.org", 80, False, "example.org"),
        ("localhost.evil.org:80", "localhost.evil.org", 80, False, "localhost.evil.org"),
    ],
)
def test_an_address_is_parsed_and_judged(text: str, host: str, port: int, loopback: bool, url_host: str) -> None:
    address = BindAddress.parse(text)
    assert (address.host, address.port, address.loopback, address.url_host) == (host, port, loopback, url_host)
    assert BindAddress.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", ":80", "host", "host:", "host:x", "host:70000", "host:-1", "host:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no"):
        BindAddress.parse(text)
