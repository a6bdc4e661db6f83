"""The pictures of the READMEs: `python -m pictures.loop`, `python -m pictures.recording`."""

from __future__ import annotations

from jinja2 import Environment, StrictUndefined, Template

from kis_gateway_deploy.paths import ROOT

IMAGES = ROOT / "docs/images"


def template(name: str) -> Template:
    """The template pictures/NAME.svg.j2."""
    environment = Environment(
        autoescape=True, trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    return environment.from_string((ROOT / f"pictures/{name}.svg.j2").read_text("utf-8"))
