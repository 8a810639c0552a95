"""Adverts as questions: what records tell of a machine, how far anybody's word goes, and who is like whom."""

from dataclasses import fields, replace
from math import log
from statistics import median_low
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core import peer_cells
from node.core.own_records import Setting
from node.core.peer_cells import (
    ALONE,
    BELIEVED,
    COUNT_ALONE,
    MODEL_ALONE,
    MODEL_BY_NAME,
    MODEL_UNKNOWN,
    NAME_ONLY,
    OURS,
    ROOMS,
    SAME_DEVICE,
    SETTINGS,
    STRATEGY_UNKNOWN,
    Cell,
    Known,
    capped,
    model_by_name,
    own_cell,
    setting_of,
)
from node.core.question import question
from node.core.strategy import DEFAULT, EXTERNAL, TOKEN_CHARACTERS, Strategy, to_plain
from protocol import limits
from protocol.advert import Accelerator, Advert, ModelOffer
from protocol.advert import Engine as Serves
from protocol.advert import Hardware as Claimed
from protocol.ids import PeerId
from protocol.performance import Benchmark, Hardware
from tests.protocol import performance_samples, samples, swarm_samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL

ANNE, BERT = samples.AUTHOR, swarm_samples.OTHER
OTHERS = [PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(8)]
SETTING = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)
OFFER = ModelOffer(name=MODEL.name or "", digest=MODEL.digest, max_length=4096)
CLAIMED = Claimed(accelerators=(Accelerator(name=HARDWARE.name, count=2, memory_bytes=HARDWARE.memory_bytes),))
GEMV = "hardware.measured_gemv_bytes_per_s"


def advert(**changes: Any) -> Advert:
    fields: dict[str, Any] = {
        "models": (OFFER,),
        "hardware": CLAIMED,
        "engine": Serves(name="vllm", version="0.32.0"),
        "strategy": to_plain(Strategy(max_num_seqs=64)),
    }
    return swarm_samples.advert_body(**(fields | changes))


def cell(known: Known, said: Advert) -> Cell:
    return known.cell(said, said.models[0])


def reading(gemv: int) -> Setting:
    """Return the setting of a machine that reads so fast."""
    return replace(SETTING, benchmark=Benchmark(gemv_bf16_bytes_per_s=gemv))


def test_a_peer_whose_machine_and_model_others_know_too_is_asked_about_as_own_engines_are() -> None:
    known = Known()
    for author in (ANNE, BERT):
        known.hear(author, [SETTING])
    found = cell(known, advert())
    (own,) = question(replace(SETTING, model=replace(MODEL, max_length=4096)), None, [Strategy(max_num_seqs=64)])
    spreads = {name for name in own if "_mad_" in name}
    assert found.row == {name: own[name] for name in own if name.startswith(ROOMS) and name not in spreads}
    assert found.doubt == 0.0


def test_peers_that_are_alike_share_a_cell_and_others_do_not() -> None:
    known = Known()
    known.hear(ANNE, [SETTING])
    known.hear(BERT, [SETTING])
    one, other = cell(known, advert()), cell(known, advert(author=BERT, name="cellar"))
    assert one.key == other.key
    assert cell(known, advert(strategy=None)).key != one.key
    assert cell(known, advert(models=(replace(OFFER, max_length=8192),))).key != one.key


def test_what_nobody_knows_is_asked_about_by_its_name_and_doubted() -> None:
    known = Known()
    found = cell(known, advert())
    assert found.row["hardware.name"] == HARDWARE.name
    assert found.row["model.parameters"] == 8_000_000_000
    assert GEMV not in found.row
    assert found.doubt == pytest.approx((NAME_ONLY**2 + MODEL_BY_NAME**2) ** 0.5)
    silent = cell(known, advert(hardware=None, engine=None, strategy=None, models=(ModelOffer(name="chat"),)))
    assert silent.row["hardware.count"] == 1
    assert silent.doubt == pytest.approx((NAME_ONLY**2 + MODEL_UNKNOWN**2 + STRATEGY_UNKNOWN**2) ** 0.5)


def test_a_device_that_others_measured_lends_its_figures_to_whoever_has_it() -> None:
    known = Known()
    for author, gemv in zip(OTHERS, (800, 900, 1000), strict=False):
        known.hear(author, [reading(gemv * 10**9)])
    found = cell(known, advert())
    assert found.row[GEMV] == 900e9
    assert found.row["hardware.count"] == 1
    assert found.doubt == pytest.approx(SAME_DEVICE)
    known.hear(OTHERS[3], [replace(reading(10**9), hardware=replace(HARDWARE, partition="1g.10gb"))])
    assert cell(known, advert()).row[GEMV] == 900e9


def test_nobody_s_machine_is_much_faster_than_others_of_its_name_and_its_own_word_alone_is_doubted() -> None:
    known = Known()
    known.hear(ANNE, [reading(9_000 * 10**9)])
    alone = cell(known, advert())
    assert alone.row[GEMV] == 9_000e9
    assert alone.doubt == pytest.approx((ALONE**2 + MODEL_ALONE**2) ** 0.5)
    known.hear(BERT, [reading(800 * 10**9)])
    assert cell(known, advert()).row[GEMV] == 1_000e9
    assert cell(known, advert()).doubt == 0.0
    known.hear(ANNE, [reading(500 * 10**9)])
    assert cell(known, advert()).row[GEMV] == 500e9


def test_times_are_capped_from_below_and_rates_from_above() -> None:
    said = {"gemv_bf16_bytes_per_s": 1000, "allreduce_64k_ns": 10, "copy_bytes_per_s": 7}
    others = {"gemv_bf16_bytes_per_s": 100, "allreduce_64k_ns": 100}
    assert capped(said, others) == {"gemv_bf16_bytes_per_s": 125, "allreduce_64k_ns": 80, "copy_bytes_per_s": 7}


def test_many_strangers_do_not_outvote_those_who_proved_themselves_nor_these_this_node() -> None:
    known = Known()
    lie = replace(MODEL, parameters=1000, layers=1)
    for author in OTHERS:
        known.hear(author, [replace(reading(10**9), model=lie)])
    assert cell(known, advert()).row["model.parameters"] == 1000
    known.hear(BERT, [replace(reading(800 * 10**9), model=replace(MODEL, layers=31))], BELIEVED)
    assert cell(known, advert()).row["model.layers"] == 31
    assert cell(known, advert()).row[GEMV] == 800e9
    known.hear(samples_me(), [reading(700 * 10**9)], OURS)
    assert cell(known, advert()).row["model.layers"] == MODEL.layers
    assert cell(known, advert()).row[GEMV] == 700e9


def samples_me() -> PeerId:
    return PeerId((8 * 99 + 9).to_bytes(32, "little"))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_whoever_is_asked_about_has_no_voice_in_what_others_say(gemv: list[int]) -> None:
    known = Known()
    for number, each in enumerate(gemv):
        author = PeerId((8 * number + 9).to_bytes(32, "little"))
        known.hear(author, [reading(each)])
    first = PeerId((9).to_bytes(32, "little"))
    others = known._others(HARDWARE, first)
    assert others == ({"gemv_bf16_bytes_per_s": median_low(gemv[1:])} if gemv[1:] else {})
    assert known._others(HARDWARE, ANNE) == {"gemv_bf16_bytes_per_s": median_low(gemv)}


@pytest.mark.parametrize("parameters", [7, 9_999_999_999])
def test_what_a_peer_says_of_its_model_counts_only_where_nobody_else_speaks(parameters: int) -> None:
    known = Known()
    known.hear(ANNE, [replace(SETTING, model=replace(MODEL, parameters=parameters))])
    assert cell(known, advert()).row["model.parameters"] == parameters
    known.hear(BERT, [SETTING])
    assert cell(known, advert()).row["model.parameters"] == MODEL.parameters


def test_a_model_without_a_digest_is_known_by_its_name() -> None:
    known = Known()
    known.hear(BERT, [SETTING])
    said = advert(models=(ModelOffer(name=OFFER.name),))
    assert cell(known, said).row["model.layers"] == MODEL.layers
    assert "model.digest" not in cell(known, said).row
    assert cell(known, said).row["model.max_length"] == MODEL.max_length


def test_what_an_author_said_before_is_forgotten_with_it() -> None:
    known = Known()
    known.hear(BERT, [SETTING])
    version = known.version
    known.hear(BERT, [SETTING])
    assert known.version == version
    known.hear(BERT, [replace(SETTING, model=replace(MODEL, name="other", digest=None))])
    assert known.version > version
    assert "model.layers" not in cell(known, advert()).row
    known.hear(ANNE, [SETTING, replace(SETTING, benchmark=Benchmark())])
    for author in OTHERS:
        known.hear(author, [replace(SETTING, benchmark=Benchmark())])
    for author in (BERT, ANNE, *OTHERS):
        known.forget(author)
    assert GEMV not in cell(known, advert()).row
    assert len(known) == 0
    assert (known._models, known._readings) == ({}, {})
    known.forget(BERT)


def test_strangers_never_take_more_room_than_there_is_nor_the_place_of_who_counts_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_cells, "AUTHORS", 3)
    known = Known()
    known.hear(BERT, [SETTING], BELIEVED)
    many = [replace(SETTING, model=replace(MODEL, layers=number)) for number in range(100)]
    for author in OTHERS:
        known.hear(author, many)
        assert len(known) <= 3
    assert cell(known, advert()).row["model.layers"] == MODEL.layers
    known.forget(BERT)
    assert cell(known, advert()).row["model.layers"] == 0
    assert len(known._settings(OTHERS[-1])) == SETTINGS
    known.hear(ANNE, [SETTING], OURS)
    known.hear(BERT, [SETTING], OURS)
    known.hear(samples_me(), [SETTING], OURS)
    known.hear(OTHERS[0], many)
    assert not known._settings(OTHERS[0])


def test_an_engine_on_the_processor_is_known_by_the_processor() -> None:
    cpu = Hardware(name="AMD EPYC", count=1, platform="cpu", memory_bytes=10**11)
    known = Known()
    known.hear(ANNE, [replace(SETTING, hardware=cpu)])
    both = replace(CLAIMED, cpu_name="AMD EPYC", cpu_cores=8, memory_bytes=10**11)
    assert cell(known, advert(hardware=both)).row["hardware.platform"] == "cpu"
    only = Claimed(accelerators=(), cpu_name="AMD EPYC", cpu_cores=8, memory_bytes=10**11)
    found = cell(Known(), advert(hardware=only))
    assert (found.row["hardware.platform"], found.row["hardware.name"]) == ("cpu", "AMD EPYC")
    assert found.row["hardware.memory_bytes"] == 10**11


def test_many_devices_are_doubted_until_a_record_shows_them() -> None:
    known = Known()
    known.hear(ANNE, [SETTING])
    known.hear(BERT, [SETTING])
    eight = replace(CLAIMED, accelerators=(replace(CLAIMED.accelerators[0], count=8),))
    said = advert(hardware=eight, strategy=to_plain(Strategy(tensor_parallel=8)))
    assert cell(known, said).doubt == pytest.approx(COUNT_ALONE * log(8))
    known.hear(ANNE, [replace(SETTING, hardware=replace(HARDWARE, count=8))])
    assert cell(known, said).doubt == 0.0


def test_devices_are_counted_as_the_engine_uses_them() -> None:
    two = advert(strategy=to_plain(Strategy(tensor_parallel=2)))
    four = advert(strategy=to_plain(Strategy(tensor_parallel=4)))
    elsewhere = advert(strategy=to_plain(EXTERNAL), engine=None)
    found = [cell(Known(), said).row["hardware.count"] for said in (advert(), two, four, elsewhere)]
    assert found == [1, 2, 2, 2]


@pytest.mark.parametrize(
    ("name", "parameters", "active", "dtype"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 8_000_000_000, None, None),
        ("Qwen/Qwen3-30B-A3B-FP8", 30_000_000_000, 3_000_000_000, "fp8"),
        ("SmolLM2-135M-Instruct", 135_000_000, None, None),
        ("Qwen2.5-1.5B-Instruct-AWQ", 1_500_000_000, None, "awq"),
        ("gpt2", None, None, None),
        ("mixtral-8x7B", None, None, None),
        ("9999B" * 3, None, None, None),
    ],
)
def test_a_model_s_name_tells_its_size(
    name: str, parameters: int | None, active: int | None, dtype: str | None
) -> None:
    found = model_by_name(name)
    assert (found.parameters, found.active_parameters, found.weight_dtype) == (parameters, active, dtype)


@pytest.mark.parametrize("said", [{"kv_cache_dtype": "-x"}, {"speculation": {"method": ".", "tokens": 1}}])
def test_a_strategy_that_no_record_could_tell_of_is_none(said: dict[str, Any]) -> None:
    found = cell(Known(), advert(strategy=said))
    assert found.row["strategy.is_default"]
    assert found.doubt > cell(Known(), advert()).doubt


WORD = st.text(st.sampled_from(sorted(TOKEN_CHARACTERS)), max_size=8)
JUNK = st.recursive(
    st.booleans() | st.integers(-10, 2**40) | WORD | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
FIELDS = [each.name for each in fields(Strategy)]
STRATEGIES = st.dictionaries(
    st.sampled_from([*FIELDS, "x"]),
    JUNK
    | st.integers(1, 64)
    | st.fixed_dictionaries({"method": WORD, "tokens": st.integers(1, 32)})
    | st.dictionaries(st.sampled_from(["draft-model", "block-size", "external"]), WORD | st.just("yes")),
    max_size=4,
)
LABEL = st.from_regex(r"[!-~]([ -~]{0,62}[!-~])?", fullmatch=True)
COUNT = st.none() | st.integers(0, limits.COUNT_MAX)
CLAIMS = st.none() | st.builds(
    Claimed,
    accelerators=st.lists(
        st.builds(Accelerator, name=LABEL, count=st.integers(1, limits.DEVICES), memory_bytes=COUNT), max_size=3
    ).map(tuple),
    cpu_name=st.none() | LABEL,
    cpu_cores=st.none() | st.integers(1, limits.DEVICES**2),
    memory_bytes=COUNT,
)
OFFERS = st.builds(
    ModelOffer,
    name=st.sampled_from(["a", "x" * 64, "org/9999.999B-A999B", "0B", "0.001m"]),
    digest=st.none() | st.just(MODEL.digest),
    max_length=st.none() | st.integers(1, limits.CONTEXT_MAX),
)


@given(STRATEGIES, CLAIMS, OFFERS)
def test_whatever_a_peer_says_makes_a_question(
    strategy: dict[str, Any], claimed: Claimed | None, offer: ModelOffer
) -> None:
    known = Known()
    known.hear(BERT, [SETTING])
    found = cell(known, advert(strategy=strategy, hardware=claimed, models=(offer,)))
    assert found.row["model.name"] == offer.name
    assert 1 <= float(found.row["hardware.count"]) <= limits.DEVICES
    assert 0 <= found.doubt < 6


def test_of_one_s_own_engine_nothing_is_doubted() -> None:
    found = own_cell(SETTING, DEFAULT)
    assert found.doubt == 0.0
    assert found.row["strategy.is_default"]
    assert found.row[GEMV] == question(SETTING, None, [DEFAULT])[0][GEMV]
    assert setting_of(performance_samples.body()).model == MODEL
