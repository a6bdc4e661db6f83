"""What a plan needs to know about a host, read by one command."""

from __future__ import annotations

import time

from pyinfra import logger
from pyinfra.api.host import Host

from kis_gateway_deploy.fleet import wanted
from kis_gateway_deploy.reading import Reading, parse_reading
from kis_gateway_deploy.remote import NoPythonError, RemoteError, ask
from kis_gateway_deploy.requests import read_request


def read_host(host: Host, history: int = 0) -> Reading | None:
    """One reading of the host, with the last `history` lines of its history.

    None if it could not be read; its own words are then on the screen.

    Raises:
        pyinfra.api.exceptions.ConnectError: the host was not connected and cannot be reached.
        NoPythonError: it has no python3, so that nothing else is known of it.
    """
    try:
        answer = ask(host, "read", read_request(*wanted(host.name), history))
        return parse_reading(answer, arrived=time.time())
    except NoPythonError:
        raise
    except (RemoteError, ValueError) as error:
        for line in str(error).splitlines():
            logger.error(f"{host.print_prefix}{line}")
        return None
