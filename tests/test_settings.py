import tomllib
from pathlib import Path

import pytest

from node.errors import ConfigError
from node.settings import Settings, effective, format_api_keys, parse_api_keys

ROOT = Path(__file__).parent.parent


def made(
    file_text: str | None = None, *, environment: dict[str, str] | None = None, **command_line: object
) -> Settings:
    return effective(
        command_line={key.replace("__", "."): value for key, value in command_line.items()},
        environment=environment or {},
        file_text=file_text,
        file_name="node.toml",
    ).settings


def test_without_any_source_the_defaults_stand() -> None:
    assert made() == Settings()


def test_the_command_line_beats_the_environment_which_beats_the_file() -> None:
    text = 'version = 1\n[engine]\nmodel = "file"\nserved_name = "file"\nurl = "file"\n'
    environment = {"METAINF_ENGINE_MODEL": "environment", "METAINF_ENGINE_SERVED_NAME": "environment"}
    engine = made(text, environment=environment, engine__model="line").engine
    assert (engine.model, engine.served_name, engine.url) == ("line", "environment", "file")


def test_a_list_on_the_command_line_is_given_as_in_the_environment() -> None:
    assert made(p2p__serve="everybody,!x").p2p.serve == ("everybody", "!x")
    assert made(p2p__join=("/ip4/1.2.3.4/tcp/1",)).p2p.join == ("/ip4/1.2.3.4/tcp/1",)


def test_each_value_knows_its_source() -> None:
    result = effective(
        command_line={"api.bind": "127.0.0.1:0", "engine.model": None},
        environment={"METAINF_LOG_LEVEL": "debug"},
        file_text='version = 1\n[node]\nname = "attic"\n',
        file_name="node.toml",
    )
    sources = {key: source for key, _, source in result.rows()}
    assert sources["api.bind"] == "command line"
    assert sources["log.level"] == "METAINF_LOG_LEVEL"
    assert sources["node.name"] == "node.toml"
    assert sources["engine.model"] == "default"


def test_secrets_are_not_shown() -> None:
    result = effective(command_line={"engine.url_key": "s3cret"}, environment={}, file_text=None, file_name="")
    assert "s3cret" not in str(list(result.rows()))


def test_text_from_the_environment_becomes_the_setting_s_type() -> None:
    environment = {"METAINF_ENGINE_MAX_RUNNING": "7", "METAINF_API_SHOW_IDENTITY": "false"}
    environment["METAINF_API_CORS_ORIGINS"] = "http://a,http://b"
    settings = made(environment=environment)
    assert settings.engine.max_running == 7
    assert settings.api.show_identity is False
    assert settings.api.cors_origins == ("http://a", "http://b")


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ('version = 1\n[api]\nbnd = "x"', "node.toml: there is no setting `api.bnd`", "api.bind"),
        ('version = 1\n[enigne]\nmodel = "x"', "there is no setting `enigne`", "engine"),
        ("version = 1\nmodel = 'x'", "there is no setting `model`", "engine.model"),
        ("version = 1\n[api]\nbind = 3", "`api.bind`: expected `str`, got `int`", "config show"),
        ("version = 1\n[api]\nmax_connections = 0", "`api.max_connections`: expected `int` >= 1", "config show"),
        ("version = 1\n[[api.keys]]\nname = 'x'\nsha256 = 'short'", "api.keys", ""),
        ("version = 9", "`version`", ""),
        ("[api]", "does not say its version", "version = 1"),
        ("version = 1\n[api\n", "not valid TOML", "mend"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_a_remedy(text: str, message: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(text)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_misspelt_variable_is_refused_with_the_right_one() -> None:
    with pytest.raises(ConfigError) as caught:
        made(environment={"METAINF_API_BIDN": "x"})
    assert "METAINF_API_BIND" in caught.value.remedy


def test_objectives_of_the_learner_are_words_and_mixes_and_nothing_else() -> None:
    mix = 'version = 1\n[learner]\nobjectives = ["tail", "latency:0.5,cost:0.5"]\n'
    assert made(mix).learner.objectives == ("tail", "latency:0.5,cost:0.5")
    assert made(environment={"METAINF_LEARNER_OBJECTIVES": "tail,cost"}).learner.objectives == ("tail", "cost")
    for wrong in ("fame", "latency:", "latency:-1", "latency,", ""):
        with pytest.raises(ConfigError, match=r"learner\.objectives"):
            made(f'version = 1\n[learner]\nobjectives = ["{wrong}"]\n')


def test_a_limit_of_memory_that_no_machine_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"learner\.memory_bytes"):
        made(f"version = 1\n[learner]\nmemory_bytes = {1 << 60}\n")


def test_other_programs_variables_are_left_alone() -> None:
    environment = {"METAINF_CACHE": "x", "METAINF_PYTHON": "y", "METAINF_DATA_DIR": "z", "METAINF_ENGINE": "tag"}
    assert made(environment=environment) == Settings()


def test_an_error_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="METAINF_ENGINE_MAX_RUNNING"):
        made(environment={"METAINF_ENGINE_MAX_RUNNING": "many"})


def test_the_example_file_is_valid_and_says_the_defaults() -> None:
    text = (ROOT / "deploy" / "example.toml").read_text()
    assert made(text) == Settings()


def test_the_example_file_names_every_setting() -> None:
    text = (ROOT / "deploy" / "example.toml").read_text()
    everything = tomllib.loads(
        "\n".join(
            line.removeprefix("# ") if " = " in line or line.startswith("# [[") else line for line in text.splitlines()
        )
    )
    rows = effective(command_line={}, environment={}, file_text=None, file_name="").rows()
    for key, _, _ in rows:
        table = everything
        for part in key.split("."):
            assert part in table, f"{key} is not in deploy/example.toml"
            table = table[part]


def test_api_keys_survive_their_file() -> None:
    raw = b'[{"name": "phone", "sha256": "' + b"a" * 64 + b'", "concurrent": 2}]'
    keys = parse_api_keys(raw, "f")
    assert parse_api_keys(format_api_keys(keys), "f") == keys


@pytest.mark.parametrize("raw", [b"", b"{", b"[{}]", b'[{"name": "x", "sha256": "y"}]', b"\xff"])
def test_a_damaged_key_file_is_an_error_that_names_it(raw: bytes) -> None:
    with pytest.raises(ConfigError, match=r"keys\.json"):
        parse_api_keys(raw, "keys.json")


def test_hours_and_limits_that_make_no_sense_are_refused_with_what_would() -> None:
    for text, words in (
        ('[limits]\nhours = ["25-7"]', r'limits.*hours.*"22:00-07:00"'),
        ('[limits]\nhours = ["09:00-09:00"]', r"whole day"),
        ("[limits]\nwatts = 0", r"limits\.watts"),
        ("[limits]\ntemperature_c = 20", r"limits\.temperature_c"),
        ("[limits]\nmemory_share = 1.5", r"limits\.memory_share"),
        ('[tuner]\nstart_first = "maybe"', r"tuner\.start_first.*auto\|never"),
        ("[tuner]\nhorizon_h = 0", r"tuner\.horizon_h"),
        ('[tuner]\nobjective = "fame"', r"tuner\.objective"),
    ):
        with pytest.raises(ConfigError, match=words):
            made(f"version = 1\n{text}\n")
    with pytest.raises(ConfigError, match=r"METAINF_LIMITS_HOURS.*'9'"):
        made(environment={"METAINF_LIMITS_HOURS": "22:00-06:00,9"})


def test_several_hours_may_come_from_the_environment() -> None:
    environment = {"METAINF_LIMITS_HOURS": "22:00-06:00,12:00-13:00"}
    assert made(environment=environment).limits.hours == ("22:00-06:00", "12:00-13:00")
