"""The simulator as a WSGI app: KIS's own API and the control API.

KIS has two hosts; here they are two ports of one process: 9443 real, 29443 paper (plain HTTP).
"""

from __future__ import annotations

from typing import Any

from flask import Flask
from flask.json.provider import DefaultJSONProvider

from .control_api import control_api
from .kis_api import kis_api
from .simulation import Simulation


class _KisJson(DefaultJSONProvider):
    """UTF-8 without escapes, keys in KIS's order."""

    ensure_ascii = False
    sort_keys = False
    mimetype = "application/json;charset=utf-8"

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        """As usual, but deep JSON is an invalid body, not an error of the server."""
        try:
            return super().loads(s, **kwargs)
        except RecursionError:
            raise ValueError("the JSON is too deep") from None


class _Simulator(Flask):
    json_provider_class = _KisJson


def create_app(paper_port: int = 29443) -> Flask:
    """A new simulator. Requests to the paper port are for the paper host.

    ``app.config["PAPER_PORT"]`` may be set later, if the port is known only after the bind.
    """
    app = _Simulator(__name__)
    app.config["PAPER_PORT"] = paper_port
    simulation = Simulation()
    app.register_blueprint(kis_api(simulation))
    app.register_blueprint(control_api(simulation), url_prefix="/_simulator")
    return app
