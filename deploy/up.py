"""Usage: pyinfra -y INVENTORY deploy/up.py"""

from kis_gateway_deploy.deploys import up

up()
