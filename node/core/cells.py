"""Which performance records measure the same thing: their cell, for retention.

Knows no store and judges no figure. Traffic is never twice the same, so of a workload the orders of magnitude count:
else every window of an hour's traffic would be a cell of its own, and nothing would ever be outdated.
"""

from hashlib import sha256
from typing import cast

from protocol import limits, schema, wire
from protocol.performance import Performance
from protocol.records import Signed
from protocol.wire import Value


def cell_of(signed: Signed[Performance]) -> bytes:
    """Return 32 bytes, equal for records that measure one strategy for one model, machine and sort of workload."""
    body = signed.body
    model, hardware, engine = body.model, body.hardware, body.engine
    workload = schema.write(body.workload)
    parts: dict[str, Value] = {
        "origin": body.origin,
        "model": [model.name, None if model.digest is None else model.digest.digest, model.weights],
        "hardware": [hardware.name, hardware.count, hardware.cpu_name, hardware.cpu_cores],
        "engine": [engine.name, engine.version],
        "strategy": cast("Value", schema.write(body.strategy)),
        "workload": {name: _magnitude(value) for name, value in workload.items()},
    }
    return sha256(wire.encode(parts, limits.MESSAGE)).digest()


def _magnitude(value: Value) -> Value:
    return value.bit_length() if type(value) is int else value
