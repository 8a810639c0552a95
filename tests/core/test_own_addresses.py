"""What a node tells of where it is reached."""

from node.core.own_addresses import own_addresses
from protocol.addresses import Address
from protocol.ids import PeerId
from tests.places import at

ME = PeerId.from_public_key(bytes(31) + b"\1")
INTERFACES = ("127.0.0.1", "192.168.1.7", "198.51.100.4", "::1", "2001:db8::7")


def test_a_wildcard_is_told_as_every_interface_of_its_kind_without_loopback() -> None:
    told = own_addresses(ME, [at("0.0.0.0", 47470)], INTERFACES, [])
    assert set(told) == {at("192.168.1.7", 47470, ME), at("198.51.100.4", 47470, ME)}
    assert own_addresses(ME, [at("::", 1)], INTERFACES, []) == (at("2001:db8::7", 1, ME),)


def test_the_furthest_reach_is_told_first() -> None:
    told = own_addresses(ME, [at("0.0.0.0", 1)], ("192.168.1.7", "8.8.4.4"), [])
    assert told == (at("8.8.4.4", 1, ME), at("192.168.1.7", 1, ME))


def test_loopback_is_told_where_there_is_nothing_else() -> None:
    assert own_addresses(ME, [at("127.0.0.1", 5)], INTERFACES, []) == (at("127.0.0.1", 5, ME),)
    assert own_addresses(ME, [at("0.0.0.0", 5)], ("127.0.0.1",), []) == (at("127.0.0.1", 5, ME),)


def test_what_the_operator_announces_stands_instead() -> None:
    name = Address("dns", "node.example.org", 9)
    assert own_addresses(ME, [at("0.0.0.0", 1)], INTERFACES, [name, name]) == (name.of(ME),)
