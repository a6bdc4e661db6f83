"""testinfra over pyinfra's own connection, with the sudo, keys and jump hosts of a deploy."""

from __future__ import annotations

from typing import Any

from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand
from pyinfra.api.config import Config
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host as PyinfraHost
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

BEGIN = "kis-verify-begin"
STATUS = "kis-verify-status="


class PyinfraBackend(BaseBackend):  # type: ignore[misc] # testinfra has no types
    NAME = "pyinfra"

    def __init__(self, host: PyinfraHost) -> None:
        super().__init__(host.name)
        self.pyinfra_host = host
        arguments, _ = pop_global_arguments(host.state, host, {})
        self.arguments: dict[str, Any] = {
            name: value for name, value in arguments.items() if name in CONNECTOR_ARGUMENT_KEYS
        }

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Marks where the command's output begins, because a login shell may print before it.

        pyinfra returns no exit status: it is sent as the last line of standard error.
        """
        line = self.quote(command, *args)
        _is_good, answer = self.pyinfra_host.run_shell_command(
            StringCommand(f"echo {BEGIN}; echo {BEGIN} >&2; ( {line}\n); echo {STATUS}$? >&2"),
            **self.arguments,
        )
        out, err = _after_begin(answer.stdout_lines), _after_begin(answer.stderr_lines)
        status = "255"
        if err and STATUS in err[-1]:
            last, _mark, status = err.pop().rpartition(STATUS)
            err += [last] if last else []
        stdout, stderr = ("".join(f"{each}\n" for each in lines) for lines in (out, err))
        # Not `self.result`, which logs the output: with `-vv` pytest would show a gateway's log and
        # its variables.
        output = stdout.encode("utf-8", "replace"), stderr.encode()
        return CommandResult(self, int(status), line, *output)


def _after_begin(lines: list[str]) -> list[str]:
    marked = [number for number, line in enumerate(lines) if line.endswith(BEGIN)]
    return lines[marked[0] + 1 :] if marked else lines


def connect(hosts: dict[str, dict[str, Any]]) -> dict[str, Host | str]:
    """testinfra's host by name, or why it cannot be used. `hosts` maps names to their data."""
    inventory = Inventory((list(hosts.items()), {}))
    state = State(inventory, Config())
    found: dict[str, Host | str] = {}
    for each in inventory:
        state.activate_host(each)
        try:
            each.connect(raise_exceptions=True)
        except PyinfraError as error:  # not only ConnectError: a key is read before that
            found[each.name] = str(error)
            continue
        except (OSError, ValueError) as error:  # of a key that may not be read, or is not text
            found[each.name] = f"the SSH key cannot be used: {error}"
            continue
        backend = PyinfraBackend(each)
        host = Host(backend)
        backend.set_host(host)
        result = host.run("id -u")
        is_root = result.stdout.strip() == "0"
        why = f"not root: {result.stderr.strip() or 'set `_sudo` in its inventory data'}"
        found[each.name] = host if is_root else why
    return found
