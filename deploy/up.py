"""Brings the gateway up on every host, with a token that outlives the container.

Usage: pyinfra -y INVENTORY deploy/up.py

A host takes part in what it needs: an up-to-date host is only reported.
"""

from kis_gateway_deploy import operations as gateway
from kis_gateway_deploy.targets import batch_count, survey

target = survey()
plan = target.plan

if plan.has_news:
    gateway.check(target=target, name="Check every host before any is touched")

# Slow and harmless: on all hosts side by side.
if plan.bootstrap:
    gateway.bootstrap(target=target, name="Install python3")
if plan.install_engine:
    gateway.install_engine(target=target, name="Install what is missing of Docker")
if plan.images:
    gateway.fetch_images(target=target, name="Fetch the image")
if plan.start_simulator:
    gateway.start_simulator(target=target, name="Start the KIS simulator")
if plan.prepares:
    gateway.prepare(target=target, name="Put the release on the host")

# Quick and not harmless: batch by batch.
if plan.switch:
    gateway.stop_loop(target=target, name="Stop a gateway that KIS refuses again and again")
    for batch in range(batch_count()):
        gateway.switch(target=target, batch=batch, name=f"Switch batch {batch + 1}")
    gateway.revert(target=target, name="Revert what was switched, if a batch failed")

gateway.report(target=target, name="Report")
