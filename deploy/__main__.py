"""Starts a verb as `make` does: `python -m deploy VERB INVENTORY [LIMIT] [PYINFRA_FLAG …]`.

It is `pyinfra -y INVENTORY deploy/VERB.py --limit …`, and it also fails if the inventory is missing
or has no hosts: pyinfra then does nothing and ends with 0. LIMIT: names of hosts or groups, with
commas.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyinfra.context import ctx_state
from pyinfra_cli.main import main as pyinfra

from kis_gateway_deploy.session import ATTRIBUTE


def main(verb: str, inventory: str, limit: str = "", *flags: str) -> None:
    """Runs the verb; raises SystemExit with its status."""
    if not Path(inventory).is_file():
        sys.exit(
            f"no host was touched: there is no inventory {inventory} (INVENTORY=path/to/it.py)"
        )
    limits = [word for name in limit.split(",") if name for word in ("--limit", name.strip())]
    sys.argv[1:] = ["-y", *limits, *flags, inventory, f"deploy/{verb}.py"]
    try:
        pyinfra()
    except SystemExit as end:
        session = getattr(ctx_state.get(), ATTRIBUTE, None) if ctx_state.isset() else None
        if end.code in (0, None) and not (session and session.targets):
            lacks = f"no host that matches LIMIT={limit}" if limit else "no hosts"
            sys.exit(f"no host was touched: the inventory {inventory} has {lacks}")
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
