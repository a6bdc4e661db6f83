#!/bin/sh
# Stops a gateway that KIS refuses again and again, so that it cannot spoil the minute of another, and
# starts it again where nothing has come to take its place.
#
# usage: stop_loop.sh stop|start APP_DIR PROJECT SERVICE ADOPT
action=$1 app_dir=$2 project=$3 service=$4 adopt=$5
docker ps --all --quiet --no-trunc \
  --filter "label=com.docker.compose.project=$project" \
  --filter "label=com.docker.compose.service=$service" \
  --filter label=com.docker.compose.oneoff=False |
  xargs -r docker "$action" >/dev/null || exit 1
if [ "$action" = start ]; then
  [ ! -e "$app_dir/.adopted" ] || start_adopted "$app_dir"
elif adopted=$(adopted_container "$adopt" "$app_dir"); then
  stop_adopted "$adopted" "$app_dir"
fi
