"""A pyinfra inventory as testinfra hosts: testinfra has no pyinfra backend."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import testinfra
from testinfra.host import Host

from kis_gateway_deploy.settings import Settings, SettingsError, validate_fleet

PYINFRA = Path(sys.executable).with_name("pyinfra")


class InventoryError(Exception):
    """The inventory cannot be verified: what is wrong with it, and with which host."""


@dataclass(frozen=True)
class InventoryHost:
    """One name of the inventory: its settings, and testinfra's connection to it."""

    name: str
    settings: Settings
    host: Host


def load_inventory(inventory: str, limit: str, work_dir: Path) -> list[InventoryHost]:
    """Every host of the inventory, or those that `limit` names, with commas; connected to once.

    The inventory is read by pyinfra in a process of its own: its command line patches the process
    that imports it. `work_dir` gets an `ssh_config` made of the same host data that pyinfra uses.

    Raises:
        InventoryError: it is missing or empty, its settings are wrong, or a host does not answer.
    """
    hosts = _read(inventory)
    if not hosts:
        raise InventoryError(f"{inventory} has no hosts, so there is nothing to verify")
    try:
        settings = validate_fleet(hosts)
    except SettingsError as error:
        raise InventoryError(str(error)) from None
    named = [name.strip() for name in limit.split(",") if name]
    if unknown := [name for name in named if name not in hosts]:
        raise InventoryError(f"{inventory} has no host {', '.join(unknown)}")
    hosts = {name: data for name, data in hosts.items() if not named or name in named}
    ssh_config = work_dir / "ssh_config"
    ssh_config.write_text(
        "\n".join(_ssh_config(name, data, work_dir) for name, data in hosts.items())
    )
    found = [
        InventoryHost(name, settings[name], _connect(name, data, ssh_config))
        for name, data in hosts.items()
    ]
    unreachable = [f"  {each.name}: {problem}" for each in found if (problem := _silence(each))]
    if unreachable:
        raise InventoryError("hosts of the inventory do not answer:\n" + "\n".join(unreachable))
    return found


def _read(inventory: str) -> dict[str, dict[str, Any]]:
    if not Path(inventory).exists():
        raise InventoryError(f"there is no inventory {inventory}")
    answer = subprocess.run(
        [PYINFRA, "--json", inventory, "debug-inventory"], capture_output=True, text=True
    )
    try:
        hosts = json.loads(answer.stdout)
    except ValueError:
        raise InventoryError(f"pyinfra cannot read {inventory}:\n{answer.stderr.strip()}") from None
    return {host["name"]: host["data"] for host in hosts}


def _ssh_config(name: str, data: dict[str, Any], work_dir: Path) -> str:
    """The host's block; the user's own ssh configuration fills in what pyinfra would look up."""
    options = {
        "HostName": data.get("ssh_hostname"),
        "Port": data.get("ssh_port"),
        "User": data.get("ssh_user"),
        "IdentityFile": data.get("ssh_key"),
        "UserKnownHostsFile": data.get("ssh_known_hosts_file"),
        "StrictHostKeyChecking": data.get("ssh_strict_host_key_checking"),
        "ControlPath": work_dir / "%C",
        "BatchMode": "yes",
        "Include": data.get("ssh_config_file") or "~/.ssh/config",
    }
    lines = [f"  {key} {value}" for key, value in options.items() if value]
    return "\n".join([f"Host {name}", *lines, ""])


def _connect(name: str, data: dict[str, Any], ssh_config: Path) -> Host:
    sudo = "true" if data.get("_sudo") else "false"
    if name.startswith("@local"):
        return testinfra.get_host(f"local://?sudo={sudo}")
    return testinfra.get_host(f"ssh://{name}?ssh_config={ssh_config}&sudo={sudo}")


def _silence(each: InventoryHost) -> str:
    """Why the host gives no answer as root; empty where it gives one."""
    try:
        result = each.host.run("id -u")
    except RuntimeError as error:  # how testinfra reports ssh's exit status 255
        return str(getattr(error.args[0], "stderr", error)).strip()
    if result.stdout.strip() != "0":
        return f"not root there: {result.stderr.strip() or 'set `_sudo` in its inventory data'}"
    return ""


def run(host: Host, *command: str) -> str:
    """The command's standard output; a failed test where it fails."""
    result = host.run(shlex.join(command))
    assert result.rc == 0, f"{shlex.join(command[:4])} …: {result.stderr.strip()}"
    return str(result.stdout)
