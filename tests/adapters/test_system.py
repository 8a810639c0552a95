import os
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from node.adapters import nvml, system
from node.errors import Unavailable


def test_the_machine_s_figures_are_plausible(tmp_path: Path) -> None:
    machine = system.LocalMachine()
    assert 0 < machine.memory_available() <= machine.memory_total()
    assert 1 <= machine.cpu_cores() <= (os.cpu_count() or 1)
    assert machine.disk_free(str(tmp_path / "not" / "there" / "yet")) > 0


def test_a_taken_port_is_seen_with_its_owner() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not system.port_free("127.0.0.1", port)
        assert f"pid {os.getpid()}" in (system.port_owner(port) or "")
    assert system.port_free("127.0.0.1", port)
    assert system.port_owner(port) is None


def test_an_address_of_another_machine_is_an_error_not_a_taken_port() -> None:
    with pytest.raises(OSError, match="assign"):
        system.port_free("192.0.2.1", 8470)


def test_a_runtime_folder_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    system.private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_runtime_folder_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable):
        system.private_folder(tmp_path / "run")


def test_a_second_node_on_one_data_folder_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    lock = tmp_path / "node.lock"
    with system.node_lock(lock):
        code = (
            "import sys; from pathlib import Path; from node.adapters import system\n"
            "try:\n    with system.node_lock(Path(sys.argv[1])): pass\n"
            "except Exception as error: print(error)"
        )
        root = Path(__file__).parent.parent.parent
        second = subprocess.run(
            [sys.executable, "-c", code, str(lock)], cwd=root, capture_output=True, text=True, timeout=30, check=True
        )
        assert system.lock_holder(lock) == str(os.getpid())
    assert f"pid {os.getpid()}" in second.stdout
    assert system.lock_holder(lock) is None
    assert system.lock_holder(tmp_path / "none") is None
    with system.node_lock(lock):
        pass


def test_local_addresses_can_be_bound_to_and_loopback_is_last() -> None:
    addresses = [ip_address(each) for each in system.local_addresses()]
    assert ip_address("127.0.0.1") in addresses
    assert not any(each.version == 6 and each.is_link_local for each in addresses)
    assert [each.is_loopback for each in addresses] == sorted(each.is_loopback for each in addresses)
    for each in addresses:
        with socket.socket(socket.AF_INET6 if each.version == 6 else socket.AF_INET) as probe:
            probe.bind((str(each), 0))


def test_addresses_of_interfaces_that_are_down_and_of_a_link_alone_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(text: str) -> SimpleNamespace:
        return SimpleNamespace(family=socket.AF_INET6 if ":" in text else socket.AF_INET, address=text)

    here = {
        "lo": [at("127.0.0.1"), at("::1")],
        "eth0": [at("fe80::1%eth0"), at("2001:db8::7"), at("192.0.2.7"), SimpleNamespace(family=17, address="00:00")],
        "eth1": [at("192.0.2.8")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: here)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {name: SimpleNamespace(isup=name != "eth1") for name in here})
    assert system.local_addresses() == ("192.0.2.7", "2001:db8::7", "127.0.0.1", "::1")


def test_a_machine_without_a_gpu_is_a_normal_machine() -> None:
    found = nvml.survey()
    assert found.gpus or found.trouble


@pytest.mark.gpu
def test_the_driver_names_its_gpus() -> None:
    found = nvml.survey()
    if not found.gpus:
        pytest.skip(f"no NVIDIA GPU: {found.trouble}")
    assert all(device.memory_bytes for device in found.devices)
    assert found.driver
