"""Shows what runs on every host, its token's age (never the token), and the last switches.

Usage: pyinfra -y INVENTORY deploy/status.py [--data json=1]
"""

from pyinfra.context import host

from kis_gateway_deploy import operations as gateway
from kis_gateway_deploy.targets import survey

target = survey(history=5)

gateway.show_status(
    as_json=bool(host.data.get("json")), name="Show the status of all hosts", _run_once=True
)
gateway.expect(target=target, name="Expect that the host could be read")
