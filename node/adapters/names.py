"""TXT records, asked of the machine's name servers: what a `/dnsaddr` bootstrap stands for.

One foreign library: `dnspython`, imported when the first name is asked for (0.6 s). Host names of addresses are not its
business: the system resolves them, `/etc/hosts` included.
"""

from typing import TYPE_CHECKING

from node.errors import Unreachable, WhyNot

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

LIFETIME = 5.0  # s for all servers and retries of one question
STRING_BYTES = 1024  # of one record; an address has 256 at most
STRINGS = 64  # records of one name: as many as are looked at


async def text_records(name: str, resolver: "Resolver | None" = None) -> tuple[str, ...]:
    """Return the strings of a name's TXT records, those of one record joined; at most `STRINGS`, each not too long.

    Args:
        resolver: default: the one of /etc/resolv.conf.

    Raises:
        Unreachable: the name does not exist, has no such records, or no server answered; says which.
    """
    import dns.asyncresolver  # noqa: PLC0415 -- half a second that a node without such a name does without
    import dns.exception  # noqa: PLC0415
    import dns.resolver  # noqa: PLC0415

    try:
        asked = resolver or dns.asyncresolver.Resolver()
        answer = await asked.resolve(name, "TXT", lifetime=LIFETIME)
    except dns.resolver.NXDOMAIN as error:
        raise Unreachable(f"the name {name} does not exist", why=WhyNot.NO_NAME) from error
    except dns.resolver.NoAnswer as error:
        raise Unreachable(f"the name {name} has no TXT record", why=WhyNot.NO_NAME) from error
    except (dns.exception.DNSException, OSError) as error:
        words = str(error)[:200] or type(error).__name__
        raise Unreachable(f"{name} could not be asked for: {words}", why=WhyNot.NO_NAME) from error
    joined = (b"".join(record.strings) for record in answer)
    return tuple(text.decode("ascii", "replace") for text in joined if len(text) <= STRING_BYTES)[:STRINGS]
