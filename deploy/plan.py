"""Shows what a deploy would change on every host, and why. Touches nothing.

Fails if something is in the way of a deploy.

Usage: pyinfra -y INVENTORY deploy/plan.py
"""

from kis_gateway_deploy import operations as gateway
from kis_gateway_deploy.targets import survey

target = survey()

gateway.show_plan(verb="plan", name="Show what a deploy would change", _run_once=True)
gateway.expect(target=target, unblocked=True, name="Expect that nothing is in the way")
