"""Noticing clients that leave while nobody reads from them, without a task for each.

Knows sockets and nothing of requests. While a request is answered its connection's task waits for the engine, and the
client's bytes wait in the kernel. That the client has closed its side, or is gone altogether, Linux tells even so,
ahead of those bytes (EPOLLRDHUP, epoll_ctl(2)). One task waits for all of them, and is woken for nothing else: what a
request costs is not touched.
"""

import select
from collections.abc import Callable

import trio

AT_ONCE = 64  # departures told in one go, after which others have their turn
LEAVES = select.EPOLLRDHUP | select.EPOLLONESHOT  # EPOLLHUP and EPOLLERR are told unasked


class Departures:
    """Watches sockets for their far side's leaving. `run` is the one task; `close` once it has ended."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._told: dict[int, Callable[[], None]] = {}  # by descriptor

    def watch(self, descriptor: int, left: Callable[[], None]) -> None:
        """Have `left` called once, when the far side has closed or broken off. It returns at once and raises nothing.

        Raises:
            OSError: the system watches no more.
        """
        self._epoll.register(descriptor, LEAVES)
        self._told[descriptor] = left

    def forget(self, descriptor: int) -> None:
        """Watch no longer; to be called before the socket is closed. Safe where it is not watched."""
        if self._told.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Tell of departures until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for descriptor, _ in self._epoll.poll(0, AT_ONCE):
                left = self._told.get(descriptor)
                if left is not None:
                    left()

    def close(self) -> None:
        """Watch nobody any more."""
        self._told.clear()
        self._epoll.close()
