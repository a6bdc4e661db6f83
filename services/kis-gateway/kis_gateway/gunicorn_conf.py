"""How gunicorn runs the gateway: ``gunicorn --config python:kis_gateway.gunicorn_conf``.

The port is ``PORT``, by default 8080. ``GUNICORN_CMD_ARGS`` overrides the settings here.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import struct
import sys
from typing import Any

from .kis import MAX_IN_FLIGHT

wsgi_app = "kis_gateway.app:create_app()"
bind = f"0.0.0.0:{os.environ.get('PORT') or '8080'}"

# One process: the token, the limit per second and the metrics live in its memory.
workers = 1
worker_class = "gthread"
threads = MAX_IN_FLIGHT + 8

# With preload, wrong settings end the master with one line. Without it, the worker would be
# restarted again and again.
preload_app = True

# KIS's header names have underscores (tr_id), which gunicorn drops by default. The danger is that
# one header poses as another; the gateway passes on only the headers that KIS documents.
header_map = "dangerous"

worker_tmp_dir = "/dev/shm"  # noqa: S108 (gunicorn's heartbeat; the root file system is read-only)
control_socket_disable = True  # gunicorn 25 and later: it is in $HOME, which may not exist
keepalive = 75


class OneLine(logging.Formatter):
    """Writes each record as one line, even if its message or traceback has several."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\n", "\\n")


if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(encoding="utf-8")

logconfig_dict: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": OneLine,
            "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
            "datefmt": "%Y-%m-%dT%H:%M:%S%z",
        }
    },
    "handlers": {
        "stdout": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "stream": "ext://sys.stdout",
        }
    },
    "root": {"level": "INFO", "handlers": ["stdout"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["stdout"], "propagate": False},
        "gunicorn.access": {"level": "WARNING"},  # no log: KIS's queries contain account numbers
        "urllib3": {"level": "WARNING"},
    },
}


# Seconds of silence after which a half-sent request is given up: it holds a thread until then.
LONGEST_SILENCE = 5
# WSGI servers take these two from a trusted proxy; here no header may change the path.
PROXY_HEADERS = {"SCRIPT_NAME", "PATH_INFO"}


def when_ready(server: Any) -> None:
    """Limit each read of a request. Accepted sockets inherit SO_RCVTIMEO from their listener.

    Not Python's own timeouts: gunicorn resets those.
    """
    for listener in server.LISTENERS:
        limit = struct.pack("ll", LONGEST_SILENCE, 0)
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def pre_request(_worker: Any, request: Any) -> None:
    request.headers = [
        (name, value) for name, value in request.headers if name not in PROXY_HEADERS
    ]


def post_worker_init(worker: Any) -> None:
    """Start the keeper here, not in the master: a thread does not survive the fork."""
    worker.wsgi.extensions["keeper"].start()
    # A signal writes to this pipe and so ends `select`. Without it, the worker notices a stop up to
    # a second later, and that time is outage.
    worker.poller.register(worker.PIPE[0], selectors.EVENT_READ, lambda pipe: os.read(pipe, 64))


def worker_exit(_server: Any, worker: Any) -> None:
    worker.wsgi.extensions["keeper"].stop()
    if not worker.alive:  # it was told to stop and has answered its requests
        _end_at_once()


def child_exit(server: Any, _worker: Any) -> None:
    """End the master at once when its worker is gone; otherwise it polls every 100 ms."""
    if not server.LISTENERS:  # when told to stop, the master closes them first
        _end_at_once()


def _end_at_once() -> None:
    """Exit without Python's cleanup, which takes half of the time of a stop."""
    sys.stdout.flush()
    os._exit(0)
