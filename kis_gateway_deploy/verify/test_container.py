"""The container: it runs the current release, keeps its token on the host, leaks no secret."""

from __future__ import annotations

import json
from collections.abc import Iterator

from kis_gateway_deploy.verify.gateway import Gateway

# Shorter values (a user id, a port) are not secret, and may appear elsewhere by chance.
SECRET_LENGTH = 16

# In awk: reads the token file, then searches the next input for its token, which is no argument.
FINDS_THE_TOKEN = r"""
  NR == FNR { file = file $0; next }
  FNR == 1 {
    if (!match(file, /"access_token" *: *"[^"]+/)) exit 3
    token = substr(file, RSTART, RLENGTH); sub(/.*"/, "", token)
  }
  index($0, token) { found = 1; exit }
  END { exit found ? 1 : 0 }
"""


def test_one_container_runs_the_current_release(gateway: Gateway) -> None:
    gateway.wait_until_healthy()  # it may have been started just now
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
    assert environment.get("SECRETS_FILE") == "/app/config/secrets.json"


def test_the_container_is_hardened_and_its_logs_rotate(gateway: Gateway) -> None:
    host_config = gateway.inspect()["HostConfig"]
    assert host_config["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host_config["SecurityOpt"]
    assert host_config["ReadonlyRootfs"] == gateway.settings.read_only
    assert host_config["Init"] is True
    assert host_config["RestartPolicy"]["Name"] == "unless-stopped"
    assert {"max-size", "max-file"} <= host_config["LogConfig"]["Config"].keys()


def test_no_secret_shows_in_inspect_or_logs(gateway: Gateway) -> None:
    secrets = json.loads(gateway.settings.secrets_file.read_bytes())
    shown = json.dumps(gateway.inspect(), ensure_ascii=False) + gateway.logs()
    leaked = [name for name, value in _strings(secrets) if value in shown]
    assert not leaked, f"values of these fields of the secrets show: {leaked}"


def test_the_token_does_not_show_in_the_logs(gateway: Gateway) -> None:
    result = gateway.host.run(
        "docker logs %s 2>&1 | awk %s %s -",
        gateway.container,
        FINDS_THE_TOKEN,
        gateway.settings.token_path,
    )
    assert result.rc == 0, "the token shows in the container's log, or there is no token"


def _strings(secrets: dict[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in secrets.items():
        if isinstance(value, str) and len(value) >= SECRET_LENGTH:
            yield name, value
