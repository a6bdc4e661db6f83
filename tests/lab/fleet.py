"""The hosts of a rollout, and readings of their state: over SSH, from all hosts in parallel."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.saved_image import find_image
from lab.lab import Lab, ask_simulator
from tests.tools import BIN, Outcome, command, docker

T = TypeVar("T")

# The lab's inventory, with changes for all hosts and for some.
INVENTORY = """\
from inventory.lab import lab as _lab
_all, _per_host = {everywhere!r}, {per_host!r}
_changed = [(name, data | _all | _per_host.get(name, {{}})) for name, data in _lab]
lab = [(name, {{k: v for k, v in data.items() if v is not None}}) for name, data in _changed]
"""

SOME_HOSTS = """\
from inventory.lab import lab as _lab
_data = {data!r}
_changed = [(name, data | _data[name]) for name, data in _lab if name in _data]
lab = [(name, {{k: v for k, v in data.items() if v is not None}}) for name, data in _changed]
"""

QUICK = {
    "rollout_min_healthy_time": 1,
    "rollout_healthy_deadline": 60,
    "rollout_batches": [1, 1, "100%"],
}


def changed() -> dict[str, Any]:
    """A setting with a new value, which makes a new release."""
    return {"gateway_labels": {"changed": secrets.token_hex(4)}}


def _hear_hangups() -> None:
    """The tests may themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclass
class Fleet:
    lab: Lab
    directory: Path
    settings: dict[str, Any] = field(default_factory=lambda: dict(QUICK))

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.lab.hosts()]

    @property
    def gateway_image(self) -> str:
        """The reference gateway's image, which was sent to the hosts."""
        return find_image("kis-gateway", self.lab.gateway_archive).reference("kis-gateway")

    # Actions of an operator

    def up(
        self, *flags: str, per_host: dict[str, dict[str, Any]] | None = None, **changes: Any
    ) -> Outcome:
        return self._pyinfra(self._inventory(changes, per_host), "deploy/up.py", *flags)

    def run(self, deploy: str, *flags: str) -> Outcome:
        """Runs another verb with the inventory of the last `up`."""
        return self._pyinfra(self.directory / "inventory.py", deploy, *flags)

    def run_with(self, data: dict[str, dict[str, Any]], deploy: str, *flags: str) -> Outcome:
        """Runs a verb on some hosts, each with its own changes to the lab's inventory."""
        path = self.directory / f"{secrets.token_hex(4)}.py"  # two runs may be concurrent
        path.write_text(SOME_HOSTS.format(data=data))
        return self._pyinfra(path, deploy, *flags)

    def inventory_of(self, data: dict[str, dict[str, Any]], bare: Sequence[str] = ()) -> Path:
        """An inventory without imports: these hosts with their changes, and the hosts `bare`.

        A bare host has no setting of this package.
        """
        script = "import json; from inventory.lab import lab; print(json.dumps(lab, default=str))"
        read = command(sys.executable, "-c", script, cwd=ROOT, env=self._environment)
        hosts = []
        for name, found in json.loads(read.stdout):
            if name in data:
                changes = found | data[name]
                hosts.append((name, {k: v for k, v in changes.items() if v is not None}))
            elif name in bare:
                ways = {k: v for k, v in found.items() if not k.startswith("gateway_")}
                hosts.append((name, ways))
        path = self.directory / f"{secrets.token_hex(4)}.py"
        path.write_text(f"lab = {hosts!r}\n")
        return path

    def run_on(self, inventory: Path, deploy: str, *flags: str) -> Outcome:
        return self._pyinfra(inventory, deploy, *flags)

    def start_up(self, **changes: Any) -> subprocess.Popen[str]:
        """Starts `up` in the background, as `make` does; the caller reads its output."""
        return subprocess.Popen(
            [BIN / "python", "-m", "deploy", "up", self._inventory(changes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=self._environment | {"PYTHONUNBUFFERED": "1"},
            preexec_fn=_hear_hangups,
        )

    def up_concurrently(self, **changes: Any) -> Outcome:
        """Runs `up` with its own inventory file, so that two can run at the same time."""
        path = self._inventory(changes, name=f"{secrets.token_hex(4)}.py")
        return self._pyinfra(path, "deploy/up.py")

    def interrupt(
        self, moment: str, act: Callable[[subprocess.Popen[str]], object], **changes: Any
    ) -> Outcome:
        """Runs `up` with a change, acts when its output names the moment, and waits for its end."""
        process = self.start_up(**changed() | changes)
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if moment in line:
                act(process)
                break
        else:
            raise AssertionError(f"the moment never came: {moment}\n{output}")
        output += process.stdout.read()
        return Outcome(process.wait(), output)

    @contextmanager
    def silence_later(self, host: str) -> Iterator[Callable[[object], None]]:
        """Yields a function that drops every packet of a host's sshd until the block ends."""
        drop = "iptables -{} {} -p tcp --{} 22 -j DROP"
        rules = [("INPUT", "dport"), ("OUTPUT", "sport")]

        def silence(action: str) -> None:
            for chain, port in rules:
                self.in_container(host, "sh", "-c", drop.format(action, chain, port))

        try:
            yield lambda _: silence("I")
        finally:
            silence("D")

    def _pyinfra(self, inventory: Path, deploy: str, *flags: str) -> Outcome:
        result = command(
            BIN / "pyinfra", "-y", *flags, inventory, deploy, cwd=ROOT, env=self._environment
        )
        return Outcome(result.returncode, result.stdout + result.stderr)

    def _inventory(
        self,
        changes: dict[str, Any],
        per_host: dict[str, dict[str, Any]] | None = None,
        name: str = "inventory.py",
    ) -> Path:
        path = self.directory / name
        everywhere = self.settings | changes
        path.write_text(INVENTORY.format(everywhere=everywhere, per_host=per_host or {}))
        return path

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"KIS_LAB_DIR": str(self.lab.directory)}

    # Observations

    def on(self, host: str, script: str) -> str:
        """The output of a shell script that the operator's user runs on a host."""
        result = command("ssh", "-F", self.lab.ssh_config, host, script)
        assert result.returncode == 0, f"{host}: {script}: {result.stderr}"
        return result.stdout.strip()

    def address(self, host: str) -> str:
        """The address of a host in the lab's network."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", "--format", form, self.lab.container(host))

    def in_container(self, host: str, *words: str) -> str:
        """The output of a command that root runs on a host, without using its sshd."""
        return docker("exec", self.lab.container(host), *words)

    def _each(self, ask: Callable[[str], T]) -> dict[str, T]:
        with ThreadPoolExecutor() as pool:
            return dict(zip(self.names, pool.map(ask, self.names), strict=True))

    def containers(self) -> dict[str, str]:
        """The gateway's container id on each host."""
        project = "label=com.docker.compose.project=kis"
        return self._each(lambda h: self.on(h, f"sudo docker ps -aq --no-trunc -f {project}"))

    def health(self) -> dict[str, str]:
        """The health of the gateway that Docker reports on each host."""
        project = "label=com.docker.compose.project=kis"
        script = (
            f"sudo docker ps -aq -f {project} | "
            "xargs -r sudo docker inspect -f '{{.State.Health.Status}}'"
        )
        return self._each(lambda h: self.on(h, script))

    def engine_times(self) -> dict[str, str]:
        """The time of each engine's clock."""
        return self._each(lambda h: self.on(h, "sudo docker info -f '{{.SystemTime}}'"))

    def engine_events(self, since: dict[str, str], until: dict[str, str]) -> dict[str, list[str]]:
        """All events of each engine, except for the commands of health checks."""

        def ask(host: str) -> list[str]:
            span = f"--since {since[host]} --until {until[host]}"
            output = self.on(
                host, f"sudo docker events {span} --format '{{{{.Type}}}} {{{{.Action}}}}'"
            )
            return [event for event in output.splitlines() if "exec_" not in event]

        return self._each(ask)

    def releases(self) -> dict[str, str]:
        """The release that `current` names; the container must run the same release."""
        label = "com.docker.compose.project.working_dir"
        script = (
            "sudo readlink /opt/kis-gateway/current; "
            "sudo docker ps -q -f label=com.docker.compose.project=kis | "
            f"xargs -r sudo docker inspect -f '{{{{index .Config.Labels \"{label}\"}}}}'"
        )
        found = {
            name: output.split()
            for name, output in self._each(lambda h: self.on(h, script)).items()
        }
        for name, (current, running) in found.items():
            assert Path(current).name == Path(running).name, f"{name}: {current} but {running}"
        return {name: Path(current).name for name, (current, _) in found.items()}

    def previous(self) -> dict[str, str]:
        """The release that a rollback would restore."""
        script = "sudo readlink /opt/kis-gateway/previous || true"
        return self._each(lambda h: Path(self.on(h, script)).name)

    def compose_hashes(self) -> dict[str, str]:
        """A hash of the current compose file; it is equal on hosts with the same release."""
        script = "sudo sha256sum /opt/kis-gateway/current/docker-compose.yml"
        return self._each(lambda h: self.on(h, script).split()[0])

    def tokens(self) -> dict[str, str]:
        """Hashes of the token files."""
        script = "sudo sha256sum /docker_data/kis_tokens/kis_token.json"
        return self._each(lambda h: self.on(h, script).split()[0])

    def serving(self) -> list[str]:
        """The hosts whose gateway is ready, which requires a valid token."""
        probe = "curl -sf -m 5 -o /dev/null http://127.0.0.1:8080/ready"
        answers = self._each(lambda h: command("ssh", "-F", self.lab.ssh_config, h, probe))
        return [name for name, answer in answers.items() if answer.returncode == 0]

    def switching(self) -> list[str]:
        """The hosts on which a switch is under way."""
        free = "sudo flock --nonblock /opt/kis-gateway/.switch.lock true"
        answers = self._each(lambda h: command("ssh", "-F", self.lab.ssh_config, h, free))
        return [name for name, answer in answers.items() if answer.returncode != 0]

    def history(self, host: str) -> list[dict[str, Any]]:
        lines = self.on(host, "sudo cat /opt/kis-gateway/history.jsonl").splitlines()
        return [json.loads(line) for line in lines]

    def issuances(self) -> dict[str, int]:
        return self._count("issuances")

    def rejections(self) -> dict[str, int]:
        return self._count("rejections")

    def _count(self, what: str) -> dict[str, int]:
        counters = ask_simulator(self.lab, "GET", "counters")["real"]
        accounts = {h.name: json.loads(Path(h.secrets_file).read_text()) for h in self.lab.hosts()}
        return {name: counters[a["kis-r-app-key"]][what] for name, a in accounts.items()}
