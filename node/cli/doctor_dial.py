"""Dialling bootstraps as a node does, for `metainf doctor` where no node runs. Brings the transport along.

The identity is one of the moment: nobody is told that this node was here, and nobody takes it for this node.
"""

import logging
import secrets
from collections.abc import Sequence

import structlog
import trio

from node.adapters.names import text_records
from node.adapters.p2p.host import P2pHost, open_host
from node.adapters.p2p.private import SwarmKey
from node.core.bootstraps import Bootstraps, DnsAddr, Row, parse_dnsaddr
from node.core.membership import Membership
from node.errors import Unreachable, WhyNot
from node.services.resolve import stands_for
from node.telemetry import hush_libraries
from protocol.addresses import Address, parse_address

WHOLE = 20.0  # s for all of them together: names first, then dials of 5 s side by side
AT_ONCE = 32  # dials


def dial_all(texts: Sequence[str], membership: Membership | None = None) -> list[Row]:
    """Return a row for each address and name, as `Bootstraps.facts` has them: `connected`, or why not.

    Args:
        membership: the private swarm whose key is used; None: the public swarm.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    hush_libraries()
    return trio.run(_dial_all, texts, membership)


async def _dial_all(texts: Sequence[str], membership: Membership | None) -> list[Row]:
    addresses = [each for text in texts if (each := parse_address(text)) is not None and each.peer is not None]
    names = [each for text in texts if (each := parse_dnsaddr(text)) is not None]
    rows: list[Row] = [_unreadable(text) for text in texts if not _readable(text)]
    private = None if membership is None else SwarmKey(swarm=str(membership.swarm), key=membership.key)
    async with open_host(secrets.token_bytes(32), [], private=private) as host:
        account = Bootstraps(host.me, addresses, names)
        with trio.move_on_after(WHOLE):
            lanes = trio.CapacityLimiter(AT_ONCE)
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(_dial, host, address, account, lanes)
                for name in names:
                    nursery.start_soon(_resolve, host, name, account, lanes)
        return rows + account.facts(host.connected(), trio.current_time())


def _readable(text: str) -> bool:
    address = parse_address(text)
    return (address is not None and address.peer is not None) or parse_dnsaddr(text) is not None


def _unreadable(text: str) -> Row:
    return {
        "address": text[:200],
        "by": None,
        "state": "failing",
        "why": WhyNot.OTHER.value,
        "error": "this is no address of a node, which is written as /ip4/192.0.2.1/tcp/47470/p2p/12D3Koo...",
    }


async def _resolve(host: P2pHost, name: DnsAddr, account: Bootstraps, lanes: trio.CapacityLimiter) -> None:
    try:
        addresses = await stands_for(name, text_records)
    except Unreachable as error:
        account.unresolved(name, error.why, error.message, trio.current_time())
        return
    account.resolved(name, addresses, trio.current_time())
    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(_dial, host, address, account, lanes)


async def _dial(host: P2pHost, address: Address, account: Bootstraps, lanes: trio.CapacityLimiter) -> None:
    async with lanes:
        try:
            await host.dial(address)
        except Unreachable as error:
            account.ended(address, error.why, error.message, trio.current_time())
        else:
            account.ended(address, None, "", trio.current_time())
