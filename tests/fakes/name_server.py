"""A name server of TXT records over real UDP: what it answers, and, run as a program, the whole of it.

`python tests/fakes/name_server.py '{"_dnsaddr.boot.example.": ["dnsaddr=..."]}'` serves at 127.0.0.1 port 53 until it
is ended, and says `ready` once it does.
"""

import json
import socket
import sys
from collections.abc import Mapping, Sequence

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

EMPTY = "empty.example."  # a name that there is, without such records
QUERY_BYTES = 4096


def answered(raw: bytes, records: Mapping[str, Sequence[str]]) -> bytes:
    """Return the answer to one query. A name without records does not exist."""
    question = dns.message.from_wire(raw)
    answer = dns.message.make_response(question)
    name = question.question[0].name.to_text()
    if name in records and question.question[0].rdtype == dns.rdatatype.TXT:
        answer.answer.append(dns.rrset.from_text_list(name, 60, "IN", "TXT", list(records[name])))
    elif name not in records and name != EMPTY:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    return answer.to_wire()


def serve(records: Mapping[str, Sequence[str]], port: int = 53) -> None:
    """Answer for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as served:
        served.bind(("127.0.0.1", port))
        print("ready", flush=True)
        while True:
            raw, client = served.recvfrom(QUERY_BYTES)
            served.sendto(answered(raw, records), client)


if __name__ == "__main__":
    serve({name: [json.dumps(text) for text in texts] for name, texts in json.loads(sys.argv[1]).items()})
