"""Answers as bytes: the few lines that the server writes in its own name.

Knows no connection and no application.
"""

import json
from email.utils import formatdate

REASONS = {
    200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 413: "Content Too Large",
    422: "Unprocessable Content", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip


def plain_error(status: int, message: str, *, retry_after: int | None = None) -> bytes:
    """Write a whole answer to a client that no application will see, in the API's error envelope."""
    body = error_body(status, message)
    retry = b"retry-after: %d\r\n" % retry_after if retry_after is not None else b""
    return (
        b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b"
        b"server: metainf\r\nconnection: close\r\n\r\n%b"
    ) % (status, REASONS[status].encode("ascii"), len(body), retry, body)


def error_body(status: int, message: str) -> bytes:
    """Write the OpenAI error envelope."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": None}}).encode("ascii")


_date: tuple[int, bytes] = (-1, b"")


def http_date(now: float) -> bytes:
    """Write the present second as HTTP does, formatted once per second of the loop's time `now`."""
    global _date  # noqa: PLW0603  # a cache of one entry; it decides nothing
    second = int(now)
    if _date[0] != second:
        _date = (second, formatdate(usegmt=True).encode("ascii"))
    return _date[1]
