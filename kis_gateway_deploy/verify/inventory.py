"""A pyinfra inventory as testinfra hosts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testinfra.host import Host

from kis_gateway_deploy.fleet import SettingsError, validate_fleet
from kis_gateway_deploy.settings import PREFIXES, Settings
from kis_gateway_deploy.verify.backend import connect

PYINFRA = Path(sys.executable).with_name("pyinfra")


class InventoryError(Exception):
    """The inventory cannot be verified; the text says why, and for which host."""


@dataclass(frozen=True)
class InventoryHost:
    """One name of the inventory: its settings, and testinfra's connection to it."""

    name: str
    settings: Settings
    host: Host


def load_inventory(inventory: str, limit: str) -> list[InventoryHost]:
    """Connects to every host of the inventory, or to those in `limit` (separated by commas).

    pyinfra reads the inventory in a separate process, because its command line patches the process
    that imports it. Hosts without any setting of this package are skipped.

    Raises:
        InventoryError: it is missing or empty, its settings are wrong, or a host does not answer.
    """
    everything = _read(inventory)
    hosts = {
        name: data
        for name, data in everything.items()
        if any(key.startswith(PREFIXES) for key in data)
    }
    if not hosts:
        raise InventoryError(f"{inventory} has no hosts, so there is nothing to verify")
    try:
        settings = validate_fleet(hosts)
    except SettingsError as error:
        raise InventoryError(str(error)) from None
    named = [name.strip() for name in limit.split(",") if name]
    if unknown := [name for name in named if name not in hosts]:
        raise InventoryError(f"{inventory} has no host {', '.join(unknown)}")
    found = connect({name: data for name, data in hosts.items() if not named or name in named})
    silent = [f"  {name}: {why}" for name, why in found.items() if isinstance(why, str)]
    if silent:
        raise InventoryError("hosts of the inventory do not answer:\n" + "\n".join(silent))
    return [
        InventoryHost(name, settings[name], host)
        for name, host in found.items()
        if not isinstance(host, str)
    ]


def _read(inventory: str) -> dict[str, dict[str, Any]]:
    if not Path(inventory).exists():
        raise InventoryError(f"there is no inventory {inventory}")
    answer = subprocess.run(
        [PYINFRA, "--json", inventory, "debug-inventory"],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if answer.returncode or "Ignoring host group" in answer.stderr:
        raise InventoryError(f"pyinfra cannot read {inventory}: {why_not_read(answer.stderr)}")
    return {host["name"]: host["data"] for host in _hosts_in(answer.stdout)}


def _hosts_in(output: str) -> list[dict[str, Any]]:
    """pyinfra's JSON; before and after it may be what the inventory itself prints."""
    for start in re.finditer(r"\[", output):
        with suppress(ValueError):
            hosts, _ = json.JSONDecoder().raw_decode(output, start.start())
            if hosts and all(isinstance(each, dict) and "data" in each for each in hosts):
                return list(hosts)
    return []


def why_not_read(said: str) -> str:
    """What pyinfra said of an inventory, without any line of it, which may hold a secret."""
    if group := re.search('Ignoring host group "(.+)"', said):
        return f"its host group {group[1]} must be a list of hosts"
    places = re.findall('^ *File "(.+)", line ([0-9]+)', said, re.MULTILINE)
    kinds = re.findall("^ *([A-Za-z_.]+)(?::|$)", said, re.MULTILINE)
    kind = next((each for each in reversed(kinds) if each.endswith("Error")), "an error")
    return f"{places[-1][0]}, line {places[-1][1]}: {kind}" if places else kind


def run(host: Host, *command: str) -> str:
    """The command's standard output; fails the test if the command fails."""
    result = host.run(shlex.join(command))
    assert result.rc == 0, f"{shlex.join(command[:4])} …: {result.stderr.strip()}"
    return str(result.stdout)
