#!/bin/sh
# Removes the gateway's container and network. The token directory and the releases stay.
#
# usage: down.sh APP_DIR PROJECT
docker compose --progress quiet --project-name "$2" --file "$1/current/docker-compose.yml" down \
  --remove-orphans
