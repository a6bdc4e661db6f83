"""Usage: pyinfra -y INVENTORY deploy/logs.py"""

from kis_gateway_deploy.deploys import logs

logs()
