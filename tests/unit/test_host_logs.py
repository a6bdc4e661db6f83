"""The lines of a gateway's log are bounded and have no secret, however they arrive."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kis_gateway_deploy.host import logs
from kis_gateway_deploy.host.engine import Engine, EngineError
from kis_gateway_deploy.host.logs import (
    BUFFER_LIMIT,
    LINE_LIMIT,
    NEEDS_ROOT,
    _hidden,
    _lines,
    _shown,
)
from kis_gateway_deploy.refusals import BE_ROOT
from tests.unit.builders import jwt

SECRET = "s3cret-of-nobody"
TEXT = f"first\nkey {SECRET}\n\n한글 {SECRET}\r\nlast".encode()
LINES = ["first", "key (hidden)", "", "한글 (hidden)", "last"]


def said(*pieces: bytes, hidden: tuple[str, ...] = (SECRET,)) -> list[str]:
    return [document["say"] for document in _shown(pieces, set(hidden))]


@pytest.mark.parametrize("size", [1, 2, 5, 16, 1000])
def test_a_secret_is_hidden_wherever_a_piece_ends(size: int) -> None:
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    assert said(*pieces) == LINES


def test_any_jwt_is_hidden() -> None:
    assert said(f"token={jwt(exp=1)};".encode(), hidden=()) == ["token=(hidden);"]


def test_a_long_line_is_cut_after_its_secrets_are_hidden() -> None:
    before = "x" * (LINE_LIMIT - 10)
    [line] = said(f"{before}{SECRET} and more".encode())
    assert line == f"{before}(hidden) a…"
    [line, after] = said(*[b"y" * 10_000] * 100, b"\nafter")
    assert (line, after) == ("y" * LINE_LIMIT + "…", "after")


def test_no_line_grows_beyond_the_buffer() -> None:
    lines = list(_lines([b"z" * 3 * BUFFER_LIMIT + b"\nshort\n", *[b"z" * 1000] * 200]))
    assert [len(line) for line in lines] == [BUFFER_LIMIT, 5, BUFFER_LIMIT]


def test_invalid_text_is_shown() -> None:
    assert said(b"\xff\xfe\x00\n") == ["\ufffd\ufffd\x00"]


def test_the_values_of_every_release_and_the_tokens_are_hidden(tmp_path: Path) -> None:
    app_dir, token_dir = tmp_path / "app", tmp_path / "tokens"
    for release, value in (("0a1b2c3d4e5f", "older-secret"), ("f5e4d3c2b1a0", "newer-secret")):
        (app_dir / "releases" / release).mkdir(parents=True)
        (app_dir / "releases" / release / "secrets.json").write_text(json.dumps({"key": value}))
    (app_dir / "releases" / ".staging.x").mkdir()
    request: dict[str, Any] = {
        "app_dir": str(app_dir),
        "token_dir": str(token_dir),
        "token_file": "kis_token.json",
    }
    gateway = {"Config": {"Env": ["HOOK=https://hooks.example/T0/s3cret"]}}
    values = {"older-secret", "newer-secret", "https://hooks.example/T0/s3cret"}
    assert _hidden(request, gateway) == values
    token_dir.mkdir()
    assert _hidden(request, gateway) == values
    token = {"access_token": "an-opaque-token", "expires_at": "2027-01-15T08:00:00Z"}
    (token_dir / "kis_token.json").write_text(json.dumps(token))
    assert _hidden(request, gateway) == values | {"an-opaque-token"}


@pytest.mark.parametrize("follow", [0, 5])
def test_a_log_that_cannot_be_read_is_said(follow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `--log-driver none`."""
    why = "configured logging driver does not support reading"

    def no_log(*_: object, **__: object) -> None:
        raise EngineError(why, 501)

    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(logs, "gateway_of", lambda *_: {"Id": "c0ffee"})
    monkeypatch.setattr(logs, "_hidden", lambda *_: set())
    for name in ("logs", "follow"):
        monkeypatch.setattr(Engine, name, no_log)
    [document] = logs.logs({"ago": 60, "follow": follow})
    refused = {"outcome": "refused", "why": f"the log cannot be read: {why}"}
    assert document == {"result": refused}


def test_without_root_no_log_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of the group docker could read the log, but not the secrets to hide in it."""
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert list(logs.logs({})) == [{"result": {"outcome": "refused", "why": NEEDS_ROOT}}]
    assert BE_ROOT in NEEDS_ROOT
