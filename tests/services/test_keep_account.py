"""The account: what is counted, what is held against limits, and what outlives a run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf, nan

import pytest
import trio
from trio.testing import MockClock

from node.core.spending import DAY_S, DAYS, MICRO, SpendLimits
from node.services.keep_account import EVERY, TOLD, AccountKeeper, Terms
from protocol.ids import PeerId
from tests.core.routing import PEERS
from tests.fakes.account_store import FakeAccountStore

ME, ANNE, BERT = PEERS[:3]
MORNING = 20_000 * DAY_S * MICRO + 6 * 3600 * MICRO  # 06:00 UTC


class Stage:
    def __init__(self, store: FakeAccountStore | None, limits: SpendLimits) -> None:
        self.terms: dict[PeerId, Terms] = {
            ME: Terms(price=7.2), ANNE: Terms(price=3.6), BERT: Terms(price=nan, outstanding=2.0),
        }  # fmt: skip
        self.days = 0  # that the wall's clock is ahead of the loop's
        self.account = AccountKeeper(
            me=ME, store=store, limits=limits, terms=lambda peer: self.terms.get(peer, Terms()), wall=self.wall
        )

    def wall(self) -> int:
        return MORNING + self.days * DAY_S * MICRO + round(trio.current_time() * MICRO)

    def answered(self, peer: PeerId = ANNE, seconds: float = 1000.0, *, begun: bool = True) -> None:
        self.account.over(peer, seconds, begun=begun, prompt_tokens=5, output_tokens=7)

    @property
    def owed(self) -> float:
        return float(self.account.facts()["today"]["used"]["owed"])


@asynccontextmanager
async def running(
    store: FakeAccountStore | None, *, per_day: float | None = None, per_request: float | None = None
) -> AsyncIterator[Stage]:
    it = Stage(store, SpendLimits(per_day=per_day, per_request=per_request))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.account.run)
        await trio.sleep(0.1)
        yield it
        nursery.cancel_scope.cancel()


async def test_what_peers_did_and_what_was_done_for_them_is_counted_by_who(autojump_clock: MockClock) -> None:
    async with running(None) as it:
        it.answered()
        it.answered(BERT)
        it.answered(ME)
        it.answered(begun=False)
        it.account.lent(BERT, 500.0, 40)
        it.account.lent(BERT, 500.0, 0)  # refused
        page = it.account.page()
        assert page["today"]["used"] == {
            "requests": 2, "prompt_tokens": 10, "output_tokens": 14, "device_s": 1500.0, "owed": 1.0,
        }  # fmt: skip
        assert page["today"]["lent"] == {"requests": 1, "tokens": 40, "device_s": 500.0, "due": 1.0}
        assert [each["peer_id"] for each in page["peers"]] == [str(ANNE), str(BERT)]
        assert page["peers"][1]["days_30"]["lent"]["requests"] == 1
        assert page["days_30"] == page["today"]
        assert page["kept"] is False


async def test_without_limits_anything_may_be_spent(autojump_clock: MockClock) -> None:
    async with running(FakeAccountStore()) as it:
        it.answered(seconds=1e9)
        assert it.account.allowance() is None


async def test_what_is_used_and_pledged_today_is_held_against_the_day(autojump_clock: MockClock) -> None:
    async with running(None, per_day=3.0, per_request=1.5) as it:
        assert it.account.allowance() == 1.5
        it.answered()
        it.answered()
        assert it.account.allowance() == pytest.approx(1.0)
        it.account.pledge(ANNE, 0.75, 10.0)
        assert it.account.allowance() == pytest.approx(0.25)
        it.answered(seconds=500.0)  # the answer that it was pledged for
        assert it.account.allowance() == pytest.approx(0.5)
        it.account.pledge(ANNE, 0.5, 10.0)
        it.answered(begun=False)  # refused, or never answered: nothing is owed
        assert it.account.allowance() == pytest.approx(0.5)
        it.account.pledge(BERT, 0.5, 10.0)
        await trio.sleep(61)
        assert it.account.allowance() == pytest.approx(0.5)
        it.days = 1
        assert it.account.allowance() == 1.5


async def test_a_refusal_says_the_limit_when_it_frees_and_how_to_raise_it(autojump_clock: MockClock) -> None:
    async with running(None, per_day=1.0, per_request=0.5) as it:
        it.answered()
        day = it.account.refusal(0.25)
        assert (day.status, day.type, day.code) == (429, "insufficient_quota", "insufficient_quota")
        assert day.retry_after == pytest.approx(18 * 3600, abs=2)
        for words in ("routing.spend_per_day", "Of the 1 ", "1 are used", "00:00 UTC, in 18.0 hours", "0.25"):
            assert words in day.message, words
        one = it.account.refusal(0.75)
        assert one.retry_after is None
        for words in ("routing.spend_per_request", "allows 0.5", "0.75", "max_tokens"):
            assert words in one.message, words
        assert "This answer would cost" not in it.account.refusal(inf).message
        assert it.account.facts()["refused"] == 3


async def test_sums_outlive_a_run_and_are_there_before_anything_is_spent(autojump_clock: MockClock) -> None:
    store = FakeAccountStore()
    async with running(store, per_day=3.0) as it:
        it.answered()
    assert len(store.lines) == 1  # written at the end
    again = Stage(store, SpendLimits(per_day=3.0))
    assert again.account.allowance() == 0.0  # not read yet
    async with running(store, per_day=3.0) as it:
        assert it.account.allowance() == pytest.approx(2.0)
        it.answered()
        await trio.sleep(EVERY)
        assert it.owed == pytest.approx(2.0)
        ((_, line),) = store.lines.items()
        assert line.owed_micro == 2_000_000
        assert it.account.facts()["kept"] is True


async def test_nothing_is_written_while_nothing_happens(autojump_clock: MockClock) -> None:
    store = FakeAccountStore()
    async with running(store) as it:
        it.answered()
        await trio.sleep(10 * EVERY)
        assert store.writes == 1


async def test_a_disk_that_refuses_is_tried_again_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    store = FakeAccountStore()
    async with running(store, per_day=3.0) as it:
        it.answered()
        store.full = True
        await trio.sleep(2 * EVERY)
        assert store.lines == {}
        it.answered(BERT)
        store.full = False
        await trio.sleep(120)
        assert len(store.lines) == 2


async def test_while_the_disk_cannot_be_read_nothing_is_owed_and_nothing_overwritten(autojump_clock: MockClock) -> None:
    store = FakeAccountStore()
    async with running(store, per_day=3.0) as it:
        it.answered()
    store.full = True
    async with running(store, per_day=3.0) as it:
        assert it.account.allowance() == 0.0
        assert it.account.facts()["kept"] is False
        it.answered()
        store.full = False
        await trio.sleep(120)
        assert it.account.allowance() == pytest.approx(1.0)
        assert it.owed == pytest.approx(2.0)


async def test_old_days_are_forgotten_on_the_disk_too(autojump_clock: MockClock) -> None:
    store = FakeAccountStore()
    async with running(store) as it:
        it.answered()
        await trio.sleep(EVERY)
        it.days = DAYS
        it.answered()
        await trio.sleep(EVERY)
        assert len(store.lines) == 1
        assert it.account.facts()["days_30"]["used"]["requests"] == 1


async def test_of_many_peers_those_who_are_owed_most_are_told_of(autojump_clock: MockClock) -> None:
    async with running(None) as it:
        for at, peer in enumerate(PEERS[3 : 3 + TOLD + 50]):
            it.terms[peer] = Terms(price=float(at))
            it.answered(peer)
        page = it.account.page()
        assert (len(page["peers"]), page["peers_left_out"]) == (TOLD, 50)
        assert page["peers"][0]["peer_id"] == str(PEERS[3 + TOLD + 49])
