"""The container: it runs the current release, keeps its token on the host, leaks no secret."""

from __future__ import annotations

import hashlib
import json

from kis_gateway_deploy.compose_changes import harmless
from kis_gateway_deploy.settings import Settings, key_fingerprint
from kis_gateway_deploy.verify.gateway import Gateway

# Shorter values (a user id, a port) are not secret, and may appear elsewhere by chance.
SECRET_LENGTH = 16


def test_one_container_runs_the_current_release(gateway: Gateway) -> None:
    gateway.wait_until_healthy()  # it may have been started just now
    if gateway.settings.is_in_place:
        assert gateway.container
        return
    files = gateway.inspect()["Config"]["Labels"]["com.docker.compose.project.config_files"]
    assert files == ",".join(gateway.compose_files)


def test_the_token_directory_of_the_host_is_mounted(gateway: Gateway) -> None:
    mounts = {mount["Destination"]: mount for mount in gateway.inspect()["Mounts"]}
    target = gateway.settings.token_mount
    assert target in mounts, "no token volume: the token is lost with the container"
    mount = mounts[target]
    source = gateway.settings.token_dir
    assert (mount["Type"], mount["Source"], mount["RW"]) == ("bind", source, True)


def test_the_variable_points_into_the_mounted_directory(gateway: Gateway) -> None:
    environment = dict(e.split("=", 1) for e in gateway.inspect()["Config"]["Env"])
    expected = gateway.settings.token_variables
    assert {name: environment.get(name) for name in expected} == expected


def test_the_container_has_its_secrets_file_or_its_app_key_as_a_variable(gateway: Gateway) -> None:
    gateway.expect_own_project()
    container = gateway.inspect()
    mounts = {mount["Destination"]: mount for mount in container["Mounts"]}
    environment = dict(e.split("=", 1) for e in container["Config"]["Env"])
    path = "/app/config/secrets.json"
    has_file = gateway.settings.has_secrets_file
    assert (path in mounts) == has_file
    if has_file:
        assert environment.get("SECRETS_FILE") == path
        assert not mounts[path]["RW"]
    else:
        app_key = environment.get(gateway.settings.app_key_field, "").encode()
        found = hashlib.sha256(app_key).hexdigest()[:12]
        assert found == key_fingerprint(gateway.settings), "the container has another app key"


def test_the_container_is_hardened_and_its_logs_rotate(gateway: Gateway) -> None:
    gateway.expect_own_project()
    host_config = gateway.inspect()["HostConfig"]
    assert host_config["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host_config["SecurityOpt"]
    assert host_config["ReadonlyRootfs"] == gateway.settings.read_only
    assert host_config["Init"] is True
    assert host_config["RestartPolicy"]["Name"] == "unless-stopped"
    assert {"max-size", "max-file"} <= host_config["LogConfig"]["Config"].keys()


def test_no_secret_shows_in_inspect_or_logs(gateway: Gateway) -> None:
    """Variables are in `docker inspect`, so for them only the logs count."""
    gateway.expect_own_project()
    shown = gateway.logs()
    if gateway.settings.has_secrets_file:
        shown += json.dumps(gateway.inspect(), ensure_ascii=False)
    leaked = [name for name, value in secret_values(gateway.settings) if value in shown]
    assert not leaked, f"values of these fields of the secrets show: {leaked}"


def test_the_token_does_not_show_in_the_logs(gateway: Gateway) -> None:
    gateway.expect_token_file()
    assert not gateway.shows_token(), "a token shows in the container's log"


def secret_values(settings: Settings) -> list[tuple[str, str]]:
    """Fields of the secrets with long values; of variables, those that `plan` would hide."""
    found = settings.credentials.values.items()
    return [
        (name, value)
        for name, value in found
        if len(value) >= SECRET_LENGTH
        and (
            settings.has_secrets_file
            or value == settings.credentials.app_key
            or not (name in settings.plan_show or " " in value or harmless(value))
        )
    ]
