from pathlib import Path

from node.places import places

HOME = {"HOME": "/home/ada"}


def test_without_a_data_dir_the_xdg_defaults_hold() -> None:
    where = places(HOME, uid=1000)
    assert where.config_file == Path("/home/ada/.config/metainf/config.toml")
    assert where.data == Path("/home/ada/.local/share/metainf")
    assert where.state == Path("/home/ada/.local/state/metainf")
    assert where.cache == Path("/home/ada/.cache/metainf")


def test_xdg_variables_are_heeded_and_relative_ones_ignored_as_their_standard_says() -> None:
    where = places({**HOME, "XDG_DATA_HOME": "/mnt/data", "XDG_STATE_HOME": "relative"}, uid=1000)
    assert where.data == Path("/mnt/data/metainf")
    assert where.state == Path("/home/ada/.local/state/metainf")


def test_a_data_dir_overrides_every_xdg_folder() -> None:
    where = places({**HOME, "XDG_DATA_HOME": "/mnt/data"}, uid=1000, data_dir=Path("/srv/node"))
    folders = (where.config_file, where.data, where.state, where.cache, where.logs)
    assert all(folder.is_relative_to("/srv/node") for folder in folders)


def test_one_cache_can_be_shared_by_nodes() -> None:
    where = places({**HOME, "METAINF_CACHE": "/var/cache/metainf"}, uid=1000, data_dir=Path("/srv/node"))
    assert where.cache == Path("/var/cache/metainf")


def test_two_data_folders_have_two_control_sockets_short_enough_for_the_kernel() -> None:
    long = Path("/" + "x" * 200)
    first, second = places(HOME, uid=1, data_dir=long / "a"), places(HOME, uid=1, data_dir=long / "b")
    assert first.control_socket != second.control_socket
    assert len(str(first.control_socket)) < 107


def test_users_without_a_runtime_folder_do_not_share_one() -> None:
    assert places(HOME, uid=1).runtime != places(HOME, uid=2).runtime
