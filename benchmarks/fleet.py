"""The hosts of a benchmark: a lab, with the same preparation for all, behind a delay proxy."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.proxy import delayed
from kis_gateway_deploy.release import built_image
from lab import engine
from lab import lab as labs
from lab.lab import Lab, LabHost

# Kamal sends no files for a service: the credentials are put on the hosts beforehand.
KAMAL_SECRETS = "/etc/bench-secrets.json"


T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A host as a contender reaches it: at `port` on 127.0.0.1, which may be a proxy's."""

    host: LabHost
    port: int

    @property
    def name(self) -> str:
        return self.host.name


@dataclass
class Fleet:
    """`count` hosts with Docker, the gateway's image, a token, and Python."""

    lab: Lab
    count: int
    work: Path

    @property
    def hosts(self) -> list[LabHost]:
        return self.lab.hosts()[: self.count]

    @property
    def registry(self) -> str:
        """Address of Kamal's local registry, here and, through its connection, on every host."""
        return "localhost:5555"

    @property
    def image(self) -> str:
        """The gateway's image, as every host has it."""
        return built_image("kis-lab-gateway", labs.GATEWAY_CONTEXT).reference

    def prepare(self) -> None:
        """Brings the lab up and does all that is not measured."""
        labs.up(self.lab, self.count, bare=False)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._prepare, self.hosts))

    def _prepare(self, host: LabHost) -> None:
        # Restart sshd: a reload ends before sshd listens again.
        self.root(
            host,
            "command -v python3 >/dev/null || { apt-get update -q && "
            "apt-get install -q -y --no-install-recommends python3; } >/dev/null 2>&1; "
            "echo 'LogLevel VERBOSE' >/etc/ssh/sshd_config.d/bench.conf; systemctl restart ssh; "
            "install -d -m 0700 -o 10001 -g 10001 /docker_data/bench; usermod -aG docker ops",
        )
        with self.share_one_key().open("rb") as secrets:
            self.ssh(
                host,
                f"sudo sh -c 'umask 077; cat >{KAMAL_SECRETS}; chown 10001 {KAMAL_SECRETS}'",
                stdin=secrets,
            )
        if not self.root(host, f"docker image ls -q {self.image}"):
            with self.lab.gateway_archive.open("rb") as archive:
                self.ssh(host, "sudo docker load --quiet", stdin=archive)

    def ssh(self, host: LabHost, script: str, stdin: object = None) -> str:
        done = subprocess.run(
            ["ssh", "-F", self.lab.ssh_config, host.name, script],
            stdin=stdin or subprocess.DEVNULL,  # type: ignore[call-overload]
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{host.name}: {script}: {done.stderr[-2000:]}")
        return str(done.stdout).strip()

    def root(self, host: LabHost, script: str) -> str:
        """The output of a script on a host, as root and without its sshd."""
        return engine.docker("exec", self.lab.container(host.name), "sh", "-c", script)

    def each(self, script: str) -> list[str]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda host: self.root(host, script), self.hosts))

    def reset(self) -> None:
        """Removes everything of all contenders from the hosts; the token stays."""
        self.each(
            "docker ps -aq | xargs -r docker rm -f >/dev/null; "
            "docker network prune -f >/dev/null; rm -rf /opt/bench /home/ops/.kamal"
        )

    def wait_until_healthy(self) -> None:
        """Waits until the engine reports every gateway as healthy, so no probe is pending."""
        script = "docker ps --filter health=healthy -q | wc -l"
        wait_for(lambda: set(self.each(script)) == {"1"}, "every gateway is healthy")

    def counted(self, run: Callable[[], T]) -> tuple[T, float, float]:
        """The result of `run`, and per host the SSH commands and uploads, and the kilobytes.

        The sessions are from the log of the hosts' sshd, the bytes from their network interface, in
        both directions. The bytes include the gateway's own requests, a few kilobytes.
        """
        script = (
            "journalctl -u ssh --no-pager | grep -c 'Starting session'; "
            "cat /sys/class/net/eth0/statistics/[rt]x_bytes"
        )
        before = [list(map(int, said.split())) for said in self.each(script)]
        result = run()
        after = [list(map(int, said.split())) for said in self.each(script)]
        sessions, *octets = (
            (sum(late) - sum(early)) / self.count
            for late, early in zip(zip(*after, strict=True), zip(*before, strict=True), strict=True)
        )
        return result, sessions, sum(octets) / 1000

    @contextmanager
    def local_registry(self) -> Iterator[None]:
        """Kamal's registry, with the gateway's image and the label that Kamal requires."""
        engine.ensure_program("docker-registry", "docker-registry")
        directory = fresh(self.work / "registry")
        config = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(directory)}},
            "http": {"addr": self.registry.replace("localhost", "127.0.0.1")},
        }
        (directory / "registry.json").write_text(json.dumps(config))
        image = f"{self.registry}/kis:bench"
        with subprocess.Popen(
            ["docker-registry", "serve", directory / "registry.json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as registry:
            try:
                content = f"FROM {self.image}\nLABEL service=kis\n".encode()
                engine.docker("build", "--quiet", "--tag", image, "-", content=content)
                wait_for(
                    lambda: engine.succeeds(*engine.AS_ROOT, "docker", "push", "--quiet", image),
                    "the registry accepts the image",
                )
                yield
            finally:
                registry.terminate()
                engine.docker("image", "rm", "--force", image)

    @contextmanager
    def targets(self, rtt: int) -> Iterator[list[Target]]:
        """The hosts with `rtt` milliseconds of round trip added; 0 adds nothing."""
        if not rtt:
            yield [Target(host, host.ssh_port) for host in self.hosts]
            return
        with delayed([host.ssh_port for host in self.hosts], rtt / 2000) as ports:
            yield [Target(h, port) for h, port in zip(self.hosts, ports, strict=True)]

    def address(self, host: LabHost) -> str:
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return engine.docker("inspect", "--format", template, self.lab.container(host.name))

    def share_one_key(self) -> Path:
        """The secrets file of the one account that all hosts use."""
        return Path(self.hosts[0].secrets_file)

    def ssh_config(self, targets: Sequence[Target], is_direct: bool = False) -> Path:
        """The SSH configuration, with known host keys, for contenders that use OpenSSH's files.

        `is_direct` selects the hosts' own addresses and port 22 instead of the targets' ports.
        """
        path = self.work / f"ssh_config{'_direct' if is_direct else ''}"
        known = path.with_name(path.name.replace("ssh_config", "known_hosts"))
        lines = (line.split(" ", 1) for line in self.lab.known_hosts.read_text().splitlines())
        keys = {int(name.rpartition(":")[2]): key for name, key in lines}
        config, known_lines = [], []
        for target in targets:
            address = self.address(target.host) if is_direct else "127.0.0.1"
            port = 22 if is_direct else target.port
            name = address if is_direct else f"[{address}]:{port}"
            config.append(f"Host {target.name}\n  HostName {address}\n  Port {port}\n")
            known_lines.append(f"{name} {keys[target.host.ssh_port]}\n")
        known.write_text("".join(known_lines))
        path.write_text(
            "".join(config) + f"Host *\n  User ops\n  IdentityFile {self.lab.key}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n  BatchMode yes\n"
        )
        return path


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"timeout after {seconds:g} s, waiting until {what}")
        time.sleep(0.2)


def fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
