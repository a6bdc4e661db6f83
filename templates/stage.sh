#!/bin/sh
# Puts a release on the host: complete and checked, or not at all. Touches nothing that runs.
#
# usage: stage.sh APP_DIR RELEASE <ARCHIVE     (tar.gz in base64, with modes and owners)
set -eu
export GOGC=off # compose is short-lived here: it need not clean up
umask 077 # the archive holds secrets: nothing of it is readable for others, at no moment
releases=$1/releases release=$2

mkdir -p "$releases"
rm -rf "$releases"/.staging.* # of a run that was killed, with its secrets; the lock is ours
staging=$(mktemp -d "$releases/.staging.XXXXXX")
trap 'rm -rf "$staging"' EXIT
base64 -d | tar --extract --gzip --directory "$staging" --same-owner --same-permissions

# `config` exits 0 with only a warning where a variable is not set: any word is a refusal.
if ! output=$(docker_compose --file "$staging/docker-compose.yml" config --quiet 2>&1) ||
  [ -n "$output" ]; then
  echo "$output" >&2
  echo "docker compose refuses the compose file, or warns of it: see above. The running" >&2
  echo "gateway was not touched. Mend the settings that the message names, and deploy again." >&2
  exit 1
fi

# A release of this name whose files were changed by hand makes room; what runs keeps its mounts.
if [ -e "$releases/$release" ]; then
  mv "$releases/$release" "$staging.replaced"
  trap 'rm -rf "$staging" "$staging.replaced"' EXIT
fi
mv "$staging" "$releases/$release"
