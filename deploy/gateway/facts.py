"""The one fact: everything about a host that a plan needs, read by one command."""

from __future__ import annotations

import time

from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase
from pyinfra.context import host

from deploy.gateway import commands
from deploy.gateway.fleet import wanted
from deploy.gateway.reading import Reading, parse_reading


class HostReading(FactBase[Reading | None]):
    """A `Reading` of the host in context; None where its command failed there.

    It takes no arguments: pyinfra would print them, a whole script, with every error.
    """

    @staticmethod
    def default() -> Reading | None:
        return None

    def command(self) -> StringCommand:
        settings, release = wanted(host.name)
        return StringCommand(commands.read_host(settings, release).script)

    def process(self, output: list[str]) -> Reading:
        try:
            return parse_reading(output, arrived=time.time())
        except ValueError as error:
            raise FactProcessError(str(error)) from error
