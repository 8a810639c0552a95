"""Drops from the tables what the rule of retention does not retain, at the price of what goes.

Knows no record but as `node.core.retention` does, whose rule this is: the same outcome, without looking at every
author each time.
"""

from collections.abc import Iterable
from heapq import heapify, heapreplace
from typing import Final

from node.adapters.store.tables import Head, Tables
from node.core.retention import Quota, in_order
from protocol.ids import PeerId, RecordName

EXPIRED_AT_ONCE: Final = 256


def retain(
    tables: Tables, quota: Quota, authors: Iterable[PeerId], *, now_us: int, touched: set[Head]
) -> set[RecordName]:
    """Drop what is too much; return the names of it. To be called in the transaction that made it so.

    Args:
        authors: those who have got records since the last time.
        touched: gets what changed.
    """
    dropped: set[RecordName] = set()
    for author in authors:
        if tables.records_of(author.key) > quota.author:
            dropped |= _cut(tables, author.key, quota.author, now_us, touched)
    if tables.totals()[0] <= quota.total:
        return dropped
    while gone := tables.drop_expired(now_us, most=EXPIRED_AT_ONCE):
        touched |= gone
    for author, left in _shares_to_cut(tables, tables.totals()[0] - quota.total).items():
        dropped |= _cut(tables, author, left, now_us, touched)
    return dropped


def _shares_to_cut(tables: Tables, surplus: int) -> dict[bytes, int]:
    """Return how many records are left to each author who has to give some up, so that `surplus` of them go.

    Who has most gives up one, and of equals who has the greatest digest; again and again. This is rule 3 of the
    retention, taken from its end: nobody beyond the `surplus` largest can be reached.
    """
    largest = [
        (-records, bytes(255 - each for each in digest), author)
        for records, digest, author in tables.authors_by_size(most=max(0, surplus))
    ]
    heapify(largest)
    left: dict[bytes, int] = {}
    for _ in range(surplus):
        records, digest, author = largest[0]
        left[author] = -records - 1
        heapreplace(largest, (records + 1, digest, author))
    return left


def _cut(tables: Tables, author: bytes, left: int, now_us: int, touched: set[Head]) -> set[RecordName]:
    entries = tables.entries(author)
    living = in_order(each for each in entries if each.expiry > now_us)
    names = {each.name for each in (*living[left:], *entries)} - {each.name for each in living[:left]}
    for name in names:
        tables.remove(name)
        touched.add((author, name.epoch.start_us))
    return names
