"""Takes the gateway's container and network away. The token directory and the releases stay.

Usage: pyinfra -y INVENTORY deploy/down.py
"""

from deploy.gateway import operations as gateway
from deploy.gateway.targets import survey_to_take_down

target = survey_to_take_down()

gateway.check(target=target, name="Check every host before any is touched")
gateway.down(target=target, name="Take the gateway down; its token stays")
