#!/bin/sh
# Compose, started itself: `docker compose` starts it twice, the first time only to hear what it is,
# which takes 28 ms of the processor. Functions.

compose_plugin() { # sets $plugin to its path, from where docker itself looks for it
  for plugin in "${DOCKER_CONFIG:-${HOME:-/root}/.docker}" /usr/local/lib/docker \
    /usr/local/libexec/docker /usr/lib/docker /usr/libexec/docker; do
    plugin=$plugin/cli-plugins/docker-compose
    [ ! -x "$plugin" ] || return 0
  done
  return 1
}
docker_compose() {
  if compose_plugin; then "$plugin" "$@"; else docker compose "$@"; fi
}
