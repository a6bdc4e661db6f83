"""`make bench`: compares this package with the usual alternatives, on the same hosts.

In each round every contender runs every case in turn, so changes in the machine's speed affect all
contenders. Ratios are computed per round. The results are saved after each round.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from benchmarks import scale
from benchmarks.contenders import CONTENDERS, DIRECTORY, Job
from benchmarks.fleet import Fleet, Target, fresh
from benchmarks.report import Measurement, Results
from kis_gateway_deploy.paths import ROOT
from lab import engine
from lab import lab as labs
from lab.lab import Lab

CASES = ("first", "noop", "changed", "image")
NEW_LAYER = 5 * 10**6  # random bytes, which cannot be compressed


def say(text: str) -> None:
    print(f"bench: {text}", flush=True)


@dataclass
class Round:
    """One contender's turn over all cases, from hosts without anything of any contender."""

    fleet: Fleet
    targets: list[Target]
    contender: str
    number: int
    rtt: int
    results: Results
    work: Path = field(init=False)

    def __post_init__(self) -> None:
        self.work = fresh(self.fleet.work / self.contender)

    def play(self, cases: list[str]) -> None:
        self.fleet.reset()
        label = f"{self.number}"
        image = self.fleet.image
        # Run it even if it is not measured: a no-op needs a running gateway.
        self.run("first", label, image, is_measured="first" in cases)
        if "noop" in cases:
            self.run("noop", label, image)
        if "changed" in cases:
            self.run("changed", f"{label}-changed", image)
        if "image" in cases and self.contender != "kamal":  # its images come from a registry
            new, archive = another_image(self.fleet)
            self.run("image", f"{label}-changed", new, archive=archive)
            archive.unlink()

    def run(
        self,
        case: str,
        label: str,
        image: str,
        archive: Path | None = None,
        is_measured: bool = True,
    ) -> None:
        job = Job(self.fleet, self.targets, label, image, archive)
        command = CONTENDERS[self.contender](job, self.work)
        before = containers(self.fleet)
        if is_measured and self.number == 0:  # the counts are the same in each round
            measured, sessions, kilobytes = self.fleet.counted(lambda: self.measure(case, command))
            measured.sessions, measured.kilobytes = sessions, kilobytes
        else:
            measured = self.measure(case, command)
        self.fleet.wait_until_healthy()
        pairs = zip(before, containers(self.fleet), strict=True)
        is_to_keep = case == "noop" and self.contender != "kamal"  # it never keeps a container
        if any((late == early) is not is_to_keep for early, late in pairs):
            raise RuntimeError(f"{self.contender}, {case}: the containers are not as expected")
        if is_measured:
            self.results.add(measured)
            say(f"{measured}")

    def measure(self, case: str, command: list[str]) -> Measurement:
        before, machine, began = os.times(), processors(), time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        seconds, after = time.monotonic() - began, os.times()
        busy, idle = (now - then for now, then in zip(processors(), machine, strict=True))
        if done.returncode:
            raise RuntimeError(f"{self.contender}, {case}:\n{done.stdout}{done.stderr}")
        cpu = sum(after[2:4]) - sum(before[2:4])
        return Measurement(
            self.contender,
            case,
            self.fleet.count,
            self.rtt,
            self.number,
            seconds,
            cpu,
            busy / (busy + idle),
        )


def processors() -> tuple[int, int]:
    """Busy and idle ticks of this machine's processors so far (proc_stat(5))."""
    ticks = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, idle


def containers(fleet: Fleet) -> list[str]:
    """The id of each host's running container."""
    return fleet.each("docker ps -q --no-trunc")


def another_image(fleet: Fleet) -> tuple[str, Path]:
    """The gateway's image with a new layer: its reference, from its id, and its archive."""
    context = fresh(fleet.work / "image")
    (context / "layer").write_bytes(os.urandom(NEW_LAYER))
    (context / "Dockerfile").write_text(f"FROM {fleet.image}\nCOPY layer /layer\n")
    image_id = engine.docker("build", "--quiet", "--tag", "kis-lab-bench", str(context))
    shutil.rmtree(context)
    reference = f"kis-lab-bench:{image_id.removeprefix('sha256:')[:12]}"
    engine.docker("tag", image_id, reference)
    archive = fleet.work / "image.tar"
    engine.docker("save", "--output", str(archive), reference)
    engine.docker("image", "rm", reference, "kis-lab-bench")
    return reference, archive


@contextmanager
def asking(address: str, port: int, gaps: list[float]) -> Iterator[None]:
    """Asks /health every 20 ms; adds the longest time without an answer to `gaps`, in seconds."""
    end = threading.Event()

    def ask() -> None:
        answered, longest = time.monotonic(), 0.0
        request = b"GET /health HTTP/1.0\r\n\r\n"
        while not end.is_set():
            began = time.monotonic()
            try:
                with socket.create_connection((address, port), timeout=2) as connection:
                    connection.sendall(request)
                    is_up = b" 200 " in connection.recv(64)
            except OSError:
                is_up = False
            if is_up:
                longest, answered = max(longest, time.monotonic() - answered), time.monotonic()
            end.wait(max(0.0, 0.02 - (time.monotonic() - began)))
        gaps.append(longest)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def measure_outage(fleet: Fleet, rounds: int, results: Results) -> None:
    """How long one host's clients get no answer: this package's switch, a plain re-creation."""
    fleet.prepare()  # one host only: others would use processor time
    with fleet.targets(0) as targets:
        host = fleet.hosts[0]
        work = fresh(fleet.work / "outage")
        fleet.reset()
        results.forget(["outage"], 1)
        address = fleet.address(host)
        for number in range(-1, rounds):
            command = CONTENDERS["ours"](Job(fleet, targets, f"outage-{number}", fleet.image), work)
            recreate = f"cd {DIRECTORY}/current && docker compose up -d --force-recreate"
            container = fleet.lab.container(host.name)
            by_hand = [*engine.AS_ROOT, "docker", "exec", container, "sh", "-c", recreate]
            for name, words in {"ours": command, "recreation": by_hand}.items():
                gaps: list[float] = []
                with asking(address, 8080, gaps):
                    subprocess.run(words, check=True, capture_output=True, cwd=ROOT)
                    fleet.wait_until_healthy()
                if number >= 0:  # in round -1 there is nothing to replace
                    results.add(Measurement(name, "outage", 1, 0, number, gaps[0], 0.0))
                    say(f"outage, {name}: {gaps[0]:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--rtt", type=int, nargs="*", default=[0, 50], help="milliseconds")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--targets", type=int, nargs="*", default=[100, 300], help="numbers of cheap targets"
    )
    parser.add_argument("--no-outage", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("run it as root: the cheap targets need an sshd on this machine")
    lab = Lab(Path(os.environ.get("KIS_LAB_DIR") or ROOT / ".lab" / "bench").resolve())
    work = lab.directory / "work"
    work.mkdir(parents=True, exist_ok=True)
    results = Results(options.out)
    try:
        for count in options.hosts:
            measure_hosts(Fleet(lab, count, work), options, results)
        if options.hosts and not options.no_outage:
            measure_outage(Fleet(lab, 1, work), options.rounds, results)
    finally:
        labs.down(lab, keep_images=True)
    if options.targets:
        measure_scale(work, options, results)
    results.save()
    results.write_report()
    print((options.out / "results.md").read_text())


def measure_scale(work: Path, options: argparse.Namespace, results: Results) -> None:
    for targets in options.targets:
        results.forget(["scale"], targets)
    with scale.host(work):
        for number, targets in product(range(options.rounds), options.targets):
            run = scale.no_op(work, targets)
            results.add(Measurement("ours", "scale", targets, 0, number, run.wall, run.cpu))
            say(f"{run}")


def measure_hosts(fleet: Fleet, options: argparse.Namespace, results: Results) -> None:
    say(f"{fleet.count} hosts")
    fleet.prepare()
    with fleet.local_registry() if "kamal" in options.contenders else nullcontext():
        # Round -1 is a warm-up: it fetches the token, and Kamal's image from its registry.
        for contender in [
            name for name in ("ours", "kamal") if name in {"ours", *options.contenders}
        ]:
            with fleet.targets(0) as targets:
                Round(fleet, targets, contender, -1, 0, results).play([])
        for rtt in options.rtt:
            results.forget(options.cases, fleet.count, rtt)
        for rtt, number in product(options.rtt, range(options.rounds)):
            for contender in options.contenders:
                if contender == "kamal" and rtt:  # it cannot use the proxy
                    continue
                with fleet.targets(rtt) as targets:
                    Round(fleet, targets, contender, number, rtt, results).play(options.cases)
            results.save()


if __name__ == "__main__":
    main()
