"""Where the app key comes from: a secrets file, a command, or variables. No message has a value."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from kis_gateway_deploy import credentials
from kis_gateway_deploy.credentials import Secret
from kis_gateway_deploy.fleet import SettingsError, validate_fleet
from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.release import COMPOSE_FILE, make_release
from kis_gateway_deploy.settings import SERVICE, Settings, key_fingerprint
from tests.unit.builders import host_data

KEY = "PSs3cret0123456789"
FINGERPRINT = hashlib.sha256(KEY.encode()).hexdigest()[:12]
NO_FILE = {"gateway_secrets_file": None, "gateway_app_key_field": "KIS_APP_KEY"}


def valid(**changes: Any) -> Settings:
    return validate_fleet({"seoul": host_data(**changes)})["seoul"]


def problem(**changes: Any) -> tuple[str, str]:
    """Name and text of the only problem; no secret is in it."""
    with pytest.raises(SettingsError) as raised:
        valid(**changes)
    [(_, name, what)] = raised.value.problems
    assert "s3cret" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 2
    return name, what


def env_file(directory: Path, content: str) -> Path:
    path = directory / "kis.env"
    path.write_text(content)
    return path


FORMS = [
    ("kis.json", f'{{"key": "{KEY}"}}', "key"),
    ("kis.json", f'{{"real": {{"app_key": "{KEY}"}}}}', "real.app_key"),
    ("kis.json", f'{{"real.app_key": "{KEY}", "real": {{"app_key": "no"}}}}', "real.app_key"),
    ("secrets", f'{{"a": {{"b": {{"c": "{KEY}"}}}}}}', "a.b.c"),
    ("kis.yaml", f"# both\nreal:\n  app_key: {KEY}\npaper: {{app_key: x}}\n", "real.app_key"),
    ("kis.yml", f"key: '{KEY}'", "key"),
    ("kis.yaml", f'{{"key": "{KEY}"}}', "key"),
    ("kis.env", f"A=1\nexport KEY='{KEY}' # real\n", "KEY"),
    (".env", f'KEY="{KEY}"', "KEY"),
    ("kis.env", f"KIS.KEY={KEY}", "KIS.KEY"),
]


@pytest.mark.parametrize(("name", "content", "field"), FORMS)
def test_a_secrets_file_has_one_of_three_forms_and_is_copied_as_it_is(
    tmp_path: Path, name: str, content: str, field: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    made = valid(gateway_secrets_file=path, gateway_app_key_field=field)
    assert key_fingerprint(made) == FINGERPRINT
    assert make_release(made).files["secrets.json"].content == content.encode()
    assert KEY not in repr(made) + repr(made.credentials)


@pytest.mark.parametrize(("name", "content", "field"), FORMS)
def test_a_command_prints_any_of_the_forms(
    tmp_path: Path, name: str, content: str, field: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    command = {"gateway_secrets_file": None, "gateway_secrets_command": ["cat", str(path)]}
    made = valid(**command, gateway_app_key_field=field)
    assert key_fingerprint(made) == FINGERPRINT
    release = make_release(made)
    assert release.files["secrets.json"].content == content.encode()
    assert release.files["secrets.json"].owner == [0o400, 10001, 10001]
    assert KEY not in repr(made) + repr(made.credentials) + repr(release)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("kis.yaml", "a: 's3cret", ": line 1: is not YAML"),
        ("kis.yaml", "a: &a s3cret\nb: *a", ": line 2: has an alias"),
        ("kis.yml", "- s3cret", "must hold a YAML mapping"),
        ("kis.yml", "s3cret", "must hold a YAML mapping"),
        ("kis.yaml", "", "must hold a YAML mapping"),
        ("kis.yaml", b"a: s3cret\xff", "is not YAML in UTF-8"),
        ("kis.env", "A=1\nB='s3cret", ", line 2: has a quote that is not closed"),
        ("kis.env", "A=$s3cret", ", line 1: has a `$`"),
        ("kis.env", '{"s3cret": 1}', ", line 1: is not NAME=value"),
        ("kis.json", "key: s3cret", "is not JSON in UTF-8"),
    ],
)
def test_a_file_of_another_form_is_refused(
    tmp_path: Path, name: str, content: str | bytes, why: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found, what = problem(gateway_secrets_file=path)
    assert found == "gateway_secrets_file"
    assert what.startswith(str(path))
    assert why in what


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("kis.json", '{"a": {"b": {"s3cret": "x"}}}', "a.b"),
        ("kis.json", '{"a": "s3cret"}', "a.b"),
        ("kis.json", '{"a": ["s3cret"]}', "a.0"),
        ("kis.json", '{"a": "s3cret\\ud800"}', "a"),
        ("kis.yaml", "a: 20270115\ns3cret: 1", "a"),
        ("kis.yaml", "a: s3cret", ""),
        ("kis.env", "A=' s3cret'", "A"),
        ("kis.env", "A=", "A"),
    ],
)
def test_a_file_without_the_app_key_is_refused(
    tmp_path: Path, name: str, content: str, field: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    what = f"names no field of {path} that holds an app key (a string without blanks at its ends)"
    found = problem(gateway_secrets_file=path, gateway_app_key_field=field)
    assert found == ("gateway_app_key_field", what)
    command = {"gateway_secrets_file": None, "gateway_secrets_command": ["cat", str(path)]}
    assert problem(**command, gateway_app_key_field=field) == (
        "gateway_app_key_field",
        what.replace(str(path), "the output of `cat`"),
    )


def test_every_string_of_the_secrets_is_known_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "kis.json"
    path.write_text(json.dumps({"k": KEY, "a": {"b": ["x", 1, {"c": "y"}]}, "n": None}))
    made = valid(gateway_secrets_file=path, gateway_app_key_field="k")
    assert made.credentials.values == {"k": KEY, "a.b.0": "x", "a.b.2.c": "y"}


@pytest.mark.parametrize(
    "line", [f"KIS_APP_KEY={KEY}", f"export KIS_APP_KEY='{KEY}'", f'KIS_APP_KEY="{KEY}" # real']
)
def test_the_app_key_may_be_a_variable_of_the_env_file(tmp_path: Path, line: str) -> None:
    made = valid(**NO_FILE, gateway_env_file=env_file(tmp_path, f"A=1\n{line}\n"))
    release = make_release(made)
    assert release.key_fingerprint == FINGERPRINT
    assert sorted(release.files) == [COMPOSE_FILE, "gateway.env"]
    service = yaml.safe_load(release.files[COMPOSE_FILE].content)["services"][SERVICE]
    assert [volume["target"] for volume in service["volumes"]] == ["/app/tokens"]
    assert "SECRETS_FILE" not in service["environment"]
    assert KEY not in repr(made) + repr(made.credentials) + repr(release)


def test_the_app_key_may_be_in_the_environment_itself(tmp_path: Path) -> None:
    path = env_file(tmp_path, "KIS_APP_SECRET=x")
    made = valid(**NO_FILE, gateway_env_file=path, gateway_environment={"KIS_APP_KEY": KEY})
    assert make_release(made).key_fingerprint == FINGERPRINT
    assert made.credentials.values == {"KIS_APP_SECRET": "x", "KIS_APP_KEY": KEY}
    assert KEY not in repr(made) + repr(made.credentials)


@pytest.mark.parametrize(
    "values", [{"A": "s3cret"}, {"KIS_APP_KEY": ""}, {"KIS_APP_KEY": " s3cret"}]
)
@pytest.mark.parametrize("in_file", [True, False])
def test_without_the_app_key_the_error_names_both_ways(
    tmp_path: Path, values: dict[str, str], in_file: bool
) -> None:
    content = "".join(f"{name}='{value}'\n" for name, value in values.items())
    source = (
        {"gateway_env_file": env_file(tmp_path, content)}
        if in_file
        else {"gateway_environment": values}
    )
    name, what = problem(**NO_FILE, **source)
    assert name == "gateway_app_key_field"
    assert "names no variable of gateway_env_file or gateway_environment" in what
    assert what.endswith("set it there, or set gateway_secrets_file")


def test_without_any_source_the_error_names_both_ways() -> None:
    name, what = problem(**NO_FILE)
    assert name == "gateway_secrets_file"
    for way in ("is missing", "gateway_secrets_command", "gateway_env_file", "gateway_environment"):
        assert way in what


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"gateway_secrets_file": 1}, "gateway_secrets_file"),
        ({"gateway_secrets_command": "sops"}, "gateway_secrets_command"),
        ({"gateway_env_file": "/nowhere.env"}, "gateway_env_file"),
        ({"gateway_env_file": 1}, "gateway_env_file"),
        ({"gateway_environment": {"KIS_APP_KEY": None}}, "gateway_environment.KIS_APP_KEY"),
    ],
)
def test_a_wrong_source_is_not_also_missing(wrong: dict[str, Any], name: str) -> None:
    assert problem(**NO_FILE | wrong)[0] == name


def test_a_secrets_file_makes_no_other_release_than_before(tmp_path: Path) -> None:
    """The same content from a file and from a command is the same release."""
    path = tmp_path / "kis.json"
    path.write_text(f'{{"kis-r-app-key": "{KEY}"}}')
    of_file = make_release(valid(gateway_secrets_file=path))
    command = {"gateway_secrets_file": None, "gateway_secrets_command": ["cat", str(path)]}
    assert make_release(valid(**command)).id == of_file.id


def command_problem(*command: str) -> str:
    name, what = problem(gateway_secrets_file=None, gateway_secrets_command=list(command))
    assert name == "gateway_secrets_command"
    return what


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("exit 3", "`sh` failed (exit status 3)"),
        ("kill -9 $$", "`sh` failed (signal 9)"),
        ("echo no key >&2; exit 1", "`sh` failed (exit status 1): no key"),
        (
            "echo token-s3cret; echo not token-s3cret >&2; exit 1",
            "`sh` failed (exit status 1): not (hidden)",
        ),
        (
            "printf '\\033]0;x\\007a\\n\\n \\r b\\n' >&2; exit 1",
            "`sh` failed (exit status 1): \\x1b]0;x\\x07a / b",
        ),
        (
            "seq 9 >&2; exit 1",
            "`sh` failed (exit status 1): 1 / 2 / 7 / 8 / 9",
        ),
        ("printf '\\377' >&2; exit 1", "`sh` failed (exit status 1): \ufffd"),
        ("printf ' \\n'", "`sh` printed nothing"),
        ("echo locked >&2", "`sh` printed nothing: locked"),
        ("read x || exit 7", "`sh` failed (exit status 7)"),
        ("cat </dev/tty", "`sh` failed"),
        ("printf 's3cret\\377\\000'", "the output of `sh` is neither JSON, a YAML mapping nor"),
        ("echo s3cret s3cret", "the output of `sh` is neither JSON, a YAML mapping nor"),
        ('echo \'{"s3cret": "x",}\'', "the output of `sh` is not JSON in UTF-8"),
        ("printf '\\357\\273\\277{}'", "the output of `sh` begins with a byte order mark"),
        ("echo '[\"s3cret\"]'", "the output of `sh` must hold a JSON object"),
    ],
)
def test_a_command_that_fails_shows_its_name_and_its_words(script: str, what: str) -> None:
    assert command_problem("/bin/sh", "-c", script, "sh", "s3cret").startswith(what)


def test_a_line_of_a_failing_command_is_cut() -> None:
    what = command_problem("sh", "-c", "head -c 5000 /dev/zero | tr '\\0' x >&2; exit 1")
    assert len(what) < 300


def test_a_command_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    what = "`sops-of-nobody` cannot be started: No such file or directory"
    assert command_problem("sops-of-nobody", "-d") == what
    assert (
        command_problem(str(tmp_path)) == f"`{tmp_path.name}` cannot be started: Permission denied"
    )


def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "TIME_LIMIT", 0.3)
    pid = tmp_path / "pid"
    began = time.monotonic()
    what = command_problem("sh", "-c", f"echo s3cret; sleep 600 & echo $! >{pid}; wait")
    assert what == "`sh` did not end within 0.3 s (it cannot ask for a password)"
    assert time.monotonic() - began < 10
    sleeper = int(pid.read_text())
    assert ended(sleeper)


def ended(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("end", ['echo \'{"kis-r-app-key": "x"}\'', "exit 1"])
def test_a_command_runs_once_for_all_hosts(tmp_path: Path, end: str) -> None:
    runs = tmp_path / "runs"
    command = ["sh", "-c", f"echo >>{runs}; {end}"]
    data = host_data(gateway_secrets_file=None, gateway_secrets_command=command)
    if end == "exit 1":
        with pytest.raises(SettingsError) as raised:
            validate_fleet({"one": data, "two": data})
        assert len(raised.value.problems) == 2
    else:
        for settings in validate_fleet({"one": data, "two": data}).values():
            assert make_release(settings).files["secrets.json"]
    assert runs.read_text() == "\n"


def test_a_command_gets_its_arguments_and_no_shell(tmp_path: Path) -> None:
    path = tmp_path / "a b; $HOME.json"
    path.write_text(f'{{"kis-r-app-key": "{KEY}"}}')
    made = valid(gateway_secrets_file=None, gateway_secrets_command=["cat", str(path)])
    assert made.credentials.file == Secret(path.read_bytes())


def test_a_command_with_much_output_works() -> None:
    script = f"""import sys
sys.stderr.write("x" * 300_000)
print('{{"kis-r-app-key": "{KEY}", "a": "' + "y" * 300_000 + '"}}')"""
    command = [sys.executable, "-c", script]
    made = valid(gateway_secrets_file=None, gateway_secrets_command=command)
    assert key_fingerprint(made) == FINGERPRINT


@pytest.mark.parametrize("hang", [False, True])
def test_a_command_runs_under_gevent_as_in_pyinfra(hang: bool) -> None:
    script = f"""
from gevent import monkey; monkey.patch_all()
from kis_gateway_deploy import credentials
credentials.TIME_LIMIT = 1
try:
    found = credentials.from_command(["sh", "-c", "{"sleep 60; " if hang else ""}echo k=v"], "k")
    print(found.app_key)
except ValueError as error:
    print(error)
"""
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    words = "`sh` did not end within 1 s (it cannot ask for a password)" if hang else "v"
    assert (result.stdout.strip(), result.stderr) == (words, "")
    assert time.monotonic() - began < 30


def test_nothing_is_written_to_the_controllers_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = ["echo", f'{{"kis-r-app-key": "{KEY}"}}']
    make_release(valid(gateway_secrets_file=None, gateway_secrets_command=command))
    assert list(tmp_path.iterdir()) == []
