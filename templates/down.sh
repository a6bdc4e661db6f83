#!/bin/sh
# Removes the gateway's container and network. The token directory and the releases stay.
#
# usage: down.sh APP_DIR PROJECT BY
set -eu
app_dir=$1 project=$2 by=$3
exec 9>"$app_dir/.switch.guard"
flock 9 # the switch of a controller that died may still be on its way
began=$(now)
current=$(basename "$(readlink "$app_dir/current")")
docker_compose --progress quiet --project-name "$project" \
  --file "$app_dir/releases/$current/docker-compose.yml" down
record "$app_dir" down "$by" "$began" "$current" "" "" down 0
