"""Usage: pyinfra -y INVENTORY deploy/rollback.py"""

from kis_gateway_deploy.deploys import rollback

rollback()
