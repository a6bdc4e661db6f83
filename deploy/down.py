"""Usage: pyinfra -y INVENTORY deploy/down.py"""

from kis_gateway_deploy.deploys import down

down()
