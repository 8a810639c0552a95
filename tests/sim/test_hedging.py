"""Whole nodes that ask somebody else as well where a first byte is late: seen by clients, in `status` and metrics."""

import trio

from tests.sim.swarm import sim_swarm
from tests.sim.test_swarm import WHOLE, ask, three


async def test_a_node_whose_engine_hangs_delays_nobody_for_long_and_is_left_at_once(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a, servers = await three(swarm)
        for number in range(12):  # by which it knows how long first bytes take there
            assert (await ask(a, **{"x-request-id": f"w{number}"})).body == WHOLE
        for hanging, well in (("b", "c"), ("c", "b")):
            engine = servers[hanging].engine
            assert engine is not None
            usual, engine.prefill_time = engine.prefill_time, 600.0
            for number in range(4):
                began = trio.current_time()
                answer = await ask(a, **{"x-request-id": f"{hanging}{number}"})
                assert (answer.body, answer.headers["x-metainf-node"]) == (WHOLE, servers[well].peer_id)
                assert trio.current_time() - began < 4.0  # a silent peer is found hung after more than that
            await trio.sleep(0.2)
            assert engine.at_work == 0
            engine.prefill_time = usual
        _, status = await a.call("GET", "/status", on="control")
        hedged = status["requests"]["hedged"]
        assert 1 <= hedged <= 5
        assert status["routing"]["hedges_won"] == status["routing"]["hedged"] == hedged
        metrics = (await a.ask("GET", "/metrics", on="control")).body.decode()
        assert f"\nmetainf_route_hedged_total {float(hedged)}\n" in metrics
        outcomes = []
        for hanging in ("b", "c"):  # which of the two is asked first at all is luck
            for number in range(4):
                _, told = await a.call("GET", f"/explain/{hanging}{number}", on="control")
                outcomes += [each["outcome"] for each in told["attempts"]]
        assert outcomes.count("outrun") == hedged
