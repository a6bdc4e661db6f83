"""The results, as raw numbers, as tables and as a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

from benchmarks.contenders import CONTENDERS

NAMES = {
    "ours": "this package, one batch",
    "defaults": "this package, defaults",
    "floor": "floor: parallel ssh",
    "pyinfra": "plain pyinfra",
    "kamal": "Kamal, stop first",
    "ansible": "Ansible, tuned",
    "recreation": "plain compose re-creation",
}
CASE_NAMES = {
    "noop": "no-op",
    "changed": "changed setting",
    "image": "new image, sent",
    "first": "first, prepared",
}


@dataclass
class Measurement:
    """One run: wall seconds, CPU seconds of the controller, busy share of the machine.

    `sessions` are SSH commands and uploads per host, `kilobytes` its network traffic in both
    directions together; both are 0 if they were not counted.
    """

    contender: str
    case: str
    hosts: int
    rtt: int
    round: int
    seconds: float
    cpu: float
    busy: float = 0.0
    sessions: float = 0.0
    kilobytes: float = 0.0

    def __str__(self) -> str:
        what = f"{self.hosts} hosts, {self.rtt} ms, {self.case}, {self.contender}"
        return f"{what}: {self.seconds:.2f} s, CPU {self.cpu:.2f} s"


@dataclass
class Results:
    """All results. Earlier ones in `directory` stay unless they are measured again."""

    directory: Path
    measurements: list[Measurement] = field(init=False)

    def __post_init__(self) -> None:
        raw = self.directory / "results.json"
        self.measurements = (
            [Measurement(**each) for each in json.loads(raw.read_text())] if raw.exists() else []
        )

    def forget(self, cases: Iterable[str], hosts: int, rtt: int = 0) -> None:
        """Drops earlier results of these cases: ratios must not mix two runs."""
        self.measurements = [
            m
            for m in self.measurements
            if not (m.case in cases and (m.hosts, m.rtt) == (hosts, rtt))
        ]

    def add(self, measurement: Measurement) -> None:
        self.measurements.append(measurement)

    def save(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        raw = [asdict(each) for each in self.measurements]
        lines = ",\n".join(json.dumps(each) for each in raw)
        (self.directory / "results.json").write_text(f"[\n{lines}\n]\n")

    def of(self, contender: str, case: str, hosts: int, rtt: int) -> list[Measurement]:
        return [
            m
            for m in self.measurements
            if (m.contender, m.case, m.hosts, m.rtt) == (contender, case, hosts, rtt)
        ]

    def ratio(self, contender: str, other: str, case: str, hosts: int, rtt: int) -> float | None:
        """The median of the ratios per round; None if either was not measured."""
        ours = {m.round: m.seconds for m in self.of(contender, case, hosts, rtt)}
        theirs = {m.round: m.seconds for m in self.of(other, case, hosts, rtt)}
        ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys()]
        return median(ratios) if ratios else None

    def values(self, name: str) -> list[int]:
        return sorted({getattr(m, name) for m in self.measurements if m.case in CASE_NAMES})

    def write_report(self) -> None:
        parts = [
            self._times(hosts, rtt)
            for hosts, rtt in product(self.values("hosts"), self.values("rtt"))
            if self.of("ours", "noop", hosts, rtt)
        ]
        (self.directory / "results.md").write_text(
            "\n".join([*parts, self._outage(), self._scale()])
        )
        self._plot()

    def _times(self, hosts: int, rtt: int) -> str:
        cases = [case for case in CASE_NAMES if self.of("ours", case, hosts, rtt)]
        header = [f"{hosts} hosts, {rtt} ms" if hosts > 1 else f"1 host, {rtt} ms"]
        header += [CASE_NAMES[case] for case in cases]
        header += [f"ours ÷ it, {CASE_NAMES[case]}" for case in cases]
        header += [
            "SSH sessions a host, no-op · changed",
            "kB a host, no-op · changed",
            "controller CPU, no-op",
            "machine busy, changed",
        ]
        rows = [header, ["---"] * len(header)]
        for contender in CONTENDERS:
            if not (no_op := self.of(contender, "noop", hosts, rtt)):
                continue
            row = [NAMES[contender]]
            row += [spread(m.seconds for m in self.of(contender, c, hosts, rtt)) for c in cases]
            for case in cases:
                ratio = self.ratio("ours", contender, case, hosts, rtt)
                row.append("" if contender == "ours" or ratio is None else f"{ratio:.2f}")
            for what in ("sessions", "kilobytes"):
                counts = [
                    max((getattr(m, what) for m in self.of(contender, c, hosts, rtt)), default=0)
                    for c in ("noop", "changed")
                ]
                row.append(" · ".join(f"{count:.0f}" for count in counts))
            row.append(f"{median(m.cpu for m in no_op):.2f} s")
            changed = [m.busy for m in self.of(contender, "changed", hosts, rtt)]
            row.append(f"{median(changed):.0%}" if changed else "")
            rows.append(row)
        return table(rows)

    def _outage(self) -> str:
        rows = [["outage of a host, asked every 20 ms", "seconds", "ours ÷ it"], ["---"] * 3]
        for name in ("recreation", "ours"):
            if found := self.of(name, "outage", 1, 0):
                ratio = self.ratio("ours", name, "outage", 1, 0)
                shown = f"{ratio:.2f}" if ratio and name != "ours" else ""
                rows.append([NAMES[name], spread(m.seconds for m in found), shown])
        return table(rows) if len(rows) > 2 else ""

    def _scale(self) -> str:
        found = [m for m in self.measurements if m.case == "scale"]
        rows = [["no-op over cheap targets", "seconds", "controller CPU, seconds"], ["---"] * 3]
        for targets in sorted({m.hosts for m in found}):
            own = [m for m in found if m.hosts == targets]
            rows.append([str(targets), spread(m.seconds for m in own), spread(m.cpu for m in own)])
        return table(rows) if found else ""

    def _plot(self) -> None:
        from matplotlib import pyplot
        from matplotlib.ticker import LogLocator, StrMethodFormatter

        panels = [
            (case, rtt)
            for rtt, case in product(self.values("rtt"), CASE_NAMES)
            if any((m.case, m.rtt) == (case, rtt) for m in self.measurements)
        ]
        if not panels:
            return
        columns = min(len(panels), len(CASE_NAMES))
        rows = -(-len(panels) // columns)
        figure = pyplot.figure(figsize=(4 * columns, 3.4 * rows + 0.5))
        counts = [str(hosts) for hosts in self.values("hosts")]
        for place, (case, rtt) in enumerate(panels, 1):
            plot = figure.add_subplot(rows, columns, place)
            plot.plot(counts, [None] * len(counts))  # the same x axis in every panel
            plot.set_xlim(-0.3, len(counts) - 0.7)
            for color, contender in enumerate(CONTENDERS):
                points = {
                    hosts: median(m.seconds for m in own)
                    for hosts in counts
                    if (own := self.of(contender, case, int(hosts), rtt))
                }
                style = {"marker": "o", "color": f"C{color}", "label": NAMES[contender]}
                plot.plot(list(points), list(points.values()), **style)
            plot.set_title(f"{CASE_NAMES[case]}, {rtt} ms")
            plot.set_yscale("log")
            plot.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            plot.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            plot.yaxis.set_minor_locator(LogLocator(subs=()))
            plot.set_xlabel("hosts")
            plot.set_ylabel("seconds")
            plot.grid(visible=True, alpha=0.3)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
        figure.tight_layout(rect=(0, 0.06, 1, 1))
        figure.savefig(self.directory / "results.svg")


def spread(seconds: Iterable[float]) -> str:
    """`1.52 (1.44-1.70)`: median, minimum and maximum."""
    values = sorted(seconds)
    return f"{median(values):.2f} ({values[0]:.2f}-{values[-1]:.2f})" if values else ""


def table(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
