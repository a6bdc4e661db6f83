"""Goes back to the release before, or to any that lies on the hosts, batch by batch.

Usage: pyinfra -y INVENTORY deploy/rollback.py [--data 'release="ID"']
"""

from pyinfra.context import host

from kis_gateway_deploy import operations as gateway
from kis_gateway_deploy.fleet import Refused
from kis_gateway_deploy.targets import batch_count, survey_to_run

release = host.data.get("release", "")
if not isinstance(release, str):  # pyinfra reads digits without quotes as a number
    raise Refused("write the release in quotes of its own: --data 'release=\"ID\"'")
target = survey_to_run(release_id=release)

gateway.check(target=target, name="Check every host before any is touched")
gateway.stop_loop(target=target, name="Stop a gateway that KIS refuses again and again")
for batch in range(batch_count()):
    gateway.switch(
        target=target, batch=batch, action="rollback", name=f"Roll back batch {batch + 1}"
    )
gateway.revert(target=target, name="Revert what was rolled back, if a batch failed")
gateway.report(target=target, name="Report")
