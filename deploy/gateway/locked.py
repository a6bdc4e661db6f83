"""Commands that run under the deploy lock: where one fails, the lock is given back."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from functools import cache
from threading import Lock
from typing import Any

import click
from paramiko import SSHException
from pyinfra import logger
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import inventory

from deploy.gateway import commands
from deploy.gateway.commands import Command
from deploy.gateway.fleet import wanted
from deploy.gateway.release import Image
from deploy.gateway.saved_image import SavedImage, cut, pack
from deploy.gateway.settings import Settings
from deploy.gateway.targets import Target, mounted_elsewhere, rollout, this_run
from kis_gateway_deploy.remote import RemoteError, Script, ask


class Locked(Script):
    """A command under the deploy lock: where it fails, nobody has to wait for the lock to age."""

    def __init__(self, command: Command, settings: Settings) -> None:
        super().__init__(command.script, command.stdin)
        self.give_back_lock = Script(commands.release_lock(settings, this_run()).script)

    def execute(self, state: Any, host: Any, connector_arguments: Any) -> Any:
        to_release = connector_arguments | self.give_back_lock.connector_arguments
        try:
            status, output = self.attempt(state, host, connector_arguments)
        except (EOFError, OSError, SSHException) as error:  # one of them would end all hosts' run
            why = str(error) or type(error).__name__
            what = f"the connection was lost ({why}); a switch ends there by itself: deploy again"
            logger.error(f"{host.print_prefix}{click.style(what, 'red')}")
            status, output = False, CommandOutput([])
        if not status:
            with suppress(EOFError, OSError, SSHException):
                host.run_shell_command(self.give_back_lock, **to_release)
        return status, output

    def attempt(self, state: Any, host: Any, connector_arguments: Any) -> Any:
        return super().execute(state, host, connector_arguments)


class Switch(Locked):
    """Shows what it says as it comes, so that a person sees what is waited for.

    Of issuances the script says at its end how many it has counted.
    """

    def __init__(self, target: Target, action: str, release_id: str) -> None:
        self.name, progress = target.name, rollout()
        budget = progress.budget(target.name)
        wait = progress.wait_for_kis(target.name, time.monotonic()) if budget else 0
        command = commands.switch(target.settings, this_run(), action, release_id, budget, wait)
        super().__init__(command, target.settings)

    def attempt(self, state: Any, host: Any, connector_arguments: Any) -> Any:  # noqa: ARG002
        connector_arguments.update(self.connector_arguments)
        status, output = host.run_shell_command(self, print_output=True, **connector_arguments)
        for line in output.output_lines:
            if found := re.fullmatch(r"issuances: (\d+) \(budget \d+\)", line.strip()):
                rollout().has_issued(self.name, int(found[1]))
        if rollout().budget(self.name):
            rollout().has_asked(self.name, time.monotonic())
        return status, CommandOutput([])  # else pyinfra shows it once more where it failed


class BringToken(Locked):
    """Brings a token from another host; it is in this process's memory, and nowhere else."""

    def __init__(self, target: Target, source: str, batch: int) -> None:
        super().__init__(commands.give_token(target.settings, target.key, ""), target.settings)
        self.key, self.source, self.batch = target.key, source, batch

    def attempt(self, state: Any, host: Any, connector_arguments: Any) -> Any:  # noqa: ARG002
        try:
            with _one_at_a_time:
                token = _take_token(self.source, self.key, self.batch)
            why = "has no token any more that it could give"
        except (RemoteError, ConnectError, ValueError, AttributeError) as error:
            token, why = "", f"could not be asked for its token ({error})"
        if not token:
            what = f"{self.source} {why}: deploy again"
            logger.error(f"{host.print_prefix}{click.style(what, 'red')}")
            return False, CommandOutput([])
        connector_arguments.update(self.connector_arguments)
        connector_arguments.update(self.reading([token]))
        return host.run_shell_command(
            self, print_output=False, print_input=False, **connector_arguments
        )


# The first host of a batch that needs a token takes it for all of them.
_one_at_a_time = Lock()


@cache
def _take_token(source: str, key: str, batch: int) -> str:  # noqa: ARG001
    """In base64; empty if there is none any more. Raises RemoteError.

    Once a batch, for a later one may find another. Not once for each host: an sshd opens ten
    sessions a connection at most, unless told otherwise (sshd_config(5), MaxSessions).
    """
    settings, release = wanted(source)
    mounted = mounted_elsewhere(source)
    answer = ask(
        inventory.get_host(source),
        "token",
        commands.token_request(settings, release, key, mounted),
    )
    token = json.loads(answer).get("result", {}).get("token")
    return token if isinstance(token, str) and BASE64.fullmatch(token) else ""


BASE64 = re.compile("[A-Za-z0-9+/]+=*", re.ASCII)


class LoadImage(Locked):
    """Sends what the host lacks of a saved image, and shows how far that is."""

    def __init__(self, image: Image, saved: SavedImage, target: Target) -> None:
        super().__init__(commands.fetch_image(image), target.settings)
        self.image, self.saved = image, saved
        self.on_host = target.reading.layers if target.reading else ()

    def attempt(self, state: Any, host: Any, connector_arguments: Any) -> Any:
        def say(what: str) -> None:
            logger.info(f"{host.print_prefix}{self.image.reference}: {what}")

        try:
            pieces = cut(pack(self.saved, self.on_host, say), say)
            self.connector_arguments.update(self.reading(pieces))
            return super().attempt(state, host, connector_arguments)
        except (EOFError, OSError, SSHException, ValueError) as error:
            what = f"could not be packed or sent: {error}. Nothing that runs was changed; mend that"
            say(click.style(f"{what}, and deploy again.", "red"))
            return False, CommandOutput([])
