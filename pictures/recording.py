"""The README's recording: deploy, verify, a broken release that takes itself back.

`python -m pictures.recording` runs the commands on lab hosts of its own and writes what they
print, line by line at its time, to docs/images/recording.light.svg and recording.dark.svg.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kis_gateway_deploy.paths import ROOT
from lab import lab as labs
from lab.lab import Lab
from pictures import IMAGES, template

HOSTS = 3
INVENTORY = """\
from inventory.lab import lab as _lab
_data = {"gateway_memory_limit": "256m", "rollout_healthy_deadline": 20}
gateways = [(name, found | _data) for name, found in _lab]
"""
COMMANDS = (
    "make deploy INVENTORY=fleet.py",
    "make verify INVENTORY=fleet.py SAFE=1",
    "sed -i 's/256m/12m/' fleet.py  # a release that cannot start",
    "make deploy INVENTORY=fleet.py",
    "make status INVENTORY=fleet.py",
)
COLUMNS, ROWS = 118, 30
LINE, CHARACTER, EDGE = 17, 7.25, 14  # pixels, at a font size of 12
LONGEST_WAIT, SHORTEST_WAIT, READING = 1.2, 0.03, 2.5  # seconds between two lines
THEMES = {
    "light": {
        "background": "#f6f8fa", "text": "#1f2328", "command": "#0969da", "failure": "#cf222e",
        "success": "#1a7f37",
    },
    "dark": {
        "background": "#161b22", "text": "#e6edf3", "command": "#4493f8", "failure": "#f85149",
        "success": "#3fb950",
    },
}  # fmt: skip
TEMPLATE = template("recording")


@dataclass(frozen=True)
class Line:
    """A line of the recording, and the second at which it appears."""

    text: str
    at: float


def printed(command: str, environment: dict[str, str]) -> Iterator[str]:
    """What a command of the shell prints, line by line."""
    with subprocess.Popen(
        ["sh", "-c", command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment,
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            sys.stdout.write(line)
            yield line


def record(directory: Path, environment: dict[str, str]) -> Iterator[Line]:
    """Runs the commands; long waits are shortened, so that nobody has to sit through them."""
    at = 0.0
    for command in COMMANDS:
        yield Line(f"$ {command}", at)
        at += 1
        real = command.replace("fleet.py", str(directory / "fleet.py"))
        before = time.monotonic()
        for text in printed(real, environment):
            now = time.monotonic()
            at += min(max(now - before, SHORTEST_WAIT), LONGEST_WAIT)
            before = now
            shown = text.replace(f"{directory}/", "").replace(str(ROOT), "~/kis-gateway-deploy")
            yield Line(shown.rstrip(), at)
        at += READING
        yield Line("", at)


def kind(text: str) -> str:
    """Which colour of the theme a line has; empty for the colour of the text."""
    if text.startswith("$"):
        return "command"
    if "failed" in text or "Restored" in text:
        return "failure"
    return "success" if "is healthy;" in text or " passed" in text else ""


def picture(lines: Sequence[Line], theme: str) -> str:
    """An SVG that plays the lines again and again; without animation it shows the last ones."""
    length = lines[-1].at + READING
    shown, moves, times = [], ["0 0"], ["0"]
    for number, line in enumerate(lines, 1):
        text = line.text if len(line.text) <= COLUMNS else line.text[: COLUMNS - 1] + "…"
        share = f"{line.at / length:.4f}"
        shown.append({"text": text, "kind": kind(text), "share": share, "y": number * LINE})
        if number <= ROWS:
            continue
        move = f"0 {(ROWS - number) * LINE}"
        if share == times[-1]:
            moves[-1] = move
        else:
            times.append(share)
            moves.append(move)
    drawn: str = TEMPLATE.render(
        colours=THEMES[theme],
        width=round(COLUMNS * CHARACTER) + 2 * EDGE,
        height=ROWS * LINE + 2 * EDGE,
        edge=EDGE,
        length=f"{length:.1f}",
        lines=shown,
        moves=moves,
        times=times,
    )
    return drawn


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        lab = Lab(directory / "recording")
        (directory / "fleet.py").write_text(INVENTORY)
        environment = os.environ | {
            "KIS_LAB_DIR": str(lab.directory),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        try:
            labs.up(lab, HOSTS, bare=False)
            lines = list(record(directory, environment))
        finally:
            labs.down(lab, keep_images=True)
    for theme in THEMES:
        (IMAGES / f"recording.{theme}.svg").write_text(picture(lines, theme), "utf-8")


if __name__ == "__main__":
    main()
