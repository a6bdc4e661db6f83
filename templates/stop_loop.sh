#!/bin/sh
# Stops a gateway that KIS refuses again and again, so that it cannot spoil the minute of another.
#
# usage: stop_loop.sh APP_DIR PROJECT SERVICE ADOPT
app_dir=$1 project=$2 service=$3 adopt=$4
docker ps --quiet --no-trunc \
  --filter "label=com.docker.compose.project=$project" \
  --filter "label=com.docker.compose.service=$service" | xargs -r docker stop >/dev/null || exit 1
if adopted=$(adopted_container "$adopt" "$app_dir"); then
  stop_adopted "$adopted" "$app_dir"
fi
