"""The table of faults. Each function injects one and yields the outcome of the run that meets it;
after that it does what the message tells an operator to do.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kis_gateway_deploy.host.change import STEPS
from kis_gateway_deploy.paths import ROOT
from lab.lab import open_account
from tests.lab.bench import APP, GATEWAY, SEED, TOKEN, TOKENS, Bench, Fault, Injection
from tests.lab.fleet import changed
from tests.tools import BIN, Outcome, command, docker, wait_for

HOST_PROGRAM = "[s]ys,zlib;f=sys"  # not this pkill's own command line
PORT = 8080
HOSTS = ["lab-1", "lab-2", "lab-3", "lab-4"]


# Killed and stopped at random moments of a changed rollout of four hosts


def rollout(bench: Bench, moment: float, act: Callable[[subprocess.Popen[str]], object]) -> Outcome:
    """A changed rollout of all hosts; `act` comes after a fraction of its usual time."""
    process = bench.fleet.start_up(**changed())
    time.sleep(moment * bench.longest)  # the fault is about this moment
    was_running = process.poll() is None
    act(process)
    output, _ = process.communicate(timeout=300)
    stopped = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if was_running and getattr(act, "signal", None) in stopped:
        assert process.returncode != 0, f"status 0 after a signal: {output}"
    return Outcome(process.returncode, output)


def sends(which: signal.Signals, times: int = 1) -> Callable[[subprocess.Popen[str]], None]:
    def act(process: subprocess.Popen[str]) -> None:
        for number in range(times):
            time.sleep(0.5 * bool(number))
            process.send_signal(which)

    act.signal = which  # type: ignore[attr-defined]
    return act


def stops_for_20_s(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGSTOP)
    time.sleep(20)
    process.send_signal(signal.SIGCONT)


def to_controller(act: Callable[[subprocess.Popen[str]], object]) -> Callable[..., Injection]:
    def at(chance: random.Random) -> Injection:
        moment = chance.random()

        def inject(bench: Bench) -> Iterator[Outcome]:
            yield rollout(bench, moment, act)

        return inject

    return at


def on_a_host(script: str) -> Callable[..., Injection]:
    """Runs a script on one host at a random moment."""

    def at(chance: random.Random) -> Injection:
        moment, host = chance.random(), chance.choice(HOSTS)

        def inject(bench: Bench) -> Iterator[Outcome]:
            yield rollout(bench, moment, lambda _: bench.root(script, host))

        return inject

    return at


def kills_dockerd(chance: random.Random) -> Injection:
    """Docker that was killed in a start may hold the port for no container: the run says so."""
    moment, host = chance.random(), chance.choice(HOSTS)

    def inject(bench: Bench) -> Iterator[Outcome]:
        outcome = rollout(bench, moment, lambda _: bench.root("pkill -KILL dockerd", host))
        if "systemctl restart docker" in outcome.output:
            bench.root("systemctl restart docker", host)
            bench.fleet.up()
        yield outcome

    return inject


def kills_the_worker(chance: random.Random) -> Injection:
    step = chance.choice(STEPS)

    def inject(bench: Bench) -> Iterator[Outcome]:
        outcome = bench.fleet.up(**changed(), die_at=step)
        assert "the switch process died" in outcome.output, outcome.output
        yield outcome

    return inject


def kills_the_supervisor(chance: random.Random) -> Injection:
    """Nothing is left on the host that would end the switch; the controller asks it to."""
    after = chance.uniform(0, 2)

    def inject(bench: Bench) -> Iterator[Outcome]:
        def kill(_: object) -> None:
            time.sleep(after)
            bench.root(f"pkill -KILL -f '{HOST_PROGRAM}' || true")  # or it has ended

        yield bench.fleet.interrupt(f"[{bench.host}] switch:", kill)

    return inject


def kills_the_simulator(chance: random.Random) -> Injection:
    moment = chance.random()
    name = "simulator"

    def inject(bench: Bench) -> Iterator[Outcome]:
        def kill(_: object) -> None:
            bench.forget_counters()
            docker("kill", bench.fleet.lab.container(name))

        outcome = rollout(bench, moment, kill)
        start_simulator(bench)  # the counters must be read
        yield outcome

    return inject


def start_simulator(bench: Bench) -> None:
    lab = bench.fleet.lab
    docker("start", lab.container("simulator"))
    wait_for(lambda: command("curl", "-sf", f"{lab.simulator_url}/_simulator/health").stdout, "KIS")
    for host in lab.hosts():
        open_account(lab, host)


AT_RANDOM: dict[str, Callable[[random.Random], Injection]] = {
    "SIGKILL of the controller": to_controller(sends(signal.SIGKILL)),
    "SIGKILL of the switch's worker": kills_the_worker,
    "SIGKILL of dockerd": kills_dockerd,
    "SIGKILL of containerd": on_a_host("pkill -KILL -x containerd"),
    "SIGKILL of the gateway": on_a_host("pkill -KILL gunicorn || true"),
    "SIGKILL of KIS (the simulator)": kills_the_simulator,
    "SIGINT of the controller": to_controller(sends(signal.SIGINT)),
    "SIGINT of the controller, twice": to_controller(sends(signal.SIGINT, times=2)),
    "SIGTERM of the controller": to_controller(sends(signal.SIGTERM)),
    "SIGHUP of the controller": to_controller(sends(signal.SIGHUP)),
    "SIGSTOP of the controller for 20 s": to_controller(stops_for_20_s),
    "SIGKILL of the switch's worker and supervisor": kills_the_supervisor,
}


def at_random() -> list[Fault]:
    """One of each kind, or FAULTS_COUNT in total; the number names the moment of a seed."""
    count = int(os.environ.get("FAULTS_COUNT") or len(AT_RANDOM))
    kinds = list(AT_RANDOM.items())
    made = []
    for number in range(count):
        name, make = kinds[number % len(kinds)]
        chance = random.Random(f"{SEED} {number}")  # noqa: S311 - the seed must be enough
        made.append(
            Fault(
                "killed at a random moment",
                f"{number + 1}: {name}",
                make(chance),
                fails=None,
                on_all=True,
                is_short=number == 0,
            )
        )
    return made


# The token


def before_up(script: str, undo: str = "") -> Injection:
    """Runs a script as root on the host, then deploys a change to it."""

    def inject(bench: Bench) -> Iterator[Outcome]:
        bench.root(script)
        try:
            yield bench.up()
        finally:
            if undo:
                bench.root(undo)

    return inject


def before_same(script: str, undo: str = "") -> Injection:
    """Runs a script as root on the host, then deploys to it, without a change."""

    def inject(bench: Bench) -> Iterator[Outcome]:
        bench.root(script)
        try:
            yield bench.run("up")
        finally:
            if undo:
                bench.root(undo)

    return inject


# In place of the directory: a small disk with the same files, which is full.
SMALL_DISK = (
    "cp -a {0} /run/copy && mount -t tmpfs -o size=128k,mode=0700 tmpfs {0} && "
    "cp -a /run/copy/. {0}/ && rm -r /run/copy"
)
FILL = "dd if=/dev/zero of={0}/filler bs=4k 2>/dev/null || true"

FORGE = """\
import base64, json, sys, time
path, seconds = sys.argv[1], int(sys.argv[2])
found = json.load(open(path))
head, body, sign = found["access_token"].split(".")
claims = json.loads(base64.urlsafe_b64decode(body + "=="))
claims["exp"] = found["expires_at"] = int(time.time()) + seconds
body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
found["access_token"] = ".".join([head, body, sign])
open(path, "w").write(json.dumps(found))
"""


def token_expires_in(seconds: int) -> Injection:
    def inject(bench: Bench) -> Iterator[Outcome]:
        bench.root(
            f"cat >/run/forge.py <<'END'\n{FORGE}\nEND\npython3 /run/forge.py {TOKEN} {seconds}"
        )
        yield bench.up()

    return inject


def token_is_ended_by_kis(bench: Bench) -> Iterator[Outcome]:
    account = bench.account()
    token = json.loads(bench.root(f"cat {TOKEN}"))["access_token"]
    body = {
        "appkey": account["kis-r-app-key"],
        "appsecret": account["kis-r-app-secret"],
        "token": token,
    }
    url = f"{bench.fleet.lab.simulator_url}/oauth2/revokeP"
    said = command(
        "curl",
        "-sf",
        "-H",
        "Content-Type: application/json",
        "-d",
        "@-",
        url,
        input=json.dumps(body),
    )
    assert said.returncode == 0, said.stdout + said.stderr
    outcome = bench.up()
    price = "/uapi/domestic-stock/v1/quotations/inquire-price?FID_INPUT_ISCD=005930"
    ask = f"curl -sf -m 20 -H 'tr_id: FHKST01010100' 'http://127.0.0.1:{PORT}{price}'"
    assert json.loads(bench.root(ask))["rt_cd"] == "0"
    yield outcome


def kis_clock_is_fast(bench: Bench) -> Iterator[Outcome]:
    """By an hour, while a token is issued. The other way KIS would see issuances of the future."""
    bench.simulator("PUT", "clock", {"advance": 3600})
    bench.root(f"rm {TOKEN}")
    yield bench.up()


def kis_clock_is_slow(bench: Bench) -> Iterator[Outcome]:
    """By an hour, while a token is issued for an app key that KIS has not seen before.

    For any other one, KIS would see an issuance of the future.
    """
    account = {name: secrets.token_hex(18) for name in ("kis-r-app-key", "kis-r-app-secret")}
    body = {"app_key": account["kis-r-app-key"], "app_secret": account["kis-r-app-secret"]}
    bench.simulator("PUT", "credentials", body | {"host": "real"})
    bench.simulator("PUT", "clock", {"advance": -3600})
    try:
        with tempfile.NamedTemporaryFile("w") as file:
            json.dump(account, file)
            file.flush()
            yield bench.up(gateway_secrets_file=file.name)
        counted = bench.simulator("GET", "counters")["real"][account["kis-r-app-key"]]
        assert (counted["issuances"], counted["rejections"]) == (1, 0)
    finally:
        bench.simulator("PUT", "clock", {"advance": 3600})


def on_a_read_only_disk(bench: Bench) -> Iterator[Outcome]:
    bench.root(SMALL_DISK.format(TOKENS))
    try:
        moved = bench.up()
        assert moved.status == 0, moved.output
        bench.root(f"mount -o remount,ro {TOKENS}")
        yield bench.up()
        bench.root(f"mount -o remount,rw {TOKENS}")
    finally:
        bench.root(f"umount -l {TOKENS}")


KILL_GATEWAY = "kill -KILL $(docker inspect -f '{{.State.Pid}}' " + GATEWAY + ")"
TOKEN_FAULTS = [
    Fault(
        "token",
        "the gateway is killed while it writes its file",
        before_up(f"truncate -s 40 {TOKEN}; {KILL_GATEWAY}; sleep 3"),
        issuances=1,
    ),
    Fault(
        "token", "file cut off", before_up(f"truncate -s 40 {TOKEN}"), "set aside", issuances=1,
        is_short=True,
    ),
    Fault("token", "file emptied", before_up(f"truncate -s 0 {TOKEN}"), "set aside", issuances=1),
    Fault(
        "token", "file replaced by a directory", before_up(f"rm {TOKEN}; mkdir {TOKEN}"),
        "set aside", issuances=1,
    ),
    Fault(
        "token", "file replaced by a link", before_up(f"rm {TOKEN}; ln -s /etc/shadow {TOKEN}"),
        "set aside", issuances=1,
    ),
    Fault(
        "token", "file replaced by a FIFO", before_up(f"rm {TOKEN}; mkfifo {TOKEN}"),
        "set aside", issuances=1,
    ),
    Fault("token", "file of root", before_up(f"chown 0:0 {TOKEN}")),
    Fault("token", "file with mode 0000", before_up(f"chmod 0 {TOKEN}")),
    Fault(
        "token", "directory of root, mode 0000", before_up(f"chown 0:0 {TOKENS}; chmod 0 {TOKENS}")
    ),
    Fault(
        "token", "directory removed while the gateway runs", before_up(f"rm -r {TOKENS}"),
        "was removed while the container ran", issuances=1,
    ),
    Fault(
        "token", "directory on a full disk",
        before_up(
            f"{SMALL_DISK} && {FILL}".format(TOKENS),
            f"umount -l {TOKENS}",
        ),
    ),
    Fault(
        "token", "directory on a disk that is read-only now", on_a_read_only_disk,
        "Read-only file system", fails=True,
    ),
    Fault("token", "KIS's clock an hour fast", kis_clock_is_fast, issuances=1),
    Fault("token", "KIS's clock an hour slow, and another app key", kis_clock_is_slow),
    Fault("token", "expired", token_expires_in(-60), issuances=1),
    Fault("token", "about to expire", token_expires_in(300), issuances=1),
    Fault("token", "ended by KIS", token_is_ended_by_kis, issuances=1),
]  # fmt: skip


# KIS


def kis_is_ill(kind: str, **more: Any) -> Injection:
    """A gateway with its token does not need KIS to be deployed."""

    def inject(bench: Bench) -> Iterator[Outcome]:
        bench.kis_answers(kind, **more)
        try:
            yield bench.up()
        finally:
            bench.simulator("DELETE", "faults")

    return inject


class Page(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>under maintenance</html>")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def page(address: str) -> Iterator[str]:
    """The URL of a server that answers everything with HTML."""
    server = ThreadingHTTPServer((address, 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{address}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def kis_answers_html(bench: Bench) -> Iterator[Outcome]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((bench.fleet.lab.simulator_ip, PORT))
        address = route.getsockname()[0]  # of this machine in the lab's network
    with page(address) as url:
        yield bench.up(gateway_environment={"KIS_BASE_URL": url})


def kis_refuses_connections(bench: Bench) -> Iterator[Outcome]:
    yield bench.up(gateway_environment={"KIS_BASE_URL": f"http://{bench.fleet.lab.simulator_ip}:9"})


def without_token(kind: str, **more: Any) -> Injection:
    """The token is gone, and KIS gives none: no release can pass."""

    def inject(bench: Bench) -> Iterator[Outcome]:
        bench.kis_answers(kind, **more)
        bench.root(f"rm {TOKEN}")
        try:
            yield bench.up(rollout_healthy_deadline=15)
        finally:
            bench.simulator("DELETE", "faults")
            bench.simulator("PUT", "clock", {"advance": 61})

    return inject


def kis_is_back_after_ten_minutes(bench: Bench) -> Iterator[Outcome]:
    """The gateway that got no token gets one by itself, once KIS is back."""
    bench.kis_answers("empty500", for_seconds=600)
    bench.root(f"rm {TOKEN}")
    outcome = bench.up(rollout_healthy_deadline=15)
    bench.simulator("PUT", "clock", {"advance": 601})
    wait_for(lambda: bench.host in bench.fleet.serving(), "it has a token by itself", 240)
    yield outcome


KIS_FAULTS = [
    Fault("KIS, in a deploy", "EGW00133", kis_is_ill("error", code="EGW00133"), is_short=True),
    Fault("KIS, in a deploy", "EGW00103", kis_is_ill("error", code="EGW00103")),
    Fault("KIS, in a deploy", "EGW00105", kis_is_ill("error", code="EGW00105")),
    Fault("KIS, in a deploy", "HTTP 500 without a code", kis_is_ill("empty500")),
    Fault("KIS, in a deploy", "no answer for a minute", kis_is_ill("hang", seconds=60)),
    Fault("KIS, in a deploy", "connection reset", kis_is_ill("reset")),
    Fault("KIS, in a deploy", "connection refused", kis_refuses_connections),
    Fault("KIS, in a deploy", "HTML instead of JSON", kis_answers_html),
    Fault(
        "KIS, and no token is left", "EGW00133, once",
        without_token("error", code="EGW00133", count=1), issuances=1, rejections=1,
    ),
    Fault(
        "KIS, and no token is left", "EGW00103", without_token("error", code="EGW00103"),
        "EGW00103", fails=True, issuances=1, rejections=3,
    ),
    Fault(
        "KIS, and no token is left", "EGW00105", without_token("error", code="EGW00105"),
        "EGW00105", fails=True, issuances=1, rejections=3,
    ),
    Fault(
        "KIS, and no token is left", "back after 10 minutes", kis_is_back_after_ten_minutes,
        "HTTP 500", fails=True, issuances=1, rejections=3,
    ),
]  # fmt: skip


# The container


def broken(environment: dict[str, str], **changes: Any) -> Injection:
    def inject(bench: Bench) -> Iterator[Outcome]:
        yield bench.up_broken({"STATUS": "200"} | environment, **changes)

    return inject


def out_of_memory(bench: Bench) -> Iterator[Outcome]:
    yield bench.up(gateway_memory_limit="12m", rollout_healthy_deadline=15)


# Another process in the container takes all its memory; the kernel kills the gateway for it.
TAKE_ALL_MEMORY = f"""\
for pid in $(docker top {GATEWAY} -o pid | tail -n +2); do echo 1000 >/proc/$pid/oom_score_adj; done
taken='taken = []
while True: taken.append(bytearray(1 << 24))'
docker exec {GATEWAY} python3 -c "$taken" || true
sleep 3
docker inspect -f '{{{{.RestartCount}}}}' {GATEWAY} | grep -v '^0'
"""
THIEF = (
    f"docker stop {GATEWAY}; docker run -d --name thief -p {PORT}:{PORT} "
    f"$(docker inspect -f '{{{{.Config.Image}}}}' {GATEWAY}) sleep 600"
)
CONTAINER_FAULTS = [
    Fault("container", "the new one is out of memory", out_of_memory, "exited", fails=True),
    Fault("container", "out of memory while it runs", before_up(TAKE_ALL_MEMORY)),
    Fault("container", "SIGKILL", before_up(f"{KILL_GATEWAY}; sleep 3")),
    Fault("container", "stopped", before_same(f"docker stop {GATEWAY}"), "exited", is_short=True),
    Fault("container", "removed", before_same(f"docker rm -f {GATEWAY}"), "no gateway container"),
    Fault("container", "paused", before_same(f"docker pause {GATEWAY}"), "paused"),
    Fault(
        "container", "removed, and its image too",
        before_same(
            f"i=$(docker inspect -f '{{{{.Image}}}}' {GATEWAY}); docker rm -f {GATEWAY}; "
            "docker rmi -f $i"
        ),
        "Fetch the image",
    ),
    Fault(
        "container", "another one has its port",
        before_up(THIEF, "docker rm -f thief"),
        "held by the container thief: stop it (docker stop thief)", fails=True, is_down=True,
    ),
    Fault(
        "container", "the new one is healthy for 8 s and dies",
        broken({"DIES_AFTER": "8"}, rollout_min_healthy_time=10),
        "exited with status 7 after it had answered", fails=True,
    ),
    Fault(
        "container", "the new one flaps",
        broken({"STATUS": "200 503 " * 99}, rollout_min_healthy_time=5), "HTTP 503", fails=True,
    ),
    Fault(
        "container", "the new one starts in 100 s",
        broken({"STARTS_AFTER": "100"}, rollout_healthy_deadline=150), "is healthy",
    ),
    Fault("container", "the new one ignores SIGTERM", broken({"HABITS": "deaf"}), "is healthy"),
    Fault("container", "the new one floods its log", broken({"HABITS": "loud"}), "is healthy"),
    Fault(
        "container", "the new one floods its log and answers 500",
        broken({"HABITS": "loud", "STATUS": "500"}), "HTTP 500", fails=True,
    ),
]  # fmt: skip


# The host


def in_switch(act: Callable[[Bench], object]) -> Injection:
    """In a changed rollout of all hosts, acts once the switch of the host has begun."""

    def inject(bench: Bench) -> Iterator[Outcome]:
        yield bench.fleet.interrupt(f"[{bench.host}] switch:", lambda _: act(bench))

    return inject


def reboot(bench: Bench) -> None:
    docker("restart", bench.fleet.lab.container(bench.host))
    answers = ["ssh", "-F", str(bench.fleet.lab.ssh_config), bench.host, "true"]
    wait_for(lambda: command(*answers).returncode == 0, "the host answers over SSH", 60)
    bench.clients[bench.host].address = bench.fleet.address(bench.host)


def silent(moment: str) -> Injection:
    """Every packet of the host's sshd is dropped from a moment on; from the start without one."""

    def inject(bench: Bench) -> Iterator[Outcome]:
        with bench.fleet.silence_later(bench.host) as silence:
            if moment:
                outcome = bench.fleet.interrupt(moment, silence)
            else:
                silence(None)
                outcome = bench.fleet.up(**changed())
        yield outcome

    return inject


def with_verb(script: str, verb: str) -> Injection:
    """As `before_up`; the operator then runs a verb, as the message says."""

    def inject(bench: Bench) -> Iterator[Outcome]:
        bench.root(script)
        yield bench.up()
        outcome = bench.run(verb)
        assert outcome.status == 0, outcome.output

    return inject


NO_CHAIN = """\
iptables -t nat -F DOCKER
iptables -t nat -S | grep -e '-j DOCKER$' | sed 's/^-A/iptables -t nat -D/' | sh
iptables -t nat -X DOCKER
"""
PYTHON = "/usr/bin/python3"
NO_COMPOSE = "dpkg --remove --force-depends docker-compose"
HOLD_APT = """\
cat >/run/hold.py <<'END'
import fcntl, time
files = [open(f"/var/lib/{name}", "w") for name in ("apt/lists/lock", "dpkg/lock-frontend")]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
time.sleep(10)
END
systemd-run --quiet --unit=hold-apt python3 /run/hold.py; sleep 0.5
"""
HOST_FAULTS = [
    Fault(
        "host", "dockerd restarted in a switch",
        in_switch(lambda bench: bench.root("systemctl restart docker")), fails=None, on_all=True,
    ),
    Fault(
        "host", "containerd killed in a switch",
        in_switch(lambda bench: bench.root("pkill -KILL -x containerd")), fails=None, on_all=True,
    ),
    Fault("host", "rebooted in a switch", in_switch(reboot), fails=None, on_all=True),
    Fault(
        "host", "Docker's iptables chains flushed",
        before_up(NO_CHAIN, "systemctl restart docker"), "systemctl restart docker", fails=True,
        is_short=True,
    ),
    Fault(
        "host", "disk of the app directory full",
        before_up(
            f"{SMALL_DISK} && {FILL}".format(APP).replace("128k", "512k"), f"umount -l {APP}"
        ),
        "No space left on device", fails=True,
    ),
    Fault(
        "host", "app directory removed", with_verb(f"rm -r {APP}", "down"), "make down", fails=True,
    ),
    Fault("host", "`current` names nothing", before_up(f"ln -sfn releases/0 {APP}/current")),
    Fault(
        "host", "a release edited by hand",
        before_same(f"echo '# mine' >>{APP}/current/docker-compose.yml"),
    ),
    Fault(
        "host", "history full of garbage",
        before_up(f"head -c 200000 /dev/urandom >{APP}/history.jsonl"),
    ),
    Fault("host", "compose gone", before_up(NO_COMPOSE)),
    Fault(
        "host", "compose gone, and apt's lock held for 10 s",
        before_up(f"{NO_COMPOSE}; {HOLD_APT}"),
    ),
    Fault(
        "host", "python3 gone",
        before_up(f"mv {PYTHON} {PYTHON}.gone", f"mv {PYTHON}.gone {PYTHON}"),
        "apt-get install --reinstall", fails=True,
    ),
    Fault(
        "host", "silent before it is read", silent(""), "not touched, because of", fails=True,
        on_all=True,
    ),
    Fault(
        "host", "silent after it is read", silent("Put the release on the host"), "silent",
        fails=True, on_all=True,
    ),
]  # fmt: skip


# The controller


def controller(
    words: Callable[[Path], list[str | Path]],
    environment: Callable[[dict[str, str]], dict[str, str]] = lambda found: found,
    directory: Path = ROOT,
    **options: Any,
) -> Injection:
    """Deploys a change with another command, environment or working directory."""

    def inject(bench: Bench) -> Iterator[Outcome]:
        inventory = bench.fleet.inventory_of({bench.host: bench.fleet.settings | changed()})
        found = environment(os.environ | {"PYTHONPATH": str(ROOT)})
        ended = command(*words(inventory), env=found, cwd=directory, **options)
        yield Outcome(ended.returncode, ended.stdout + ended.stderr)

    return inject


def pyinfra(inventory: Path) -> list[str | Path]:
    return [BIN / "pyinfra", "-y", inventory, ROOT / "deploy" / "up.py"]


def in_a_path_with_blanks_and_korean(bench: Bench) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "내 저장소 1"
        ignored = shutil.ignore_patterns(".venv*", ".git", ".lab", "*cache*", "benchmarks")
        shutil.copytree(ROOT, copy, ignore=ignored)
        inventory = copy / "내 재고.py"
        made = bench.fleet.inventory_of({bench.host: bench.fleet.settings | changed()})
        shutil.copy(made, inventory)
        words: list[str | Path] = [BIN / "python", "-m", "deploy", "up", inventory]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        ended = command(*words, cwd=copy, env=environment)
        yield Outcome(ended.returncode, ended.stdout + ended.stderr)


def as_another_user(bench: Bench) -> Iterator[Outcome]:
    """The user has the key and the secrets file, no home directory and no name."""
    uid = 54321
    with tempfile.TemporaryDirectory() as made_for_it:
        directory = Path(made_for_it)
        [host] = [each for each in bench.fleet.lab.hosts() if each.name == bench.host]
        files = {
            "ssh_key": bench.fleet.lab.key,
            "ssh_known_hosts_file": bench.fleet.lab.known_hosts,
            "gateway_secrets_file": Path(host.secrets_file),
            "gateway_image_archive": bench.fleet.lab.gateway_archive,
        }
        own = {name: str(directory / file.name) for name, file in files.items()}
        for file in files.values():
            shutil.copy(file, directory)
        made = bench.fleet.inventory_of({bench.host: bench.fleet.settings | changed() | own})
        inventory = directory / "inventory.py"
        shutil.copy(made, inventory)
        for path in [directory, *directory.iterdir()]:
            os.chown(path, uid, uid)
        # The capability: this checkout may be readable for root only.
        become = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        reads = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
        words = [*become, *reads, *pyinfra(inventory)]
        ended = command(*words, cwd=directory, env=environment)
        yield Outcome(ended.returncode, ended.stdout + ended.stderr)


def on_a_full_disk(bench: Bench) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as directory:
        inventory = bench.fleet.inventory_of({bench.host: bench.fleet.settings | changed()})
        mounted = command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", directory)
        assert mounted.returncode == 0, mounted.stderr
        try:
            command("dd", "if=/dev/zero", f"of={directory}/filler", "bs=4k")
            full = {"TMPDIR": directory, "HOME": directory, "PYTHONPATH": str(ROOT)}
            ended = command(*pyinfra(inventory), cwd=directory, env=os.environ | full)
        finally:
            command("umount", directory)
        yield Outcome(ended.returncode, ended.stdout + ended.stderr)


def cut_connection(bench: Bench) -> object:
    return bench.root("pkill -KILL -u ops sshd")


def two_at_once(bench: Bench) -> Iterator[Outcome]:
    second: list[Outcome] = []

    def again(_: object) -> None:
        second.append(bench.fleet.up_concurrently(**changed()))

    first = bench.fleet.interrupt(f"[{bench.names[0]}] switch:", again)
    assert first.status == 0, first.output
    yield second[0]


CONTROLLER_FAULTS = [
    Fault(
        "controller", "SSH cut in a switch", in_switch(cut_connection),
        "the host is asked how it ended", on_all=True,
    ),
    Fault(
        "controller", "two at once", two_at_once, "a switch is under way here", fails=True,
        on_all=True,
    ),
    Fault("controller", "its disk is full", on_a_full_disk, fails=None),
    Fault(
        "controller", "started in another directory",
        controller(pyinfra, directory=Path("/")),
    ),
    Fault("controller", "another user, without a name and a home", as_another_user),
    Fault(
        "controller", "no terminal",
        controller(pyinfra, start_new_session=True, stdin=subprocess.DEVNULL),
    ),
    Fault(
        "controller", "no HOME",
        controller(pyinfra, lambda found: {k: v for k, v in found.items() if k != "HOME"}),
    ),
    Fault(
        "controller", "a path with blanks and Korean letters", in_a_path_with_blanks_and_korean
    ),
]  # fmt: skip


# The fleet


def wrong_host_key(bench: Bench) -> Iterator[Outcome]:
    lab = bench.fleet.lab
    ports = {host.name: host.ssh_port for host in lab.hosts()}
    other = next(name for name in bench.names if name != bench.host)
    text = lab.known_hosts.read_text()
    [key] = [line.split(" ", 1)[1] for line in text.splitlines() if f":{ports[other]} " in line]
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"[127.0.0.1]:{ports[bench.host]} {key}\n")
        file.flush()
        yield bench.up(ssh_known_hosts_file=file.name)


def name_twice(bench: Bench) -> Iterator[Outcome]:
    inventory = bench.fleet.inventory_of({bench.host: bench.fleet.settings | changed()})
    inventory.write_text(inventory.read_text() + "lab = lab + lab\n")
    yield bench.fleet.run_on(inventory, "deploy/up.py")


def one_is_down(bench: Bench) -> Iterator[Outcome]:
    docker("stop", bench.fleet.lab.container(bench.host))
    try:
        yield bench.fleet.up(**changed())
    finally:
        docker("start", bench.fleet.lab.container(bench.host))
        reboot(bench)


CONTAINERD_STORE = """\
echo '{"features": {"containerd-snapshotter": true}}' >/etc/docker/daemon.json
systemctl restart docker
"""


def without_sudo(bench: Bench) -> Iterator[Outcome]:
    yield bench.up(_sudo=False)


FLEET_FAULTS = [
    Fault("fleet", "a wrong host key", wrong_host_key, "key", fails=True),
    Fault("fleet", "one name twice", name_twice, fails=None),
    Fault(
        "fleet", "a host whose engine was moved to containerd's image store",
        before_up(CONTAINERD_STORE, "rm /etc/docker/daemon.json; systemctl restart docker"),
        "no gateway container",
    ),
    Fault(
        "fleet", "without sudo", without_sudo,
        "the deploy needs root", fails=True, is_short=True,
    ),
]  # fmt: skip

ONE_OF_TEN = Fault(
    "fleet", "one host of ten is down", one_is_down, "not touched, because of", fails=True,
    is_down=True, on_all=True,
)  # fmt: skip

TABLE = [
    *at_random(),
    *TOKEN_FAULTS,
    *KIS_FAULTS,
    *CONTAINER_FAULTS,
    *HOST_FAULTS,
    *CONTROLLER_FAULTS,
    *FLEET_FAULTS,
]
