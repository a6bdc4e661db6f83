"""The probe: one request whose answer shows whether KIS accepts the token."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from kis_gateway_deploy.host.probe import probe


class Gateway(BaseHTTPRequestHandler):
    """Answers as the test says, and keeps the request."""

    answer: tuple[int, bytes]
    asked: tuple[str, str, dict[str, str], bytes]

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        asked = (self.command, self.path, dict(self.headers), self.rfile.read(size))
        Gateway.asked = asked
        self.send_response(Gateway.answer[0])
        self.end_headers()
        self.wfile.write(Gateway.answer[1])

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int, **changes: Any) -> dict[str, Any]:
    request: dict[str, Any] = {"path": "/price?a=b", "method": "GET", "headers": {}, "body": None}
    return probe("127.0.0.1", port, **request | {"expect": 200} | changes)


GOOD = {"rt_cd": "0", "output": {"price": "70000"}, "msg_cd": "MCA00000"}
ENDED = {"rt_cd": "1", "msg_cd": "EGW00123", "msg1": "기간이 만료된 token 입니다."}


@pytest.mark.parametrize(
    ("status", "data", "expect", "is_accepted", "code"),
    [
        (200, GOOD, 200, True, ""),
        (200, GOOD, {"rt_cd": "0"}, True, ""),
        (200, GOOD, {"output": {"price": "70000"}}, True, ""),
        (200, GOOD, {"rt_cd": "1"}, None, ""),
        (200, GOOD, {"rt_cd": {"deep": "0"}}, None, ""),
        (200, GOOD, 201, None, ""),
        (200, ["a"], {"rt_cd": "0"}, None, ""),
        (200, ENDED, {"rt_cd": "0"}, False, "EGW00123"),
        (500, ENDED, 200, False, "EGW00123"),
        (200, ENDED, 200, False, "EGW00123"),  # the gateway hides it in a good answer
        (401, {"detail": "token: EGW00121"}, 200, False, "EGW00121"),
        (500, {"msg_cd": "EGW00201", "msg1": "초당 거래건수를 초과하였습니다."}, 200, None, ""),
        (503, "maintenance", 200, None, ""),
    ],
)
def test_whether_kis_accepts_the_token(
    port: int, status: int, data: Any, expect: Any, is_accepted: bool | None, code: str
) -> None:
    Gateway.answer = status, json.dumps(data).encode()
    found = ask(port, expect=expect)
    assert (found["is_accepted"], found["code"]) == (is_accepted, code)


def test_only_kis_words_of_an_answer_are_shown(port: int) -> None:
    Gateway.answer = 500, json.dumps(ENDED | {"account": "12345678", "token": "eyJ0"}).encode()
    assert ask(port)["said"] == "HTTP 500 EGW00123 기간이 만료된 token 입니다."
    Gateway.answer = 500, b"<html>s3cret</html>"
    assert ask(port)["said"] == "HTTP 500"


def test_the_request_is_what_the_settings_say(port: int) -> None:
    Gateway.answer = 200, b"{}"
    ask(port, method="POST", headers={"tr_id": "X", "Content-Type": "text/json"}, body={"a": "가"})
    method, path, headers, body = Gateway.asked
    assert (method, path, headers["tr_id"], headers["Content-Type"]) == (
        *("POST", "/price?a=b", "X", "text/json"),
    )
    assert headers["Host"] == f"127.0.0.1:{port}"
    assert json.loads(body) == {"a": "가"}


def test_no_answer_does_not_tell() -> None:
    found = probe("127.0.0.1", 9, "/", "GET", {}, None, 200)
    assert found["is_accepted"] is None
    assert found["said"].startswith("no answer (")
