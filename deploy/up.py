"""Brings the gateway up on every host, with a token that outlives the container.

Usage: pyinfra -y INVENTORY deploy/up.py
"""

from deploy.gateway import operations as gateway
from deploy.gateway.targets import survey

target = survey()

gateway.check(target=target, name="Check every host before any is touched")
gateway.install_engine(target=target, name="Install what is missing of Docker")
gateway.prepare_tokens(target=target, name="Prepare the token directory")
gateway.fetch_images(target=target, name="Fetch the image")
gateway.start_simulator(target=target, name="Start the KIS simulator")
gateway.stage(target=target, name="Stage the release")
gateway.switch(target=target, name="Switch to the release")
gateway.report(target=target, name="Report")
