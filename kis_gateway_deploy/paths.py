"""Paths of the files that are not Python: beside the package in a clone, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_INSIDE = Path(__file__).parent / "data"
ROOT = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[1]
TEMPLATE = ROOT / "docker-compose.yml.j2"
SCRIPTS = ROOT / "templates"
IN_PLACE_TEMPLATE = SCRIPTS / "in_place.yml.j2"
SIMULATOR_CONTEXT = ROOT / "services" / "kis-simulator"
