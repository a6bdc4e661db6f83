"""What a plan needs to know about a host, read by one command."""

from __future__ import annotations

import time

from paramiko import SSHException
from pyinfra import logger
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.host import Host
from pyinfra.context import state

from deploy.gateway import commands
from deploy.gateway.fleet import wanted
from deploy.gateway.reading import Reading, parse_reading


def read_host(host: Host) -> Reading | None:
    """One reading of the host; None if its command failed there, with what it wrote on the screen.

    It is no pyinfra fact: with `-vvv` pyinfra prints what facts print, and the compose file in it
    holds the environment of the gateway.

    Raises:
        pyinfra.api.exceptions.ConnectError: the host was not connected and cannot be reached.
    """
    if not host.connected:
        host.connect(reason="to read it", raise_exceptions=True)
    settings, release = wanted(host.name)
    arguments, _ = pop_global_arguments(state, host, {})
    try:
        succeeded, output = host.run_shell_command(
            StringCommand(commands.read_host(settings, release).script),
            print_output=False,
            print_input=state.print_fact_input,
            **{name: value for name, value in arguments.items() if name in CONNECTOR_ARGUMENT_KEYS},
        )
        if succeeded:
            return parse_reading(output.stdout_lines, arrived=time.time())
        words = output.stderr_lines[-20:]
    except (EOFError, OSError, SSHException, ValueError) as error:
        words = [str(error) or type(error).__name__]
    for line in words:
        logger.error(f"{host.print_prefix}{line}")
    return None
