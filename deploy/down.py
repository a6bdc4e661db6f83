"""Takes the gateway's container and network away. The token directory and the releases stay.

Usage: pyinfra -y INVENTORY deploy/down.py
"""

from kis_gateway_deploy import operations as gateway
from kis_gateway_deploy.targets import survey_to_take_down

target = survey_to_take_down()

gateway.check(target=target, name="Check every host before any is touched")
gateway.down(target=target, name="Take the gateway down; its token stays")
