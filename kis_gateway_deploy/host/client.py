"""What a client of the gateway does: its address, and one HTTP exchange."""

from __future__ import annotations

import re
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEALTH_SECONDS = 2.0


def client_address(address: str) -> str:
    """The address at which a client on the host reaches what is published on `address`."""
    everywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared
    return everywhere.get(address, address)


def authority(address: str, port: int) -> str:
    """Address and port as a URL has them: an IPv6 address in brackets (RFC 3986)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def ask_health(address: str, port: int, path: str) -> dict[str, Any]:
    """Sends a GET. Returns `status`, the HTTP status, or `error`: why there was no answer."""
    where = authority(address, port)
    request = f"GET {path} HTTP/1.0\r\nHost: {where}\r\nConnection: close\r\n\r\n"
    try:
        return {"status": exchange(address, port, request.encode(), HEALTH_SECONDS)[0]}
    except (OSError, ValueError) as error:
        return {"error": str(error)}


def exchange(
    address: str, port: int, request: bytes, seconds: float, limit: int = 1024
) -> tuple[int, bytes]:
    """Sends an HTTP request; returns the answer's status, and at most `limit` bytes of the answer.

    Raises OSError, and ValueError: the answer is not HTTP.
    """
    import socket

    deadline = time.monotonic() + seconds
    answer = b""
    with socket.create_connection((address, port), seconds) as connection:
        connection.sendall(request)
        while time.monotonic() < deadline:  # to the end: else servers log a broken connection
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(65536)
            if not part:
                break
            answer += part[: limit - len(answer)]
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3})\b", answer)
    if not status:
        raise ValueError("the answer is not HTTP")
    return int(status[1]), answer
