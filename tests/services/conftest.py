"""Fixtures of the service tests: real WSGI servers on loopback, each in its own thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import requests
from kis_simulator.app import create_app
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment


class _PassUnderscores(WSGIRequestHandler):
    """Passes on headers such as KIS's ``tr_id``, as gunicorn does with ``--header-map dangerous``.

    By default, both servers drop every header that has an underscore in its name.
    """

    def make_environ(self) -> WSGIEnvironment:
        headers = {f"HTTP_{k.upper()}": v for k, v in self.headers.items() if "_" in k}
        return super().make_environ() | headers


Serve = Callable[["WSGIApplication"], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(app)`` runs a WSGI app on a free port until the test ends and returns its base URL.

    Called twice with one app, it serves that app on two ports.
    """
    with ExitStack() as stack:

        def start(app: WSGIApplication) -> str:
            server = make_server(
                "127.0.0.1", 0, app, threaded=True, request_handler=_PassUnderscores
            )
            thread = threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
            )
            thread.start()
            stack.callback(thread.join, 5)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@dataclass(frozen=True)
class RunningSimulator:
    """A KIS simulator that answers over HTTP; its clock starts at the present, in real time."""

    real_url: str
    paper_url: str
    credentials: dict[str, str]
    """The demo credentials: ``kis-r-app-key``, ``kis-r-app-secret``, ``kis-v-app-key``, …"""

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Call the control API and return its JSON answer.

        ``simulator.control("PUT", "clock", {"advance": 60})``. Raises ``requests.HTTPError`` if
        the simulator refuses.
        """
        response = requests.request(
            method, f"{self.real_url}/_simulator/{path}", json=body, timeout=5
        )
        response.raise_for_status()
        return response.json()


@pytest.fixture
def simulator(serve: Serve) -> RunningSimulator:
    """A fresh simulator; no state is shared between tests."""
    app = create_app()
    real_url, paper_url = serve(app), serve(app)
    app.config["PAPER_PORT"] = urlsplit(paper_url).port
    credentials = json.loads(files("kis_simulator").joinpath("demo_credentials.json").read_text())
    return RunningSimulator(real_url, paper_url, credentials)
