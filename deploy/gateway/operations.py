"""The operations: they execute what a plan decided, and yield nothing where there is nothing."""

from __future__ import annotations

from collections.abc import Generator

import click
from pyinfra import logger
from pyinfra.api.command import FunctionCommand, PyinfraCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.operation import operation
from pyinfra.context import host, state
from pyinfra.operations import files

from deploy.gateway import commands
from deploy.gateway.commands import Command
from deploy.gateway.settings import Settings
from deploy.gateway.targets import Target, dropped_out, why_untouched

Commands = Generator[PyinfraCommand, None, None]


def _run(command: Command) -> PyinfraCommand:
    return StringCommand(command.script, _stdin=command.stdin or "")


def _fail(*messages: str) -> PyinfraCommand:
    """Fails the operation on the host in context, with these lines, and asks the host nothing.

    An exception would end the run as well, but gevent prints its traceback.
    """

    def fail(state: object, host: Host) -> bool:  # noqa: ARG001 - how pyinfra passes the host
        for message in messages:
            logger.error(f"{host.print_prefix}{click.style(message, 'red')}")
        return False

    return FunctionCommand(fail, (), {})


@operation()
def check(target: Target) -> Commands:
    """Says what is about to change. Fails on every host where any of them cannot be deployed to.

    It is the last moment at which nothing is touched anywhere.
    """
    if not state.is_executing:
        return
    if problems := why_untouched(target.name):
        yield _fail(*problems)
    else:
        for reason in target.plan.reasons:
            logger.info(f"{host.print_prefix}{reason}")


@operation()
def install_engine(target: Target) -> Commands:
    """Docker from the distribution's packages, compose v2, and a running engine."""
    if target.plan.put_compose_plugin:
        yield from files.put._inner(
            src=str(commands.compose_binary()),
            dest=commands.COMPOSE_PLUGIN,
            mode="755",
            create_remote_dir=True,
        )
    if target.plan.install_engine:
        yield _run(commands.install_engine(target.plan))


@operation()
def prepare_tokens(target: Target) -> Commands:
    """The token directory with its owner and mode. Nothing in it is removed or emptied."""
    if target.plan.prepare_tokens:
        yield _run(commands.prepare_tokens(target.settings))


@operation()
def fetch_images(target: Target) -> Commands:
    """Pulls or builds the images that the host lacks."""
    for image in target.plan.images:
        yield _run(commands.fetch_image(image))


@operation()
def start_simulator(target: Target) -> Commands:
    """The KIS simulator, for an inventory that tries the gateway without an account."""
    if target.plan.start_simulator:
        yield _run(commands.start_simulator())


@operation()
def stage(target: Target) -> Commands:
    """Puts the release on the host, checked by the host's own compose."""
    if target.plan.stage:
        yield _run(commands.stage(target.settings, target.release))


@operation()
def switch(target: Target) -> Commands:
    """Makes the staged release the running one, behind the health gate.

    Fails on every host where any of them failed before its switch.
    """
    if not target.plan.switch:
        return
    if failed := dropped_out():
        yield _fail(f"not switched, because {', '.join(sorted(failed))} failed (see there)")
    else:
        yield _run(commands.switch(target.settings, target.release))


@operation()
def report(target: Target) -> Commands:
    """Says where the gateway listens. Changes nothing."""
    if state.is_executing:
        for line in where_it_listens(target.settings, target.release.id):
            logger.info(f"{host.print_prefix}{line}")
    yield from ()


@operation()
def down(settings: Settings) -> Commands:
    """Removes container and network; the token directory and the releases stay."""
    yield _run(commands.down(settings))


def where_it_listens(settings: Settings, release_id: str) -> list[str]:
    url = f"http://{settings.bind_address}:{settings.published_port}"
    lines = [
        f"The gateway listens on {url}, release {release_id}.",
        f"Its token lies in {settings.token_path} and outlives the container.",
    ]
    if settings.simulator:
        query = "FID_COND_MRKT_DIV_CODE=J&FID_INPUT_ISCD=005930"
        path = "/uapi/domestic-stock/v1/quotations/inquire-price"
        lines += [
            "A price from the simulator, through the gateway:",
            f"  curl -H 'tr_id: FHKST01010100' '{url}{path}?{query}'",
        ]
    return lines
