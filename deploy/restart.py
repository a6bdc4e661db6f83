"""Restarts the gateways, batch by batch, each behind the health gate.

Usage: pyinfra -y INVENTORY deploy/restart.py
"""

from kis_gateway_deploy import operations as gateway
from kis_gateway_deploy.targets import batch_count, survey_to_run

target = survey_to_run(release_id=None, restart=True)

gateway.check(target=target, name="Check every host before any is touched")
gateway.stop_loop(target=target, name="Stop a gateway that KIS refuses again and again")
for batch in range(batch_count()):
    gateway.switch(target=target, batch=batch, action="restart", name=f"Restart batch {batch + 1}")
gateway.revert(target=target, name="Start again what was stopped, if a batch failed")
gateway.report(target=target, name="Report")
