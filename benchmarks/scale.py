"""Many cheap targets: one sshd on this machine, reached at many addresses of 127.0.0.0/8.

All targets show one host on which `up` has run, with a stand-in for docker. Only SSH and this
machine's work for each target are real.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import BIN
from benchmarks.fleet import fresh, wait_for
from kis_gateway_deploy.paths import ROOT
from kis_gateway_deploy.release import make_release
from kis_gateway_deploy.settings import SERVICE, Settings
from lab.engine import ensure_program

PORT = 22900
SSHD = """\
Port {port}
ListenAddress 0.0.0.0
HostKey {work}/host_key
AuthorizedKeysFile {work}/key.pub
PidFile {work}/sshd.pid
PermitRootLogin yes
StrictModes no
UsePAM no
MaxStartups 1000
MaxSessions 1000
SetEnv PATH={work}/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
DOCKER = """\
#!/bin/sh
case $1 in
  ps) echo {row} ;;
  inspect) echo {container} ;;
esac
"""


@dataclass(frozen=True)
class Run:
    """One no-op over `targets` hosts: wall and CPU seconds of the controller."""

    targets: int
    wall: float
    cpu: float


@contextmanager
def host(work: Path) -> Iterator[None]:
    """The sshd and the host behind it."""
    fresh(work)
    ensure_program("sshd", "openssh-server")
    for name in ("host_key", "key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / name], check=True
        )
    (work / "sshd_config").write_text(SSHD.format(port=PORT, work=work))
    Path("/run/sshd").mkdir(exist_ok=True)
    _lay_out(work)
    subprocess.run(["/usr/sbin/sshd", "-f", work / "sshd_config"], check=True)
    try:
        wait_for((work / "sshd.pid").exists, "sshd runs")
        yield
    finally:
        os.kill(int((work / "sshd.pid").read_text()), signal.SIGTERM)


def _data(work: Path) -> dict[str, object]:
    return {
        "gateway_image": "registry.example/kis@sha256:" + "0" * 64,
        "gateway_secrets_file": str(work / "kis.json"),
        "gateway_app_key_field": "kis-r-app-key",
        "gateway_app_dir": str(work / "app"),
        "gateway_token_dir": str(work / "tokens"),
        "gateway_user": "0:0",
    }


def _lay_out(work: Path) -> None:
    """The files of a host on which the gateway runs, and a docker that reports it."""
    (work / "kis.json").write_text(json.dumps({"kis-r-app-key": "K" * 36}))
    settings = Settings.model_validate(_data(work))
    release = make_release(settings)
    directory = work / "app" / "releases" / release.id
    directory.mkdir(parents=True)
    for name, file in release.files.items():
        (directory / name).write_bytes(file.content)
        (directory / name).chmod(file.mode)
    (work / "app" / "current").symlink_to(f"releases/{release.id}")
    (work / "tokens").mkdir(mode=0o700)
    token = Path(settings.token_path)
    token.touch(0o600)
    token.write_text(json.dumps({"access_token": "x", "expires_at": time.time() + 86400}))
    container = {
        "id": "c0ffee",
        "image": "sha256:1",
        "image_name": release.image.reference,
        "labels": {"com.docker.compose.project.config_files": f"{directory}/docker-compose.yml"},
        "status": "running",
        "restarts": 0,
        "health": "healthy",
        "ports": {},
    }
    row = f"c0ffee {settings.project}/{SERVICE} kis-1 {release.image.reference}"
    docker = work / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        DOCKER.format(
            row=shlex.quote(row), container=shlex.quote("container " + json.dumps(container))
        )
    )
    docker.chmod(0o755)
    (work / "bin" / "dockerd").symlink_to("docker")


def no_op(work: Path, targets: int) -> Run:
    """Runs `up` over this many addresses.

    Raises:
        RuntimeError: it failed, or it changed something.
    """
    data = _data(work) | {
        "ssh_port": PORT,
        "ssh_user": "root",
        "ssh_key": str(work / "key"),
        "ssh_strict_host_key_checking": "no",
        "ssh_known_hosts_file": "/dev/null",
    }
    hosts = [
        (f"t{n}", data | {"ssh_hostname": f"127.0.{1 + n // 200}.{1 + n % 200}"})
        for n in range(targets)
    ]
    inventory = work / "inventory.py"
    inventory.write_text(f"hosts = {hosts!r}\n")
    before, began = os.times(), time.monotonic()
    done = subprocess.run(
        [BIN / "pyinfra", "-y", inventory, ROOT / "deploy" / "up.py"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    wall, after = time.monotonic() - began, os.times()
    said = done.stdout + done.stderr
    if done.returncode or not re.search(r"Grand total +[0-9]+ +- +- ", said):
        raise RuntimeError(said[-3000:])
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return Run(targets, wall, cpu)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with host(place):
        for count in map(int, sys.argv[2:]):
            print(no_op(place, count))
