#!/bin/sh
# Pulls an image while nothing depends on it yet.
#
# usage: pull_image.sh IMAGE [with-login]
# Reads with `with-login` a docker config.json on standard input, and keeps nothing of it.
if [ "$2" = with-login ]; then
  DOCKER_CONFIG=$(mktemp -d) || exit 1 # of mode 0700
  export DOCKER_CONFIG
  trap 'rm -rf "$DOCKER_CONFIG"' EXIT
  trap 'exit 1' HUP INT TERM
  (umask 077 && cat >"$DOCKER_CONFIG/config.json") || exit 1
fi
if ! output=$(docker pull --quiet "$1" 2>&1); then
  echo "$output" >&2
  echo "The image $1 could not be pulled: check gateway_image, and that this host reaches" >&2
  echo "the registry and may read from it (docker login, or gateway_registry_auth_file)." >&2
  echo "Nothing was changed." >&2
  exit 1
fi
