"""No value of a secret shows in the log that is shown."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from kis_gateway_deploy.host.describe import APP_KEY
from kis_gateway_deploy.host.hiding import hide, secrets_of, tokens_in, values_of
from tests.unit.builders import jwt

KEY, PHRASE = "PSs3cret0123456789", "pass phrase of two"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"key": KEY, "phrase": PHRASE}),
        json.dumps({"real": {"keys": [{"key": KEY}, PHRASE]}}, indent=1),
        f"key: {KEY}\nphrase: {PHRASE}\n",
        f"real:\n  - key: \"{KEY}\"\n    phrase: '{PHRASE}'\n",
        f"real: {{key: {KEY}, phrase: x}}\n- {PHRASE}\n",
        f"KEY={KEY}\nexport PHRASE='{PHRASE}'\r\n",
        f'KEY = "{KEY}" # real\nPHRASE="{PHRASE}"',
        f"block: |\n  {KEY}\n  {PHRASE}\n",
    ],
)
def test_the_values_of_secrets_are_found_in_any_form(text: str) -> None:
    assert {KEY, PHRASE} <= values_of(text) | ({PHRASE} if "{key" in text else set())


@pytest.mark.parametrize(
    "text", [json.dumps({"kis-app-secret": KEY}), f"kis-app-secret: {KEY}", f"KIS_APP_SECRET={KEY}"]
)
def test_names_of_fields_are_no_values(text: str) -> None:
    assert values_of(text) - {""} == {KEY}


@pytest.mark.parametrize(
    "text", ["", "null", "[" * 100_000, "[" * 900 + "]" * 900, "\0", "a:", "="]
)
def test_any_text_has_values(text: str) -> None:
    assert all(isinstance(value, str) for value in values_of(text))


def hidden(tmp_path: Path, files: dict[str, str], env: list[str] | None) -> set[str]:
    directory = tmp_path / "releases/0a1b2c3d4e5f"
    directory.mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_text(content)
    details = {} if env is None else {"Config": {"Env": env}}
    return secrets_of(str(tmp_path), ["0a1b2c3d4e5f"], details)


def test_an_opaque_token_of_the_token_directory_is_hidden(tmp_path: Path) -> None:
    opaque = "opaque-token-0123456789abcdef"
    expires = "2099-01-01 00:00:00"
    content = {"access_token": opaque, "access_token_token_expired": expires}
    (tmp_path / "kis.json").write_text(json.dumps(content))
    assert tokens_in(str(tmp_path), "kis.json") == {opaque}
    assert tokens_in(str(tmp_path / "nowhere"), "kis.json") == set()


def test_values_of_files_are_hidden(tmp_path: Path) -> None:
    files = {"secrets.json": f"key: {KEY}\nuser: kim", "gateway.env": "A='s3cret-of-b'\nB=1"}
    assert hidden(tmp_path, files, None) == {KEY, "s3cret-of-b"}


def test_values_of_variables_are_hidden_unless_they_are_paths_or_addresses(tmp_path: Path) -> None:
    env = [
        f"KIS_APP_KEY={KEY}",
        "KIS_APP_SECRET=a=b=c=d=",
        "PORT=8080",
        "KIS_TOKEN_FILE_PATH=/app/tokens/kis_token.json",
        "KIS_URL=https://openapi.koreainvestment.com:9443",
        "HOOK=https://hooks.example/T0/s3cret",
        "EMPTY=",
    ]
    assert hidden(tmp_path, {}, env) == {KEY, "a=b=c=d=", "https://hooks.example/T0/s3cret"}


def test_each_line_of_a_value_is_hidden(tmp_path: Path) -> None:
    """A log is shown line by line."""
    lines = ["-----BEGIN KEY-----", "MIIEpAIBAAKCAQEA", "x"]
    found = hidden(tmp_path, {"secrets.json": json.dumps({"key": "\n".join(lines)})}, None)
    assert found == {"\n".join(lines), *lines[:2]}


MEBIBYTE = 1 << 20
REAL = jwt(exp=1795555400)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Bearer {REAL}", "Bearer (hidden)"),
        (f"token={REAL}&x", "token=(hidden)&x"),
        (f"eyJ.eyJ {REAL} eyJx", "eyJ.eyJ (hidden) eyJx"),
        (f"eyJeyJ\n{REAL},{REAL}", "eyJeyJ\n(hidden),(hidden)"),
        (f"eyJ{'a' * 3000}.{'b' * 4000}.{'c' * 3000}!", "(hidden)!"),
        ("eyJhbGciOiJI.abc eyJ.eyJh", "eyJhbGciOiJI.abc eyJ.eyJh"),
    ],
)
def test_a_jwt_is_hidden_wherever_it_is(text: str, shown: str) -> None:
    assert hide(text, set()) == shown


@pytest.mark.parametrize("text", ["eyJ", "eyJaa.", "eyJaa.x ", "eyJ" * 100 + "."])
def test_a_hostile_log_is_searched_in_linear_time(text: str) -> None:
    """A restore waits for it."""
    log = text * (MEBIBYTE // len(text))
    began = time.monotonic()
    hide(f"{log} {REAL}", set())
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("content", [b"appkey", b"app_key-", b"appkey "])
def test_a_hostile_file_is_searched_for_app_keys_in_linear_time(content: bytes) -> None:
    content *= MEBIBYTE // len(content)
    began = time.monotonic()
    assert APP_KEY.search(content) is None
    assert APP_KEY.search(b'{"my_appkey_real" : "x"}')
    assert time.monotonic() - began < 5


def test_a_file_of_many_tokens_gives_no_more_than_the_log_is_searched_for(tmp_path: Path) -> None:
    tokens = [{"token": f"{number:08d}"} for number in range(2800)]
    for number in range(3):
        (tmp_path / f"{number}.json").write_text(json.dumps(tokens).replace("00", f"x{number}"))
    assert 200 <= len(tokens_in(str(tmp_path), "*.json")) <= 400
