"""Settings of every host in the group `paper` of the inventories in this directory."""

from pathlib import Path

gateway_image = "registry.example/kis-gateway:1.4"
gateway_secrets_file = Path("~/kis/secrets.json").expanduser()
gateway_app_key_field = "kis-v-app-key"
gateway_environment = {"KIS_ENVIRONMENT": "paper"}
