"""What one node bears of its peers: every bound of the p2p adapter with its reason. Knows no libp2p."""

from dataclasses import dataclass

from node.adapters.p2p.origin import Network

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class P2pLimits:
    """Bounds and deadlines. Times in seconds, sizes in bytes.

    Attributes:
        inbound: established connections that others opened. One costs some 60 KB and five tasks.
        handshakes: inbound connections that have not yet shown who they are. One takes 3 ms of CPU.
        inbound_per_address, handshakes_per_address: of one IPv4 address or one /64 of IPv6. A household or a class
            room behind one address has fewer nodes.
        inbound_per_subnet: likewise, of one /24 of IPv4 or one /48 of IPv6 of the public network: half of all places
            stay for everybody else.
        handshakes_per_second, _subnet, _address, _suspects: that are begun at all: in all, per subnet, per address, and
            for all addresses together whose handshakes failed lately; four times as many at once. One takes 3 ms, so
            all together are a fifth of a core, and those of suspects a fortieth. A swarm of 250 that all come back to
            one node at once are in within four seconds.
        trusted: networks that many peers share (a proxy of the operator's own): not counted per address, not refused.
        per_peer: connections with one peer, both directions: two that dialled each other at once, and a margin for
            one whose old connection is dead and not yet noticed. The oldest goes.
        streams: streams that one connection's peer holds open with us. A neighbour has gossip, the directory and a
            few of each protocol; 256 are prompts at once, and a margin is for those that end here a moment later than
            there. One that rests costs some 20 KB.
        streams_all: that all peers together hold open with us, some 160 MB. Beyond it, whoever's address has more than
            its share gets no more.
        opened: streams that we hold open on one connection; who wants another waits. Fewer than `streams`: what is
            beyond those is reset.
        unread: of one stream. The credit that we give out begins at 256 KiB and is doubled for fast readers up to this.
        unread_ours: of all streams of a connection that we opened: answers whose clients are slow. What the credit for
            as many as there may be comes to, the grown ones included.
        unread_theirs: of all that the peer opened. Their handlers read at once; 96 streams' first credit, and a margin.
        unread_all: of all connections together. Beyond it the largest connection ends of the address that holds most.
        handshake_seconds: from the accepted socket to the multiplexed connection. 200 ms round trips need 1.5 s.
        negotiate_seconds: for naming the protocol of a new stream.
        dial_seconds: for one address, from the SYN to the multiplexed connection.
        dials: addresses tried at once; a peer has a handful.
        dial_pause: no new attempt by libp2p itself so soon after all addresses of a peer failed.
        idle_seconds: an inbound connection without any stream.
        quiet_seconds: an inbound connection on which the peer says nothing, whatever streams it keeps open. Neighbours
            say something in each interval of adverts, half an hour apart where a swarm has 9,000 nodes.
        probe_seconds, probe_patience: how often a connection is asked whether it lives, and how long it may ponder.
        stall_seconds: a connection whose socket takes no byte.
        send_seconds: a stream whose reader takes no byte.
        linger_seconds: after the last word of a handler, for the peer to read it and to finish too.
        close_seconds: for the last words of a stream or a connection.
        pooled: idle streams that are kept, per peer and protocol, for `pooled_seconds`. To open one takes two round
            trips more and ten times the CPU of a message, at both ends.
    """

    inbound: int = 256
    handshakes: int = 64
    inbound_per_address: int = 32
    inbound_per_subnet: int = 128
    handshakes_per_address: int = 16
    handshakes_per_second: float = 64.0
    handshakes_per_second_subnet: float = 24.0
    handshakes_per_second_address: float = 8.0
    handshakes_per_second_suspects: float = 8.0
    trusted: tuple[Network, ...] = ()
    per_peer: int = 3
    streams: int = 384
    streams_all: int = 8192
    opened: int = 320
    unread: int = 1 * MIB
    unread_ours: int = 128 * MIB
    unread_theirs: int = 32 * MIB
    unread_all: int = 512 * MIB
    handshake_seconds: float = 5.0
    negotiate_seconds: int = 5
    dial_seconds: float = 5.0
    dials: int = 8
    dial_pause: float = 10.0
    idle_seconds: float = 120.0
    quiet_seconds: float = 3600.0
    probe_seconds: float = 15.0
    probe_patience: float = 15.0
    stall_seconds: float = 5.0
    send_seconds: float = 30.0
    linger_seconds: float = 10.0
    close_seconds: float = 1.0
    pooled: int = 64
    pooled_seconds: float = 60.0


DEFAULT_LIMITS = P2pLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What a node lends of itself to those who cannot be reached, and how long it waits for a relay. Seconds and bytes.

    Attributes:
        reservations: nodes that may be called through this one. One costs a connection and 100 bytes.
        reservations_per_origin: of one IPv4 address or one /64 of IPv6: a household has fewer nodes.
        reservation_seconds: a reservation's life. Renewed at half of it, by one message there and one back.
        circuits: connections that pass through this node at once. One costs two streams, two tasks, 64 KiB.
        circuits_per_peer: of one peer, calling or called.
        circuit_seconds, circuit_bytes: of one circuit, both directions together: weeks of tokens, minutes of bulk.
        bytes_per_second: for all circuits together; each has its turn, whoever has more to say waits longer.
        piece: bytes of one turn. 64 circuits that all have something to say wait 0.25 s for each other.
        step_seconds: for an answer of the other end: of the relay, or of who is called.
        stall_seconds: a relayed connection that takes no byte. Longer than a socket's, because a relay makes it wait.
        retired_seconds: after which a relayed connection is closed although something still runs on it, where there
            is a direct one. As long as the longest answer that a client waits for.
    """

    reservations: int = 128
    reservations_per_origin: int = 8
    reservation_seconds: float = 600.0
    circuits: int = 64
    circuits_per_peer: int = 8
    circuit_seconds: float = 7200.0
    circuit_bytes: int = 1024 * MIB
    bytes_per_second: float = 4.0 * MIB
    piece: int = 16 * KIB
    step_seconds: float = 5.0
    stall_seconds: float = 20.0
    retired_seconds: float = 1800.0


DEFAULT_RELAY_LIMITS = RelayLimits()
