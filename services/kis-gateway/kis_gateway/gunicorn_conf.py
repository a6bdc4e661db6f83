"""How gunicorn runs the gateway: ``gunicorn --config python:kis_gateway.gunicorn_conf``.

Port: ``PORT``, 8080 unless set. ``GUNICORN_CMD_ARGS`` wins over what is set here.
"""

from __future__ import annotations

import logging
import os
import selectors
import sys
from typing import Any

from .kis import MAX_IN_FLIGHT

wsgi_app = "kis_gateway.app:create_app()"
bind = f"0.0.0.0:{os.environ.get('PORT') or '8080'}"

# One process: the token, the limit per second and the metrics live in its memory.
workers = 1
worker_class = "gthread"
threads = MAX_IN_FLIGHT + 8

# Bad settings then end the master with one line; a worker would be started again and again.
preload_app = True

# KIS's header names have underscores (tr_id), which gunicorn drops unless told not to. The danger:
# a header that passes for another; the gateway passes on those that KIS documents, and no other.
header_map = "dangerous"

worker_tmp_dir = "/dev/shm"  # noqa: S108 (gunicorn's heartbeat; the root file system is read-only)
control_socket_disable = True  # gunicorn 25 and later: it would be in $HOME, which need not exist
keepalive = 75


class OneLine(logging.Formatter):
    """Whatever a message or a traceback holds, a record is one line."""

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
        "gunicorn.access": {"level": "WARNING"},  # none: KIS's queries hold account numbers
        "urllib3": {"level": "WARNING"},
    },
}


def post_worker_init(worker: Any) -> None:
    """Start the keeper here, and not in the master: its thread would not survive the fork."""
    worker.wsgi.extensions["keeper"].start()
    # A signal writes into this pipe. Without it the worker is in `select` for up to a second more
    # before it sees that it was told to stop, and all of that is outage.
    worker.poller.register(worker.PIPE[0], selectors.EVENT_READ, lambda pipe: os.read(pipe, 64))


def worker_exit(_server: Any, worker: Any) -> None:
    worker.wsgi.extensions["keeper"].stop()
    if not worker.alive:  # told to stop, and its requests are answered
        _end_at_once()


def child_exit(server: Any, _worker: Any) -> None:
    """The master learns that its worker is gone; it would look for that every 100 ms."""
    if not server.LISTENERS:  # they are closed first when it is told to stop
        _end_at_once()


def _end_at_once() -> None:
    """Without Python's taking itself apart, which is half of the time that a stop takes."""
    sys.stdout.flush()
    os._exit(0)
