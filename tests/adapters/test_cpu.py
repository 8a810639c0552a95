import os
import platform
from pathlib import Path

from node.adapters import cpu

X86 = """processor\t: {index}
model name\t: AMD EPYC 9654 96-Core Processor
physical id\t: {socket}
core id\t\t: {core}
flags\t\t: fpu sse4_2 avx2 avx512f avx512_bf16 vmx{extra}
"""
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd sve2 i8mm bf16 crc32\nCPU implementer\t: 0x41\n"


def write(root: Path, name: str, content: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content)


def server(root: Path, extra: str = "") -> None:
    """Two sockets of one core with two threads each."""
    blocks = [X86.format(index=index, socket=index // 2, core=0, extra=extra) for index in range(4)]
    write(root, "proc/cpuinfo", "\n".join(blocks) + "\n")
    for index in range(4):
        folder = f"sys/devices/system/cpu/cpu{index}"
        write(root, f"{folder}/cache/index0/level", "1\n")
        write(root, f"{folder}/cache/index0/size", "32K\n")
        write(root, f"{folder}/cache/index0/shared_cpu_list", f"{index}\n")
        write(root, f"{folder}/cache/index3/level", "3\n")
        write(root, f"{folder}/cache/index3/size", "384M\n")
        write(root, f"{folder}/cache/index3/shared_cpu_list", "0-1\n" if index < 2 else "2-3\n")
        write(root, f"{folder}/cpufreq/scaling_governor", "powersave\n" if index else "performance\n")
        write(root, f"{folder}/cpufreq/scaling_max_freq", "3700000\n")


def test_a_server_of_two_sockets_is_read_whole(tmp_path: Path) -> None:
    server(tmp_path)
    write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    found = cpu.survey(cores=4, memory_bytes=1 << 30, root=tmp_path)
    assert found.name == "AMD EPYC 9654 96-Core Processor"
    assert (found.cores, found.physical_cores, found.quota_cores) == (4, 2, 1.5)
    assert found.isa == ("avx2", "avx512_bf16", "avx512f", "sse4_2")
    assert found.cache_bytes == 2 * 384 << 20  # each of the two once, though four processors name them
    assert (found.governors, found.clock_max_mhz) == (("performance", "powersave"), 3700)
    assert found.virtual is False


def test_a_virtual_machine_is_known_by_its_flag(tmp_path: Path) -> None:
    server(tmp_path, extra=" hypervisor")
    assert cpu.survey(cores=1, memory_bytes=1, root=tmp_path).virtual is True


def test_an_arm_processor_has_features_and_no_name(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", ARM)
    found = cpu.survey(cores=1, memory_bytes=1, root=tmp_path)
    assert (found.name, found.isa, found.virtual) == (None, ("asimd", "bf16", "i8mm", "sve2"), None)


def test_where_nothing_can_be_read_nothing_is_made_up(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "\x00garbage\n\n:\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000\n")
    found = cpu.survey(cores=3, memory_bytes=5, root=tmp_path)
    assert found == cpu.Cpu(architecture=platform.machine(), cores=3, memory_bytes=5)


def test_this_machine_has_a_processor_that_is_described() -> None:
    found = cpu.survey(cores=1, memory_bytes=1)
    assert found.name or found.isa
    assert found.physical_cores is None or 1 <= found.physical_cores <= (os.cpu_count() or 1)
