"""What `verify` checks of secrets, for gateways with and without a secrets file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kis_gateway_deploy.settings import Settings
from kis_gateway_deploy.verify.test_container import (
    test_no_secret_shows_in_inspect_or_logs as check_for_leaks,
)
from kis_gateway_deploy.verify.test_container import (
    test_the_container_has_its_secrets_file_or_its_app_key_as_a_variable as check_secrets,
)
from kis_gateway_deploy.verify.test_host import (
    test_secrets_are_readable_for_the_containers_user_alone as check_files,
)
from kis_gateway_deploy.verify.test_host import (
    test_the_port_is_open_where_the_settings_say_and_nowhere_else as check_port,
)
from tests.unit.builders import settings

KEY = "PSs3cret0123456789"
MOUNT = {"Destination": "/app/config/secrets.json", "RW": False}
VARIABLE = "SECRETS_FILE=/app/config/secrets.json"


def of_file(tmp_path: Path) -> Settings:
    path = tmp_path / "kis.json"
    path.write_text(f'{{"real": {{"key": "{KEY}", "account": "12345678"}}}}')
    return settings(secrets_file=path, app_key_field="real.key")


def of_variables(tmp_path: Path) -> Settings:
    path = tmp_path / "kis.env"
    path.write_text(f"KEY={KEY}\nHOOK=https://hooks.example/T0/abc\nLEVEL=a-long-log-level\n")
    changes = {"env_file": path, "environment": {"URL": "https://kis.example:9443"}}
    return settings(secrets_file=None, app_key_field="KEY", plan_show=["LEVEL"], **changes)


def gateway(made: Settings, logs: str = "", **container: Any) -> Any:
    inspected = {"Mounts": [], "Config": {"Env": []}} | container
    return SimpleNamespace(
        settings=made,
        inspect=lambda: inspected,
        logs=lambda: logs,
        expect_own_project=lambda: None,
    )


@pytest.mark.parametrize(
    "logs", ["", "account 12345678", "https://kis.example:9443 a-long-log-level"]
)
def test_a_gateway_that_logs_no_secret_passes(tmp_path: Path, logs: str) -> None:
    env = {"Config": {"Env": [f"KEY={KEY}"]}}
    check_for_leaks(gateway(of_file(tmp_path), logs))
    check_for_leaks(gateway(of_variables(tmp_path), logs, **env))


def test_a_secret_in_a_log_or_in_inspect_is_found(tmp_path: Path) -> None:
    for made in (of_file(tmp_path), of_variables(tmp_path)):
        with pytest.raises(AssertionError, match="these fields") as raised:
            check_for_leaks(gateway(made, f"key {KEY}"))
        assert KEY not in str(raised.value).splitlines()[0]
    with pytest.raises(AssertionError, match=r"real\.key"):
        check_for_leaks(gateway(of_file(tmp_path), Config={"Env": [f"KEY={KEY}"]}))
    with pytest.raises(AssertionError, match="HOOK"):
        check_for_leaks(gateway(of_variables(tmp_path), "https://hooks.example/T0/abc"))


def test_the_container_has_what_its_settings_say(tmp_path: Path) -> None:
    check_secrets(gateway(of_file(tmp_path), Mounts=[MOUNT], Config={"Env": [VARIABLE]}))
    check_secrets(gateway(of_variables(tmp_path), Config={"Env": [f"KEY={KEY}"]}))


@pytest.mark.parametrize(
    ("made", "container"),
    [
        (of_file, {"Config": {"Env": [VARIABLE]}}),
        (of_file, {"Mounts": [MOUNT]}),
        (of_file, {"Mounts": [MOUNT | {"RW": True}], "Config": {"Env": [VARIABLE]}}),
        (of_variables, {"Mounts": [MOUNT], "Config": {"Env": [f"KEY={KEY}"]}}),
        (of_variables, {"Config": {"Env": ["KEY=another"]}}),
        (of_variables, {}),
    ],
)
def test_a_container_without_what_its_settings_say_fails(
    tmp_path: Path, made: Any, container: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError):
        check_secrets(gateway(made(tmp_path), **container))


DIRECTORY = {"mode": 0o700}
SECRETS = {"uid": 10001, "mode": 0o400}
ENV_FILE = {"user": "root", "mode": 0o600}


@pytest.mark.parametrize(
    ("made", "secrets", "env_file", "passes"),
    [
        (of_file, SECRETS, None, True),
        (of_file, None, None, False),
        (of_file, SECRETS | {"mode": 0o444}, None, False),
        (of_file, SECRETS, ENV_FILE, False),
        (of_variables, None, ENV_FILE, True),
        (of_variables, SECRETS, ENV_FILE, False),
        (of_variables, None, None, False),
        (of_variables, None, ENV_FILE | {"mode": 0o644}, False),
    ],
)
def test_the_files_of_a_release_are_those_of_its_settings(
    tmp_path: Path,
    made: Any,
    secrets: dict[str, Any] | None,
    env_file: dict[str, Any] | None,
    passes: bool,
) -> None:
    files = {"/r": DIRECTORY, "/r/secrets.json": secrets, "/r/gateway.env": env_file}

    def file(path: str) -> Any:
        found = files[path]
        return SimpleNamespace(exists=found is not None, **(found or {}))

    checked: Any = gateway(made(tmp_path))
    checked.host, checked.release_dir = SimpleNamespace(file=file), "/r"
    if passes:
        check_files(checked)
    else:
        with pytest.raises(AssertionError):
            check_files(checked)


IN_HOSTS_NETWORK = {"network_mode": "host", "container_port": 9000}
IN_PLACE = {"compose_file": "/srv/docker-compose.yml", "service": "trader"}
WITHOUT_HTTP = {"health_path": None}
EVERYWHERE = {"tcp://0.0.0.0:8080", "tcp://127.0.0.1:8080"}


@pytest.mark.parametrize(
    ("changes", "listening", "expected"),
    [
        ({}, {"tcp://127.0.0.1:8080"}, "passes"),
        ({}, set(), "fails"),
        ({}, EVERYWHERE, "fails"),
        (WITHOUT_HTTP, {"tcp://127.0.0.1:8080"}, "passes"),
        (WITHOUT_HTTP, set(), "fails"),  # the engine itself listens
        ({"bind_address": "10.0.0.1"}, {"tcp://10.0.0.1:8080"}, "passes"),
        ({"bind_address": "::1"}, {"tcp://::1:8080"}, "passes"),
        ({"bind_address": "::1"}, {"tcp://:::8080"}, "fails"),
        (IN_HOSTS_NETWORK, {"tcp://127.0.0.1:9000"}, "passes"),
        (IN_HOSTS_NETWORK, {"tcp://0.0.0.0:9000"}, "passes"),
        (IN_HOSTS_NETWORK, {"tcp://10.0.0.1:9000"}, "fails"),
        (IN_HOSTS_NETWORK, {"tcp://127.0.0.1:8080"}, "fails"),
        (IN_HOSTS_NETWORK | WITHOUT_HTTP, set(), "is skipped"),
        (IN_PLACE, {"tcp://127.0.0.1:8080"}, "passes"),
        (IN_PLACE, {"tcp://0.0.0.0:8080"}, "passes"),
        (IN_PLACE, set(), "fails"),
        (IN_PLACE | {"port": 80}, {"tcp://127.0.0.1:8080"}, "fails"),
        (IN_PLACE | WITHOUT_HTTP, set(), "is skipped"),
    ],
)
def test_a_listener_is_demanded_where_a_client_asks(
    changes: dict[str, Any], listening: set[str], expected: str
) -> None:
    def socket(spec: str) -> Any:
        return SimpleNamespace(is_listening=spec in listening)

    checked = gateway(settings(**changes))
    checked.host = SimpleNamespace(socket=socket)
    found = "passes"
    try:
        check_port(checked)
    except AssertionError:
        found = "fails"
    except pytest.skip.Exception:
        found = "is skipped"
    assert found == expected
