"""What is said while a host works."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import pytest
from pyinfra import logger
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State

from kis_gateway_deploy.calls import named


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def lines() -> Any:
    handler, level = Lines(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_slow_step_names_itself_until_it_ends(lines: list[str]) -> None:
    host = State(Inventory((["web-1"], {})), Config()).inventory.get_host("web-1")
    with pytest.raises(OSError), named(host, "pulling kis:1.4", 0.05), gevent.Timeout(30):
        while len(lines) < 2:
            gevent.sleep(0.01)
        raise OSError
    said = list(lines)
    assert all("web-1" in line and line.endswith("pulling kis:1.4: 0 s") for line in said)
    gevent.sleep(0.1)
    assert lines == said
