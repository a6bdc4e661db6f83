"""Settings of every host in the group `real` of the inventories in this directory."""

from pathlib import Path

gateway_image = "registry.example/kis-gateway:1.4"
# On this machine, outside any repository, readable only by you.
gateway_secrets_file = Path("~/kis/secrets.json").expanduser()
gateway_app_key_field = "kis-r-app-key"
gateway_environment = {"KIS_ENVIRONMENT": "real"}
