"""The command line and the environment that start a vLLM server. Pure: values in, values out.

Knows vLLM 0.32's flags and variables and why each is set; starts nothing and looks nowhere. The flags of a
strategy come from `node.core.engine_flags`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node.adapters.engine.install import EngineInstall, clean_environment
from node.core.capabilities import UNKNOWN, Capabilities
from node.core.engine_flags import engine_flags
from node.ports import Endpoint, LaunchPlan

SERVER_MODULE = "vllm.entrypoints.openai.api_server"  # the `vllm` command of the CPU build fails; the module works
DRAIN_SECONDS = 30  # what runs may finish for so long after SIGTERM; the daemon may kill it sooner
NO_MEDIA_DOMAIN = "media.invalid"  # RFC 2606: names nothing, ever. An empty list would mean "any"
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME", "SSL_CERT_FILE", "SSL_CERT_DIR")
INHERITED_FAMILIES = (
    "CUDA_", "NVIDIA_", "NCCL_", "LD_LIBRARY_PATH", "HF_", "HUGGING", "XDG_", "VLLM_", "OMP_", "KMP_",
    "http_", "https_", "no_proxy", "HTTP_", "HTTPS_", "NO_PROXY",
)  # fmt: skip
# What would open the engine, or let something else into it, is not inherited by accident.
NEVER = (
    "VLLM_SERVER_DEV_MODE",
    "VLLM_API_KEY",
    "VLLM_ALLOW_INSECURE_SERIALIZATION",
    "VLLM_PLUGINS",
    "VLLM_MEDIA_CACHE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything about one launch that is not in its plan.

    Attributes:
        command: what stands for `python -m vllm.entrypoints.openai.api_server`.
        model: the folder or hub id to load, `embedded` already replaced.
        offline: whether the model is a local folder, so that no hub is ever asked.
        kv_cache_bytes: None leaves it to the engine.
        threads: of OpenMP, on CPU.
        capabilities: of the engine's version: how it spells flags.
    """

    command: tuple[str, ...]
    install: EngineInstall | None
    endpoint: Endpoint
    model: str
    offline: bool
    kv_cache_bytes: int | None
    threads: int = 1
    trust_remote_code: bool = False
    allow_remote_media: bool = False
    capabilities: Capabilities = UNKNOWN


def arguments(plan: LaunchPlan, launch: Launch) -> tuple[str, ...]:
    """Return the whole command line. The operator's own flags are last, where they win."""
    line = [
        *launch.command,
        *("--model", launch.model, "--served-model-name", plan.served_name),
        *("--host", launch.endpoint.host, "--port", str(launch.endpoint.port)),
        *("--shutdown-timeout", str(DRAIN_SECONDS)),
        "--enable-prompt-tokens-details",  # cached tokens in `usage`: what the learner measures prefix caching by
        "--enable-server-load-tracking",  # /load answers in 0.6 ms, /metrics in 4.6
        "--disable-uvicorn-access-log",  # one line a request, which the node counts itself
        "--disable-fastapi-docs",
    ]
    if not launch.allow_remote_media:
        line += ["--allowed-media-domains", NO_MEDIA_DOMAIN]  # else a prompt makes the engine fetch any URL
    if launch.trust_remote_code:
        line.append("--trust-remote-code")
    for flag, value in (
        ("--max-model-len", plan.max_model_len),
        ("--kv-cache-memory-bytes", launch.kv_cache_bytes),
        ("--dtype", plan.dtype),
    ):
        if value is not None:
            line += [flag, str(value)]
    build = launch.install.build if launch.install else "cpu"
    if build == "cpu":
        line += ["--distributed-executor-backend", "uni"]  # one process is enough, and starts sooner
    return (*line, *engine_flags(plan.strategy, build, launch.capabilities), *plan.extra_arguments)


def environment(plan: LaunchPlan, launch: Launch, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's whole environment.

    It inherits by list: an engine that loads strangers' weights need not know the secrets of its owner's shell.
    The key of the API travels here and not on the command line, which every user of the machine can read.
    """
    kept = {
        name: value
        for name, value in clean_environment(inherited).items()
        if (name in INHERITED or name.startswith(INHERITED_FAMILIES)) and name not in NEVER
    }
    own = {
        "PYTHONUNBUFFERED": "1",  # the log's last lines are the ones that tell why it died
        "PYTHONSAFEPATH": "1",  # nothing in the working folder may stand in for a module
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if launch.endpoint.api_key is not None:
        own["VLLM_API_KEY"] = launch.endpoint.api_key
    if launch.offline:
        own["HF_HUB_OFFLINE"] = "1"
        own["TRANSFORMERS_OFFLINE"] = "1"
    if launch.install is not None and launch.install.build == "cpu":
        own |= _cpu_environment(launch.install.openmp, launch.threads)
    return {**kept, **own, **plan.environment}


def _cpu_environment(openmp: Path | None, threads: int) -> dict[str, str]:
    values = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(threads),
        "KMP_BLOCKTIME": "5",  # ms that an idle thread spins: vLLM's own choice; the default is 200, felt by the owner
    }
    if openmp is not None:
        values["LD_PRELOAD"] = str(openmp)  # without it n-gram speculation is 14 to 50 times slower
    return values
