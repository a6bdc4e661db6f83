"""Asks the gateway for something that only an accepted token gets, through its published port."""

from __future__ import annotations

import json
import re

from .client import authority, exchange
from .releases import json_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECONDS = 10.0
ANSWER_LIMIT = 64 << 10

REFUSED = re.compile(rb"EGW0012[123]")
"""KIS's codes for a token that is invalid, not found, or expired (its list of error codes)."""


def probe(
    address: str,
    port: int,
    path: str,
    method: str,
    headers: dict[str, str],
    body: Any,
    expect: int | dict[str, Any],
) -> dict[str, Any]:
    """Sends one request. Returns `is_accepted`, `code` and `said`.

    `expect`: an HTTP status, or a part of the JSON answer. `is_accepted`: whether KIS accepts the
    token; None if the answer, described by `said`, does not tell. `code`: KIS's code for a refused
    token.
    """
    try:
        status, answer = _ask(address, port, path, method, headers, body)
    except (OSError, ValueError) as error:
        return {"is_accepted": None, "code": "", "said": f"no answer ({error})"}
    refused = REFUSED.search(answer)
    data = json_of(answer.decode("utf-8", "replace"))
    if refused:
        return {"is_accepted": False, "code": refused[0].decode(), "said": _said(status, data)}
    is_expected = status == expect if isinstance(expect, int) else _holds(data, expect)
    return {"is_accepted": True if is_expected else None, "code": "", "said": _said(status, data)}


def _ask(
    address: str, port: int, path: str, method: str, headers: dict[str, str], body: Any
) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError, ValueError."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = {"Host": authority(address, port), "Connection": "close"} | headers
    if content:
        lines = {"Content-Type": "application/json", "Content-Length": str(len(content))} | lines
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    request = f"{method} {path} HTTP/1.0\r\n{head}\r\n".encode() + content
    status, answer = exchange(address, port, request, SECONDS, ANSWER_LIMIT)
    return status, answer.partition(b"\r\n\r\n")[2]


def _holds(data: Any, expected: Any) -> bool:
    """Whether the JSON has what is expected, and perhaps more."""
    if isinstance(expected, dict):
        return isinstance(data, dict) and all(_holds(data.get(k), v) for k, v in expected.items())
    return bool(data == expected)


def _said(status: int, data: Any) -> str:
    """The HTTP status, and KIS's code and message if there is one; never the rest of the answer."""
    fields = data if isinstance(data, dict) else {}
    names = ("msg_cd", "msg1", "error_code", "error_description")
    # Only texts and numbers: anything else may be nested too deep for str().
    said = [fields[name] for name in names if isinstance(fields.get(name), (str, int, float))]
    words = [str(each).strip()[:120] for each in said if each]
    return " ".join([f"HTTP {status}", *words])
