"""One connection's bytes, sealed message by message: read ahead and opened together, sealed and written together.

Knows no libp2p, no multiplexer and no cipher's name. A message costs a cipher, a system call and a turn of the loop at
either end, whatever is in it: so what several tasks have to say in one turn of the loop goes in one, and what came in
one read is opened at once.

The cipher counts messages. One that was sealed must reach the socket whole and in order, or all that follow are
unreadable: so from sealing on, its bytes are the connection's and no longer the task's that said them. A task that is
cancelled takes back what is not yet sealed, and nothing else.
"""

from typing import Protocol

import trio

LENGTH_BYTES = 2  # before each message, big-endian (Noise's own framing in libp2p)
TAG_BYTES = 16  # that the cipher adds
MOST = (1 << 16) - 1 - TAG_BYTES  # plain bytes of one message


class Gone(Exception):
    """The connection is closed or dead."""


class Seal(Protocol):
    """Both directions of a cipher. Each call is one message, counted."""

    def encrypt(self, data: bytes) -> bytes:
        """Seal a message of at most `MOST` bytes."""
        ...

    def decrypt(self, data: bytes) -> bytes:
        """Open a message; raises whatever the library raises where it was tampered with."""
        ...


class Socket(Protocol):
    """A connected socket. One task receives."""

    def send_now(self, data: bytes | memoryview) -> int:
        """Hand over as many bytes as the kernel takes without waiting; return how many. Raises OSError."""
        ...

    async def until_writable(self) -> None:
        """Wait until it takes more. Raises OSError."""
        ...

    async def receive(self) -> bytes:
        """Return what there is, as soon as there is any; b"" at the end. Lets others run. Raises OSError."""
        ...


class SealedSocket:
    """A connection after its handshake. Any number of tasks write, one reads.

    Attributes:
        plain: what came and was not taken yet; whoever reads takes it off the front.
    """

    def __init__(self, socket: Socket, seal: Seal, *, plain: bytes, stall: float) -> None:
        """Take over a connection.

        Args:
            plain: what was opened before, and not read.
            stall: seconds that the socket may take no byte.
        """
        self.plain = bytearray(plain)
        self._socket = socket
        self._seal = seal
        self._stall = stall
        self._sealed = bytearray()  # the beginning of a message that is not here yet
        self._waiting: dict[int, bytes] = {}  # said and not sealed, in order; one for each writing task at most
        self._said = 0
        self._pressing = False  # a task waits for the socket to take what was sealed
        self._pressed = trio.Event()
        self._gone = False

    async def fill(self) -> None:
        """Wait until there is more in `plain`. Cancelled, it loses nothing.

        Raises:
            Gone: no more will come.
        """
        before = len(self.plain)
        while len(self.plain) == before:
            try:
                data = await self._socket.receive()
            except (OSError, trio.ClosedResourceError) as error:
                raise Gone(str(error)) from error
            if not data:
                raise Gone("the other end has closed the connection")
            self._sealed += data
            self._open()

    def _open(self) -> None:
        sealed, at = self._sealed, 0
        while len(sealed) - at >= LENGTH_BYTES:
            begin = at + LENGTH_BYTES
            end = begin + (sealed[at] << 8 | sealed[at + 1])
            if end > len(sealed):
                break
            self.plain += self._seal.decrypt(bytes(sealed[begin:end]))
            at = end
        del sealed[:at]

    async def write(self, data: bytes) -> None:
        """Say something, whole. Returns when it is sealed and nothing but the kernel holds it up.

        Raises:
            Gone: the connection is closed or dead.
            trio.TooSlowError: the socket took nothing for too long; nothing can be said any more.
        """
        if self._gone:
            raise Gone("the connection is closed")
        self._said += 1
        number = self._said
        self._waiting[number] = data
        try:
            await trio.lowlevel.checkpoint()  # what others say in this turn of the loop goes along
            while number in self._waiting:
                if self._pressing:
                    await self._pressed.wait()
                else:
                    await self._press()
        except trio.Cancelled:
            self._waiting.pop(number, None)
            raise
        if self._gone:
            raise Gone("the connection is closed")

    async def _press(self) -> None:
        """Seal what waits, as much as goes in one message or is in one piece, and have the kernel take all of it."""
        rest = memoryview(self._next())
        try:
            rest = rest[self._socket.send_now(rest) :]
            if rest:
                await self._press_on(rest)
        except (OSError, trio.ClosedResourceError) as error:
            self._end()
            raise Gone(str(error)) from error
        except trio.TooSlowError:
            self._end()
            raise

    async def _press_on(self, rest: memoryview) -> None:
        self._pressing = True
        try:
            with trio.CancelScope(shield=True) as scope:
                while rest:
                    scope.deadline = trio.current_time() + self._stall
                    await self._socket.until_writable()
                    rest = rest[self._socket.send_now(rest) :]
        finally:
            self._pressing = False
            self._pressed.set()
            self._pressed = trio.Event()
        if rest:
            raise trio.TooSlowError(f"the connection took no byte for {self._stall:g} s")

    def _next(self) -> bytes:
        some: list[bytes] = []
        size = 0
        for number, data in list(self._waiting.items()):
            if some and size + len(data) > MOST:
                break
            del self._waiting[number]
            some.append(data)
            size += len(data)
        plain = some[0] if len(some) == 1 else b"".join(some)
        return b"".join([self._message(plain[at : at + MOST]) for at in range(0, len(plain), MOST)])

    def _message(self, plain: bytes) -> bytes:
        sealed = self._seal.encrypt(plain)
        return len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed

    def _end(self) -> None:
        self._gone = True
        self._waiting.clear()
