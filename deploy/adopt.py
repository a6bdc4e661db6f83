"""Usage: pyinfra -y INVENTORY deploy/adopt.py --limit HOST --data 'container="NAME"'"""

from kis_gateway_deploy.deploys import adopt

adopt()
