"""Queries a deployed gateway on its host."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import time
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import pytest

from kis_gateway_deploy.host import directory, token_files, tokens
from kis_gateway_deploy.host.client import authority
from kis_gateway_deploy.reading import TokenProbe, parse_reading
from kis_gateway_deploy.release import COMPOSE_FILE, OVERRIDE_FILE, make_release
from kis_gateway_deploy.remote import ask
from kis_gateway_deploy.requests import read_request
from kis_gateway_deploy.settings import Settings
from kis_gateway_deploy.verify.inventory import InventoryHost, run

# Run on the host, so that no token leaves it: only its state, and a hash of each file.
EXAMINE = """
import hashlib, sys
files = TokenFiles(json.loads(sys.argv[2]))
with Directory(sys.argv[1]) as directory:
    names = files.names(directory)
    found = files.examine(directory, names)
    hashes = {name: hashlib.sha256(directory.read(name) or b"").hexdigest() for name in names}
print(json.dumps([found.state if found else "missing", found.expiries if found else [], hashes]))
"""

# Searches the log for each long word of the token files: these are no argument, and stay there.
FINDS_TOKENS = r"""
import sys
log = sys.stdin.buffer.read()
files = TokenFiles(json.loads(sys.argv[2]))
with Directory(sys.argv[1]) as directory:
    contents = [directory.read(name) or b"" for name in files.names(directory)]
words = re.findall(rb"[\w.+/=-]{40,}", b"\n".join(contents))
print(json.dumps(any(word in log for word in words)))
"""

PROBE = """
import sys, urllib.request
sys.exit(not 200 <= urllib.request.urlopen(sys.argv[1], timeout=2).status < 300)
"""


class TokensFound(NamedTuple):
    """The state of the token files (see `Evidence`), each token's expiry, each file's SHA-256."""

    state: str
    expiries: list[int]
    hashes: dict[str, str]


@cache
def _program(last: str) -> str:
    """A program for the host: the host program's own modules for token files, and `last`."""
    sources = "".join(map(inspect.getsource, (tokens, directory, token_files)))
    imports = re.compile(r"^from (\.|__future__).*\n", re.MULTILINE)
    return f"from __future__ import annotations\n{imports.sub('', sources)}{last}"


class Gateway:
    def __init__(self, inventory_host: InventoryHost) -> None:
        self.name = inventory_host.name
        self.settings: Settings = inventory_host.settings
        self.host = inventory_host.host

    def run(self, *command: str) -> str:
        """Runs a command as root on the gateway's host; fails the test if the command fails."""
        return run(self.host, *command)

    def expect_token_file(self) -> None:
        """Skips a test of the token if the gateway keeps it elsewhere."""
        if self.settings.token_store == "external":
            pytest.skip("gateway_token_store = 'external': the token cannot be judged")

    def expect_own_project(self) -> None:
        """Skips a test of what the operator's own compose file decides."""
        if self.settings.is_in_place:
            pytest.skip("gateway_compose_file: your own compose file decides that")

    @property
    def release_dir(self) -> str:
        """As the deploy names it, even if a part of its path is a link."""
        target = self.run("readlink", f"{self.settings.app_dir}/current").strip()
        return f"{self.settings.app_dir}/releases/{Path(target).name}"

    @property
    def compose_files(self) -> list[str]:
        """Those of the release that runs, which may be another one than the inventory's."""
        base, override = (f"{self.release_dir}/{name}" for name in (COMPOSE_FILE, OVERRIDE_FILE))
        return [base, override] if self.host.file(override).exists else [base]

    @property
    def containers(self) -> list[str]:
        label = "label=com.docker.compose"
        project = f"project={self.settings.project}"
        if self.settings.compose_file:
            project = f"project.working_dir={PurePath(self.settings.compose_file).parent}"
        return self.run(
            "docker", "ps", "--all", "--quiet", "--no-trunc",
            "--filter", f"{label}.{project}",
            "--filter", f"{label}.service={self.settings.service_name}",
        ).split()  # fmt: skip

    @property
    def container(self) -> str:
        containers = self.containers
        assert len(containers) == 1, f"found {len(containers)} gateway containers, not 1"
        return containers[0]

    def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(self.run("docker", "inspect", self.container))
        return found[0]

    def recreate(self) -> None:
        """Re-creates the container; in place as the operator does, with this one service."""
        words = ("--no-deps", "--no-build") if self.settings.is_in_place else ()
        self._compose("up", "--detach", "--force-recreate", *words)

    def remove_and_create(self) -> None:
        in_place = self.settings.is_in_place
        self._compose(*(("rm", "--stop", "--force") if in_place else ("down",)))
        self._compose("up", "--detach", *(("--no-deps", "--no-build") if in_place else ()))

    def _compose(self, *arguments: str) -> None:
        if self.settings.compose_file:
            directory = str(PurePath(self.settings.compose_file).parent)
            words = ["docker", "compose", *arguments, self.settings.service_name]
            self.run("sh", "-c", f"cd {shlex.quote(directory)} && {shlex.join(words)}")
            return
        files = [word for file in self.compose_files for word in ("--file", file)]
        self.run("docker", "compose", "--progress", "quiet", *files, *arguments)

    def logs(self, since: str = "") -> str:
        """The container's log, complete or since a time of the host's clock."""
        arguments = ["--since", since] if since else []
        result = self.host.run("docker logs %s " + " ".join(arguments), self.container)
        return str(result.stdout + result.stderr)

    def now(self) -> str:
        """The host's clock, as `docker logs --since` takes it."""
        return self.run("date", "+%s.%N").strip()

    def wait_until_healthy(self) -> None:
        """Waits until the gateway answers a client on the host; without HTTP, until it runs."""
        deadline = time.monotonic() + self.settings.rollout_healthy_deadline
        while why := self._is_unhealthy():
            assert time.monotonic() < deadline, (
                f"not healthy within {self.settings.rollout_healthy_deadline:g} s: {why}"
            )
            time.sleep(0.2)

    def _is_unhealthy(self) -> str:
        status = self.inspect()["State"]["Status"] if self.containers else "missing"
        if status != "running":
            return f"the container is {status}"
        if self.settings.health_path is None:
            return ""
        settings = self.settings
        where = authority(settings.client_address, settings.published_port)
        url = f"http://{where}{settings.health_path}"
        result = self.host.run("python3 -c %s %s", PROBE, url)
        return "" if result.rc == 0 else f"{url}: {result.stderr.strip().splitlines()[-1:]}"

    def token_files(self) -> TokensFound:
        return TokensFound(*json.loads(self.run(*self._of_tokens(EXAMINE))))

    def shows_token(self) -> bool:
        """Whether a word of the token files is in the container's log."""
        search = shlex.join(self._of_tokens(FINDS_TOKENS))
        result = self.host.run(f"docker logs {self.container} 2>&1 | {search}")
        assert result.rc == 0, f"the log could not be searched: {result.stderr.strip()}"
        return bool(json.loads(result.stdout))

    def _of_tokens(self, last: str) -> list[str]:
        form = json.dumps(self.settings.token_file)
        return ["python3", "-I", "-S", "-c", _program(last), self.settings.token_dir, form]

    def probe(self) -> TokenProbe | None:
        """What `gateway_probe` is answered; None without one. The request travels as a deploy's:
        its headers may be secret.
        """
        backend = self.host.backend
        request = read_request(self.settings, make_release(self.settings), probe=True)
        answer = ask(backend.pyinfra_host, "read", request, connector=backend.arguments)
        return parse_reading(answer).token_probe

    def issuances(self) -> int | None:
        """Successful calls of the token endpoint, counted by the simulator.

        None without it, and for a gateway in place, whose app key is unknown.
        """
        if not self.settings.simulator or self.settings.is_in_place:
            return None
        url = "http://127.0.0.1:9443/_simulator/counters"
        probe = f"import urllib.request as u; print(u.urlopen('{url}').read().decode())"
        counters = json.loads(self.run("docker", "exec", "kis-simulator", "python3", "-c", probe))
        found = (host.get(self.settings.credentials.app_key, {}) for host in counters.values())
        return sum(int(each.get("issuances", 0)) for each in found)
