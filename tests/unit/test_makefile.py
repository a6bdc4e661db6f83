"""`make help` lists every target, in Korean for a Korean locale."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from kis_gateway_deploy.paths import ROOT

HANGUL = re.compile("[가-힣]")


def targets() -> list[str]:
    [phony] = re.findall("^\\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    return sorted(phony.split())


def helped(**locale: str) -> dict[str, str]:
    """What `make help` says of each target."""
    without = {name: value for name, value in os.environ.items() if name[:3] not in ("LC_", "LAN")}
    result = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT, env=without | locale, capture_output=True, check=True,
    )  # fmt: skip
    lines = result.stdout.decode().splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


@pytest.mark.parametrize(
    "locale",
    [{"LANG": "ko_KR.UTF-8"}, {"LC_ALL": "ko_KR.UTF-8", "LANG": "C"}, {"LC_MESSAGES": "ko_KR"}],
)
def test_a_korean_locale_gets_korean(locale: dict[str, str]) -> None:
    found = helped(**locale)
    assert sorted(found) == targets()
    assert [name for name, text in found.items() if not HANGUL.search(text)] == ["lint"]


@pytest.mark.parametrize("locale", [{}, {"LANG": "C.UTF-8"}, {"LC_ALL": "C", "LANG": "ko_KR"}])
def test_every_other_locale_gets_english(locale: dict[str, str]) -> None:
    found = helped(**locale)
    assert sorted(found) == targets()
    assert not [text for text in found.values() if HANGUL.search(text) or "|" in text]
