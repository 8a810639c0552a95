"""What stands on the engine's command line and in its environment, and what must not."""

from pathlib import Path
from typing import Any

from node.adapters.engine.command import Launch, arguments, environment
from node.adapters.engine.install import EngineInstall
from node.core.strategy import Strategy
from node.ports import Endpoint, LaunchPlan

CPU = EngineInstall(build="cpu", vllm="0.32.0", openmp=Path("/env/lib/libiomp5.so"), embedded=True)
CUDA = EngineInstall(build="cuda", vllm="0.33.0", openmp=None, embedded=False)
PLAN = LaunchPlan(
    model="/models/m", served_name="m", strategy=Strategy(max_num_seqs=4), extra_arguments=("--port", "1")
)


def launch(install: EngineInstall | None = CPU, **changes: Any) -> Launch:
    return Launch(
        command=("/env/bin/python", "-m", "vllm"),
        install=install,
        endpoint=Endpoint(host="127.0.0.1", port=4711, api_key="secret"),
        model="/models/m",
        offline=True,
        kv_cache_bytes=1 << 28,
        threads=3,
        **changes,
    )


def test_the_key_is_in_the_environment_and_not_on_the_command_line() -> None:
    assert environment(PLAN, launch(), {})["VLLM_API_KEY"] == "secret"
    assert not any("secret" in argument for argument in arguments(PLAN, launch()))


def test_remote_media_and_remote_code_are_off_unless_set() -> None:
    line = arguments(PLAN, launch())
    assert line[line.index("--allowed-media-domains") + 1].endswith(".invalid")
    assert "--trust-remote-code" not in line
    open_line = arguments(PLAN, launch(allow_remote_media=True, trust_remote_code=True))
    assert "--allowed-media-domains" not in open_line
    assert "--trust-remote-code" in open_line


def test_the_operators_own_flags_are_last_and_the_strategys_before_them() -> None:
    line = arguments(PLAN, launch())
    assert line[-2:] == ("--port", "1")
    assert line.index("--max-num-seqs") < len(line) - 2


def test_cpu_flags_stay_on_cpu() -> None:
    assert "--enforce-eager" in arguments(PLAN, launch(CPU))
    assert {"--enforce-eager", "--distributed-executor-backend"}.isdisjoint(arguments(PLAN, launch(CUDA)))
    on_cpu, on_gpu = environment(PLAN, launch(CPU), {}), environment(PLAN, launch(CUDA), {})
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["LD_PRELOAD"]) == ("3", "/env/lib/libiomp5.so")
    assert {"OMP_NUM_THREADS", "LD_PRELOAD"}.isdisjoint(on_gpu)


def test_the_owners_secrets_and_python_settings_stay_at_home() -> None:
    inherited = {
        "PATH": "/bin",
        "HF_HOME": "/models",
        "CUDA_VISIBLE_DEVICES": "1",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PYTHONPATH": "/evil",
        "LD_PRELOAD": "/evil.so",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",
    }
    kept = set(environment(PLAN, launch(CUDA), inherited)) & set(inherited)
    assert kept == {"PATH", "HF_HOME", "CUDA_VISIBLE_DEVICES", "VLLM_LOGGING_LEVEL"}


def test_a_local_model_never_asks_a_hub() -> None:
    assert environment(PLAN, launch(), {})["HF_HUB_OFFLINE"] == "1"
