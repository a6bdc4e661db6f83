"""The simulator as a WSGI app: KIS's own API, and the control API beside it.

As at KIS, two hosts, here two ports of one process: 9443 is real, 29443 is paper (plain HTTP).
"""

from __future__ import annotations

from flask import Flask
from flask.json.provider import DefaultJSONProvider

from .control_api import control_api
from .kis_api import kis_api
from .simulation import Simulation


class _KisJson(DefaultJSONProvider):
    """UTF-8 as it is, keys in KIS's order."""

    ensure_ascii = False
    sort_keys = False
    mimetype = "application/json;charset=utf-8"


class _Simulator(Flask):
    json_provider_class = _KisJson


def create_app(paper_port: int = 29443) -> Flask:
    """A fresh simulator. Whatever comes in on the paper port is for the paper host.

    ``app.config["PAPER_PORT"]`` may be set later, where ports are known only after the bind.
    """
    app = _Simulator(__name__)
    app.config["PAPER_PORT"] = paper_port
    simulation = Simulation()
    app.register_blueprint(kis_api(simulation))
    app.register_blueprint(control_api(simulation), url_prefix="/_simulator")
    return app
