"""Brings the gateway up on every host, with a token that outlives the container.

Usage: pyinfra -y INVENTORY deploy/up.py
"""

from deploy.gateway import operations as gateway
from deploy.gateway.targets import batch_count, survey

target = survey()

gateway.check(target=target, name="Check every host before any is touched")
gateway.take_lock(target=target, name="Take the deploy lock")

# Slow and harmless: on all hosts side by side.
gateway.install_engine(target=target, name="Install what is missing of Docker")
gateway.prepare_tokens(target=target, name="Prepare the token directory")
gateway.fetch_images(target=target, name="Fetch the image")
gateway.start_simulator(target=target, name="Start the KIS simulator")
gateway.stage(target=target, name="Stage the release")

gateway.stop_loop(target=target, name="Stop a gateway that KIS refuses again and again")

# Quick and not harmless: batch by batch.
for batch in range(batch_count()):
    gateway.switch(target=target, batch=batch, name=f"Switch batch {batch + 1}")
gateway.revert(target=target, name="Revert what was switched, if a batch failed")

gateway.release_lock(target=target, name="Release the deploy lock")
gateway.report(target=target, name="Report")
gateway.count(name="Count the issuances")
