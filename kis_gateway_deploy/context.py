"""What the operations use of pyinfra: the host in context, what fails on it, what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import click
from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand
from pyinfra.api.host import Host
from pyinfra.context import host

from kis_gateway_deploy.session import Session, Target

Commands = Generator[PyinfraCommand, None, None]


def fail(*messages: str) -> PyinfraCommand:
    """Fails the operation on the host in context, with these lines, and asks the host nothing.

    An exception would end the run as well, but gevent prints its traceback.
    """

    def say_why(host: Host) -> bool:
        for message in messages:
            logger.error(f"{host.print_prefix}{click.style(message, 'red')}")
        return False

    return do(say_why)


def do(act: Callable[[Host], bool]) -> PyinfraCommand:
    """Fails the operation on the host in context if `act` returns False."""

    def run(state: Any, host: Any) -> bool:  # noqa: ARG001 - how pyinfra passes the host
        return act(host)

    return FunctionCommand(run, (), {})


def say(message: str) -> None:
    logger.info(f"{host.print_prefix}{message}")


def target_of_host() -> Target:
    """What is known now of the host in context."""
    return Session.current().targets[host.name]
