"""Fails if a host has drifted from what a deploy left, and shows what differs. Touches nothing.

Usage: pyinfra -y INVENTORY deploy/drift.py
"""

from kis_gateway_deploy import operations as gateway
from kis_gateway_deploy.targets import survey

target = survey()

gateway.show_plan(verb="drift", name="Show what a deploy would change", _run_once=True)
gateway.expect(
    target=target, unblocked=True, no_changes=True, name="Expect that nothing would change"
)
