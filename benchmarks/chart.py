"""The bar chart of the README, light and dark: `python -m benchmarks.chart --write`."""

from __future__ import annotations

import json
import sys
from statistics import median

from benchmarks.report import NAMES
from kis_gateway_deploy.paths import ROOT

RESULTS = ROOT / "benchmarks/results/results.json"
IMAGES = ROOT / "docs/images"
HOSTS = 8
OTHERS = ("floor", "pyinfra", "kamal", "ansible")
CASES = {"changed": "a changed setting", "noop": "nothing has changed"}
CONTENDERS = {"changed": ("defaults", "ours", *OTHERS), "noop": ("ours", *OTHERS)}
"""With nothing to switch, there is neither a batch nor a gate."""
# Text, bars of this package and of the others.
THEMES = {"light": ("#1f2328", "#0969da", "#afb8c1"), "dark": ("#e6edf3", "#4493f8", "#6e7681")}
LEFT, TOP, ROW, LONGEST = 190, 44, 24, 460


def seconds(contender: str, case: str) -> float:
    """The median over the rounds, without a delay of the network."""
    found = [
        float(each["seconds"])
        for each in json.loads(RESULTS.read_text("utf-8"))
        if (each["contender"], each["case"], each["hosts"], each["rtt"])
        == (contender, case, HOSTS, 0)
    ]
    return median(found)


def chart(theme: str) -> str:
    text, ours, others = THEMES[theme]
    all_bars = [seconds(contender, case) for case in CASES for contender in CONTENDERS[case]]
    parts, y, per_second = [], TOP, LONGEST / max(all_bars)
    for case, title in CASES.items():
        parts.append(f'<text x="0" y="{y}" font-weight="600">{title}, {HOSTS} hosts</text>')
        for contender in CONTENDERS[case]:
            y += ROW
            took = seconds(contender, case)
            width, colour = took * per_second, others if contender in OTHERS else ours
            parts += [
                f'<text x="{LEFT - 10}" y="{y}" text-anchor="end">{NAMES[contender]}</text>',
                f'<rect x="{LEFT}" y="{y - 13}" width="{width:.0f}" height="16" fill="{colour}"/>',
                f'<text x="{LEFT + width + 6:.0f}" y="{y}">{took:.1f} s</text>',
            ]
        y += 2 * ROW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {y - ROW}" '
            f'font-family="system-ui, sans-serif" font-size="14" fill="{text}">',
            '<text x="0" y="16">Seconds, median of 5 rounds (shorter is better)</text>',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    for name in THEMES:
        if sys.argv[1:] == ["--write"]:
            (IMAGES / f"benchmark.{name}.svg").write_text(chart(name), "utf-8")
        else:
            sys.stdout.write(chart(name))
