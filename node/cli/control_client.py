"""Talking to the running node over its control socket: plain HTTP/1.1 on a unix socket.

Standard library only, so that `metainf status` answers at once.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from node.errors import NodeError, Unavailable

CONNECT_TIMEOUT_S = 5.0  # a node whose loop does not accept for so long hangs


class ControlConnection(http.client.HTTPConnection):
    """An HTTP connection to a unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("metainf")
        self._path = path
        self._answer_timeout = timeout

    def connect(self) -> None:
        """Connect to the node.

        Raises:
            Unavailable: no node listens there.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect(str(self._path))
        except OSError as error:
            connection.close()
            raise Unavailable(
                "no node is running here", remedy="start one with `metainf up`; name its folder with --data-dir"
            ) from error
        connection.settimeout(self._answer_timeout)
        self.sock = connection


@contextmanager
def request(
    socket_path: Path,
    method: str,
    target: str,
    body: object = None,
    *,
    headers: Mapping[str, str] = MappingProxyType({}),
    timeout: float | None = 10.0,
) -> Iterator[http.client.HTTPResponse]:
    """Send one request; yield the response with its body unread.

    Args:
        timeout: seconds without a byte after which the node is given up; None waits for ever.

    Raises:
        Unavailable: no node, or one that does not answer.
    """
    connection = ControlConnection(socket_path, timeout)
    try:
        payload = None if body is None else json.dumps(body).encode()
        all_headers = {**headers, "content-type": "application/json"} if payload else dict(headers)
        connection.request(method, target, body=payload, headers=all_headers)
        yield connection.getresponse()
    except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
        raise Unavailable(
            f"the node does not answer on its control socket ({type(error).__name__})",
            remedy="it may be stopping or hanging: `metainf doctor`, and its log in the state folder",
        ) from error
    finally:
        connection.close()


def get_json(socket_path: Path, target: str, *, method: str = "GET", body: object = None) -> Any:  # noqa: ANN401 -- JSON
    """Return the JSON answer of one request.

    Raises:
        NodeError: what the node said against it.
    """
    with request(socket_path, method, target, body) as response:
        raw = response.read()
    try:
        answer = json.loads(raw)
    except ValueError as error:
        raise NodeError(f"the node answered {response.status} with something that is not JSON") from error
    if response.status >= 400:
        raise error_in(answer, response.status)
    return answer


def error_in(answer: object, status: int) -> NodeError:
    """Return the error that an OpenAI error envelope speaks of."""
    envelope = answer.get("error") if isinstance(answer, dict) else None
    message = envelope.get("message") if isinstance(envelope, dict) else None
    remedy = envelope.get("remedy") if isinstance(envelope, dict) else None
    return Unavailable(str(message or f"the node answered with status {status}"), remedy=str(remedy or ""))
