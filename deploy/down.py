"""Takes the gateway's container and network away. The token directory and the releases stay.

Usage: pyinfra -y INVENTORY deploy/down.py
"""

from pyinfra.context import host

from deploy.gateway import operations as gateway
from deploy.gateway.targets import wanted

settings, _ = wanted(host.name)

gateway.down(settings=settings, name="Take the gateway down; its token stays")
