"""The processor as Linux describes it: name, instruction sets, caches, governor, a container's limit.

Reads /proc/cpuinfo, /sys and the control group, and nothing else; knows no library. What cannot be read is None.
"""

import platform
import re
from pathlib import Path

from node.core.profile import Cpu

# What kernels of inference engines are chosen by. The other hundred flags say nothing about them.
ISA = frozenset(
    {
        *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx_ne_convert"),
        *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx10"),
        *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
        *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16", "sme"),
    }
)
READ_LIMIT = 4 << 20  # bytes of one file: /proc/cpuinfo has 2 KB a core
NAME_CHARS = 128


def survey(*, cores: int, memory_bytes: int, root: Path = Path("/")) -> Cpu:
    """Return what this machine's processor is.

    Args:
        cores, memory_bytes: that this process may use; the operating system's adapter knows them.
        root: where /proc and /sys are.
    """
    blocks = [_fields(block) for block in _read(root / "proc/cpuinfo").split("\n\n") if block.strip()]
    first = blocks[0] if blocks else {}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    sockets = {(block["physical id"], block["core id"]) for block in blocks if {"physical id", "core id"} <= set(block)}
    frequency = root / "sys/devices/system/cpu"
    maxima = [
        int(text) for text in _read_all(frequency, "cpu[0-9]*/cpufreq/scaling_max_freq") if text.isdigit()
    ]  # in kHz
    return Cpu(
        architecture=platform.machine(),
        cores=cores,
        memory_bytes=memory_bytes,
        name=(first.get("model name") or "")[:NAME_CHARS] or None,
        physical_cores=len(sockets) or None,
        quota_cores=_quota(root),
        isa=tuple(sorted(flags & ISA)),
        cache_bytes=_last_level_cache(frequency),
        governors=tuple(sorted(set(_read_all(frequency, "cpu[0-9]*/cpufreq/scaling_governor")))),
        clock_max_mhz=max(maxima) // 1000 if maxima else None,
        virtual="hypervisor" in flags if flags and "flags" in first else None,
    )


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _read(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return handle.read(READ_LIMIT).decode(errors="replace")
    except OSError:
        return ""


def _read_all(folder: Path, pattern: str) -> list[str]:
    return [text for file in sorted(folder.glob(pattern)) if (text := _read(file).strip())]


def _quota(root: Path) -> float | None:
    """Return what the control group's CPU limit leaves, in cores. cgroup v2 alone: v1 hosts are out of support."""
    words = _read(root / "sys/fs/cgroup/cpu.max").split()
    if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):  # "max 100000" is no limit
        return int(words[0]) / int(words[1])
    return None


def _last_level_cache(cpus: Path) -> int | None:
    """Add up the caches of the highest level, each once however many cores share it."""
    seen: dict[tuple[int, str], int] = {}
    for folder in cpus.glob("cpu[0-9]*/cache/index[0-9]*"):
        level, size = _read(folder / "level").strip(), re.fullmatch(r"(\d+)([KMG])", _read(folder / "size").strip())
        if level.isdigit() and size:
            scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[size[2]]
            seen[int(level), _read(folder / "shared_cpu_list").strip()] = int(size[1]) * scale
    top = max((level for level, _ in seen), default=0)
    return sum(size for (level, _), size in seen.items() if level == top) or None
