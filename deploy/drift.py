"""Fails where a host is no longer as a deploy left it, and shows what differs. Touches nothing.

Usage: pyinfra -y INVENTORY deploy/drift.py
"""

from deploy.gateway import operations as gateway
from deploy.gateway.targets import survey

target = survey()

gateway.show_plan(verb="drift", name="Show what a deploy would change", _run_once=True)
gateway.expect(target=target, no_changes=True, name="Expect that nothing would change")
