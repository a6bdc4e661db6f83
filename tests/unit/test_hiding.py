"""No value of a secret shows in the log that is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kis_gateway_deploy.host.hiding import secrets_of, tokens_in, values_of

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
