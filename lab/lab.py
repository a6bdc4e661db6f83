"""Throw-away hosts on this machine: each boots systemd, sshd and its own Docker in a container.

Usage: python -m lab.lab up --hosts 4 [--bare]
       python -m lab.lab down [--keep-images]

One KIS simulator runs beside the hosts; the hosts and their gateways can reach it. A lab's keys and
addresses are in its directory: KIS_LAB_DIR, by default `.lab`. Its containers, volumes and network
have the label `kis-lab=DIRECTORY`. Labs do not disturb each other.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from kis_gateway_deploy.paths import ROOT, SIMULATOR_CONTEXT
from kis_gateway_deploy.release import built_image
from lab.engine import (
    AS_ROOT,
    LabError,
    build,
    docker,
    ensure_engine,
    ensure_program,
    exists,
    make_base_image,
    run,
    say,
)

GATEWAY_CONTEXT = ROOT / "services" / "kis-gateway"
HOST_CONTEXT = ROOT / "lab" / "host"
FIRST_SSH_PORT = 22001  # below the ephemeral ports
ENGINE_DATA = ("docker", "containerd")  # directories of /var/lib
FILES = ("key", "key.pub", "known_hosts", "ssh_config", "hosts.json", "*.secrets.json", "*.tar")
MOST_HOSTS = 99
READY_WITHIN = 120  # seconds; ten hosts that boot in parallel on two cores take about 30
T = TypeVar("T")


@dataclass(frozen=True)
class LabHost:
    """One host as its users see it: user `ops`, sudo without a password."""

    name: str
    ssh_port: int
    """On 127.0.0.1 of this machine."""
    secrets_file: str
    """Secrets of this host's own account at the simulator."""


@dataclass(frozen=True)
class Lab:
    """Names and paths of a lab."""

    directory: Path

    @classmethod
    def from_environment(cls) -> Lab:
        return cls(Path(os.environ.get("KIS_LAB_DIR") or ROOT / ".lab").resolve())

    @property
    def name(self) -> str:
        """Name of the network, and prefix of the containers' and volumes' names."""
        return "kis-lab" if self.directory.name == ".lab" else f"kis-lab-{self.directory.name}"

    @property
    def label(self) -> str:
        """The label of all objects of this lab in the engine."""
        return f"kis-lab={self.directory}"

    @property
    def key(self) -> Path:
        return self.directory / "key"

    @property
    def public_key(self) -> Path:
        return self.directory / "key.pub"

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def gateway_archive(self) -> Path:
        """A `docker save` of this checkout's reference gateway."""
        tag = built_image("kis-lab-gateway", GATEWAY_CONTEXT).reference.partition(":")[2]
        return self.directory / f"gateway-{tag}.tar"

    @property
    def hosts_file(self) -> Path:
        return self.directory / "hosts.json"

    @property
    def network(self) -> str:
        """The first three bytes of its addresses, from the lab's name: two labs have two networks.

        The engines on the hosts use 172.16.0.0/12 and 192.168.0.0/16.
        """
        return f"10.213.{zlib.crc32(self.name.encode()) % 256}"

    @property
    def simulator_ip(self) -> str:
        return f"{self.network}.2"

    @property
    def simulator_url(self) -> str:
        """With an IP address: containers on the hosts cannot resolve this network's names."""
        return f"http://{self.simulator_ip}:9443"

    def container(self, host: str) -> str:
        """`kis-lab-1` for the host `lab-1`."""
        return f"{self.name}-{host.removeprefix('lab-')}"

    def secrets_file(self, container: str) -> Path:
        return self.directory / f"{container}.secrets.json"

    def hosts(self) -> list[LabHost]:
        """The hosts that are ready, in order.

        Raises:
            LabError: there is no lab, or `up` did not complete.
        """
        try:
            state = json.loads(self.hosts_file.read_text("utf-8"))
        except (OSError, ValueError):
            raise LabError(f"There is no lab in {self.directory}. Run: make lab HOSTS=2") from None
        return [LabHost(**host) for host in state["hosts"]]


def up(lab: Lab, count: int, bare: bool) -> None:
    """Brings the lab to `count` hosts; `bare` hosts have no Docker. Keeps correct hosts.

    Raises:
        LabError: a step failed. Nothing is undone; another `up` continues from there.
    """
    ensure_engine()
    ensure_program("ssh", "openssh-client")
    lab.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lab.hosts_file.unlink(missing_ok=True)  # no host to deploy to until all are ready
    if not lab.key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", lab.name, "-f", str(lab.key))

    make_base_image(lab.directory)
    kind = "bare" if bare else "docker"
    host_image = build(built_image(f"kis-lab-{kind}", HOST_CONTEXT), "--target", kind)
    simulator_image = build(built_image("kis-lab-simulator", SIMULATOR_CONTEXT))
    make_network(lab)

    say(f"starting the simulator and {count} hosts")
    ensure_container(lab, f"{lab.name}-simulator", simulator_arguments(lab), simulator_image)
    names = [f"lab-{number}" for number in range(1, count + 1)]
    keep = {lab.container(name) for name in names} | {f"{lab.name}-simulator"}
    side_by_side(functools.partial(remove, lab), set(containers(lab)) - keep)
    hosts = [
        LabHost(name, port, str(lab.secrets_file(lab.container(name))))
        for name, port in zip(names, ssh_ports(lab, names), strict=True)
    ]
    side_by_side(
        lambda host: ensure_container(
            lab, lab.container(host.name), host_arguments(lab, host), host_image
        ),
        hosts,
    )
    write_ssh_files(lab, hosts)
    side_by_side(lambda host: wait_until_ready(lab, host, bare), hosts)
    save_gateway(lab)
    wait_for(lambda: ask_simulator(lab, "GET", "health"), "the simulator answers")
    for host in hosts:
        open_account(lab, host)
    state = {"hosts": [asdict(host) for host in hosts]}
    lab.hosts_file.write_text(json.dumps(state, indent=2) + "\n", "utf-8")


def down(lab: Lab, keep_images: bool) -> None:
    """Removes every trace of the lab, in any state. Other labs stay as they are.

    Raises:
        LabError: the engine could not remove something.
    """
    if shutil.which("docker"):
        ensure_engine()
        side_by_side(functools.partial(remove, lab), containers(lab))
        for kind in ("network", "volume"):
            if left := labelled(lab, kind):
                docker(kind, "rm", *left)
        if not keep_images:
            used = set(docker("ps", "--all", "--format", "{{.Image}}").split())
            ours = docker(
                "images", "--filter", "reference=kis-lab-*", "--format", "{{.Repository}}:{{.Tag}}"
            ).split()
            if unused := set(ours) - used:
                docker("image", "rm", *unused)
    # Not the directory tree: KIS_LAB_DIR may contain other files.
    for pattern in FILES:
        for path in lab.directory.glob(pattern):
            path.unlink()
    with contextlib.suppress(OSError):
        lab.directory.rmdir()


# The lab's objects in the engine


def labelled(lab: Lab, kind: str) -> list[str]:
    """The names of this lab's objects of kind `network` or `volume`."""
    names = docker(kind, "ls", "--filter", f"label={lab.label}", "--format", "{{.Name}}")
    return names.splitlines()


def containers(lab: Lab) -> list[str]:
    return docker("ps", "--all", "--filter", f"label={lab.label}", "--format", "{{.Names}}").split()


def make_network(lab: Lab) -> None:
    """Makes the lab's network: its hosts can reach each other, but not other labs' hosts.

    Raises:
        LabError: the lab of another directory has the same name.
    """
    if lab.name in labelled(lab, "network"):
        return
    if exists("network", lab.name):
        raise LabError(
            f"The lab of another directory has the name {lab.name}: remove that lab first, or give "
            f"this lab another name: KIS_LAB_DIR={lab.directory.parent}/NAME"
        )
    docker(
        "network", "create", "--label", lab.label, "--subnet", f"{lab.network}.0/24",
        # The hosts' addresses. The simulator's is outside of this range: no host can take it.
        "--ip-range", f"{lab.network}.128/25", lab.name,
    )  # fmt: skip


# The lab's containers


def ensure_container(lab: Lab, name: str, arguments: list[str], image: str) -> None:
    """Keeps, starts or makes a container with this name and these `docker run` arguments."""
    spec = hashlib.sha256("\0".join([*arguments, image]).encode()).hexdigest()[:12]
    if exists("container", name):
        template = '{{index .Config.Labels "kis-lab-spec"}}'
        if docker("container", "inspect", "--format", template, name) == spec:
            docker("start", name)
            return
        remove(lab, name)
    docker(
        "run", "--detach", "--name", name, "--network", lab.name, "--restart", "unless-stopped",
        "--label", lab.label, "--label", f"kis-lab-spec={spec}", *arguments, image,
    )  # fmt: skip


def remove(lab: Lab, container: str) -> None:
    """Removes a container, its volumes and its secrets file. Stops it first: only the engine on
    the host removes the cgroups of the host's containers.
    """
    docker("stop", container)
    docker("rm", "--force", container)
    data = {f"{container}-{name}" for name in ENGINE_DATA}
    if volumes := data & set(labelled(lab, "volume")):
        docker("volume", "rm", *volumes)
    lab.secrets_file(container).unlink(missing_ok=True)


def simulator_arguments(lab: Lab) -> list[str]:
    return ["--ip", lab.simulator_ip, "--init", "--read-only", "--tmpfs", "/tmp"]  # noqa: S108


def host_arguments(lab: Lab, host: LabHost) -> list[str]:
    """`docker run` arguments for a container that boots systemd and its own engine."""
    mounts = [f"type=bind,source={lab.public_key},target=/etc/ssh/lab_key.pub,readonly"]
    # Docker's resolver listens on a loopback address, which containers on the host cannot reach.
    mounts += [f"type=bind,source={resolv_conf()},target=/etc/resolv.conf,readonly"]
    # The kernel refuses an overlay on an overlay: the engine's data is on volumes.
    mounts += [
        f"type=volume,source={lab.container(host.name)}-{data},target=/var/lib/{data},"
        f"volume-label={lab.label}"
        for data in ENGINE_DATA
    ]
    return [
        "--hostname", host.name,
        "--label", f"kis-lab-key={lab.public_key.read_text('utf-8').strip()}",
        "--publish", f"127.0.0.1:{host.ssh_port}:22",
        "--tmpfs", "/run", "--tmpfs", "/tmp:exec",  # noqa: S108
        "--env", "container=docker",  # tells systemd that it runs in a container
        *(argument for mount in mounts for argument in ("--mount", mount)),
        *privileges(),
    ]  # fmt: skip


def privileges() -> list[str]:
    """The privileges of systemd and a nested engine, by the machine's cgroup version."""
    if docker("info", "--format", "{{.CgroupVersion}}") != "1":
        return ["--privileged", "--cgroupns=private"]
    # Not --privileged: that fails on machines without CAP_SYS_RESOURCE.
    return [
        "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
        "--security-opt", "seccomp=unconfined",
        "--security-opt", "apparmor=unconfined",
        "--security-opt", "systempaths=unconfined",
        "--device-cgroup-rule", "a *:* rwm",
        "--cgroupns=host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw",
        "--env", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",
    ]  # fmt: skip


def resolv_conf() -> Path:
    """The file with the real resolvers, even if systemd-resolved listens on loopback."""
    resolved = Path("/run/systemd/resolve/resolv.conf")
    return resolved if resolved.exists() else Path("/etc/resolv.conf")


def ssh_ports(lab: Lab, names: Iterable[str]) -> list[int]:
    """Each host's current port, or a free one. Fixed: a reboot must not change it."""
    template = '{{with index .HostConfig.PortBindings "22/tcp"}}{{(index . 0).HostPort}}{{end}}'
    ports: dict[str, int] = {}
    for name in names:
        with contextlib.suppress(LabError):
            ports[name] = int(docker("inspect", "--format", template, lab.container(name)))
    candidates = iter(range(FIRST_SSH_PORT, 32768))
    for name in names:
        while name not in ports:
            port = next(candidates)
            if port not in ports.values() and is_free(port):
                ports[name] = port
    return [ports[name] for name in names]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def side_by_side(action: Callable[[T], None], items: Iterable[T]) -> None:
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(action, items))


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Waits until the condition holds; a LabError from it means not yet."""
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            if condition():
                return
            problem = ""
        except LabError as error:
            problem = f" {error}"
        if time.monotonic() > deadline:
            raise LabError(f"timeout after {READY_WITHIN} s, waiting until {what}.{problem}")
        time.sleep(0.2)


# SSH files, the gateway's image, accounts


def write_ssh_files(lab: Lab, hosts: list[LabHost]) -> None:
    """For `ssh -F .lab/ssh_config lab-1`. Host keys come from the engine, not the network."""
    known, config = [], []
    for host in hosts:
        path = "/etc/ssh/ssh_host_ed25519_key.pub"
        read = functools.partial(docker, "exec", lab.container(host.name), "cat", path)
        wait_for(read, f"{host.name} has made its SSH host key")
        known.append(f"[127.0.0.1]:{host.ssh_port} {read()}\n")
        config.append(f"Host {host.name}\n  Port {host.ssh_port}\n")
    lab.known_hosts.write_text("".join(known), "utf-8")
    config.append(
        "Host *\n"
        "  HostName 127.0.0.1\n"
        "  User ops\n"
        f"  IdentityFile {lab.key}\n"
        "  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {lab.known_hosts}\n"
        "  StrictHostKeyChecking yes\n"
        "  BatchMode yes\n"
        "  ConnectTimeout 5\n"
    )
    lab.ssh_config.write_text("".join(config), "utf-8")


def wait_until_ready(lab: Lab, host: LabHost, bare: bool) -> None:
    """Ready means: it answers over SSH, with sudo and, unless bare, a running engine."""
    words = ["id"] if bare else ["docker", "version"]
    ssh = functools.partial(run, "ssh", "-F", str(lab.ssh_config), host.name, "sudo", *words)
    wait_for(ssh, f"{host.name} is ready; see: docker exec {lab.container(host.name)} journalctl")


def save_gateway(lab: Lab) -> None:
    """Saves the reference gateway's image as a file; `up` sends it to hosts that lack it."""
    if lab.gateway_archive.exists():
        return
    image = build(built_image("kis-lab-gateway", GATEWAY_CONTEXT))
    partial = lab.directory / "partial.tar"
    docker("save", "--output", str(partial), image)
    run(*AS_ROOT, "chmod", "a+r", str(partial))
    partial.replace(lab.gateway_archive)


def open_account(lab: Lab, host: LabHost) -> None:
    """Gives each host its own app key: KIS issues one token per minute and app key."""
    path = Path(host.secrets_file)
    if not path.exists():
        app_key = f"LAB-{secrets.token_hex(4)}-{host.name}".ljust(36, "0")
        path.touch(mode=0o600)
        path.write_text(
            json.dumps({"kis-r-app-key": app_key, "kis-r-app-secret": secrets.token_hex(90)})
        )
    account = json.loads(path.read_text("utf-8"))
    credentials = {"app_key": account["kis-r-app-key"], "app_secret": account["kis-r-app-secret"]}
    ask_simulator(lab, "PUT", "credentials", credentials | {"host": "real"})


def ask_simulator(lab: Lab, method: str, path: str, body: object = None) -> Any:
    """The answer of the simulator's control API.

    Raises:
        LabError: there is no answer.
    """
    request = urllib.request.Request(  # noqa: S310 - the lab's own http URL
        f"{lab.simulator_url}/_simulator/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return json.load(answer)
    except OSError as error:
        raise LabError(f"the simulator at {lab.simulator_url} does not answer: {error}") from None


def main() -> None:
    parser = argparse.ArgumentParser(prog="lab", description="Throw-away hosts on this machine.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    bring_up = verbs.add_parser("up", help="bring up hosts, or change their number")
    bring_up.add_argument("--hosts", type=int, default=2, metavar="N")
    bring_up.add_argument(
        "--bare", action="store_true", help="hosts without Docker; a deploy installs it"
    )
    take_down = verbs.add_parser("down", help="remove every trace of the lab")
    take_down.add_argument("--keep-images", action="store_true", help="makes the next `up` faster")
    arguments = parser.parse_args()
    if arguments.verb == "up" and not 1 <= arguments.hosts <= MOST_HOSTS:
        parser.error(f"--hosts must be 1 to {MOST_HOSTS}, not {arguments.hosts}")
    lab = Lab.from_environment()
    try:
        if arguments.verb == "up":
            up(lab, arguments.hosts, arguments.bare)
            say(f"ready: {', '.join(host.name for host in lab.hosts())}. Next:")
            print(f"  make deploy INVENTORY=inventory/lab.py\n  ssh -F {lab.ssh_config} lab-1")
        else:
            down(lab, arguments.keep_images)
            say("removed")
    except LabError as error:
        sys.exit(f"lab: {error}\nFix this and try again. `make lab-down` removes the lab.")
    except KeyboardInterrupt:
        sys.exit("lab: interrupted. Run it again, or `make lab-down`.")


if __name__ == "__main__":
    main()
