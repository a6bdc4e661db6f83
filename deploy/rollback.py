"""Goes back to the release before, or to any that lies on the hosts, batch by batch.

Usage: pyinfra -y INVENTORY deploy/rollback.py [--data release=ID]
"""

from pyinfra.context import host

from deploy.gateway import operations as gateway
from deploy.gateway.targets import batch_count, survey_to_run

target = survey_to_run(release_id=str(host.data.get("release") or ""))

gateway.check(target=target, name="Check every host before any is touched")
gateway.take_lock(target=target, name="Take the deploy lock")
for batch in range(batch_count()):
    gateway.switch(
        target=target, batch=batch, action="rollback", name=f"Roll back batch {batch + 1}"
    )
gateway.revert(target=target, name="Revert what was rolled back, if a batch failed")
gateway.release_lock(target=target, name="Release the deploy lock")
gateway.report(target=target, name="Report")
