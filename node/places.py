"""Where a node keeps its files: a pure function of the environment and `--data-dir`.

Knows the XDG base directories and nothing of what is written there.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.ids import PUBLIC_SWARM, SwarmId


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """A node's folders and files. None of them needs to exist."""

    config_file: Path
    data: Path  # identity, keys of the API, the owner's consent, the store: what a back-up must hold
    state: Path  # logs
    cache: Path  # whatever can be made again: the unpacked model, profiles
    runtime: Path  # the control socket; gone after a reboot

    @property
    def identity_file(self) -> Path:
        """The node's private key."""
        return self.data / "identity.pem"

    @property
    def api_keys_file(self) -> Path:
        """Names, hashes and limits of the API keys made with `metainf key add`."""
        return self.data / "api-keys.json"

    @property
    def consent_file(self) -> Path:
        """The owner's answer at the first start."""
        return self.data / "consent.json"

    @property
    def lock_file(self) -> Path:
        """Held by the running node: one node per data folder."""
        return self.data / "node.lock"

    @property
    def peers_file(self) -> Path:
        """Addresses of peers that answered lately: the way back when every bootstrap is gone."""
        return self.data / "peers.json"

    @property
    def epoch_file(self) -> Path:
        """When the last run began, so that a clock that was set back makes no run older than the one before."""
        return self.data / "epoch.json"

    @property
    def membership_file(self) -> Path:
        """The private swarm that this node belongs to, its key and the node's certificate."""
        return self.data / "swarm" / "membership.json"

    def administrator_file(self, swarm: SwarmId) -> Path:
        """Return the private key of a swarm that was created here."""
        return self.data / "swarm" / f"{swarm}.administrator.pem"

    def revocations_file(self, swarm: SwarmId) -> Path:
        """Return the latest list of revocations of a private swarm."""
        return self.data / "swarm" / f"{swarm}.revocations"

    def peers_file_of(self, swarm: SwarmId) -> Path:
        """Return the file of a swarm's peers: those of one are not dialled for another."""
        return self.peers_file if swarm == PUBLIC_SWARM else self.data / f"peers-{swarm}.json"

    def history_file(self, swarm: SwarmId) -> Path:
        """Return the file of a swarm's performance records: this node's own, and everybody else's."""
        return self.data / "history" / f"{swarm}.sqlite"

    @property
    def logs(self) -> Path:
        """Logs of the node and of its engine."""
        return self.state / "logs"

    @property
    def control_socket(self) -> Path:
        """The socket that `metainf status` and the other verbs talk to.

        Named by a digest because a socket's path may have 107 bytes at most, and a data folder's may have more.
        """
        digest = hashlib.sha256(str(self.data).encode()).hexdigest()[:16]
        return self.runtime / f"{digest}.sock"


def places(environment: Mapping[str, str], *, uid: int, data_dir: Path | None = None) -> Places:
    """Return the places of the node whose data lies in `data_dir`, or in the user's own XDG folders.

    `METAINF_CACHE` shares one cache among nodes; otherwise `data_dir` takes the cache in as well.
    """
    home = Path(environment.get("HOME", "/"))

    def xdg(variable: str, default: str) -> Path:
        value = environment.get(variable, "")
        return (Path(value) if value.startswith("/") else home / default) / "metainf"

    own_cache = Path(environment["METAINF_CACHE"]) if environment.get("METAINF_CACHE") else None
    runtime_base = environment.get("XDG_RUNTIME_DIR", "")
    runtime = Path(runtime_base) / "metainf" if runtime_base.startswith("/") else Path(f"/tmp/metainf-{uid}")  # noqa: S108 -- the adapter makes it 0700 and checks its owner
    if data_dir is not None:
        data = data_dir.absolute()
        return Places(
            config_file=data / "config.toml",
            data=data,
            state=data / "state",
            cache=own_cache or data / "cache",
            runtime=runtime,
        )
    return Places(
        config_file=xdg("XDG_CONFIG_HOME", ".config") / "config.toml",
        data=xdg("XDG_DATA_HOME", ".local/share"),
        state=xdg("XDG_STATE_HOME", ".local/state"),
        cache=own_cache or xdg("XDG_CACHE_HOME", ".cache"),
        runtime=runtime,
    )
