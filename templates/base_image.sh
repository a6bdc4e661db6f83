#!/bin/sh
# Makes an image from the distribution's packages, equal to Debian's own `debian:SUITE-slim`.
#
# usage: base_image.sh SUITE IMAGE
set -eu
suite=$1 image=$2

work=$(mktemp -d /var/tmp/base.XXXXXX)
trap 'rm -rf "$work"' EXIT
command -v mmdebstrap >/dev/null || {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -q -y --no-install-recommends --no-remove mmdebstrap
}
# Through a file: a pipe into `docker import` that breaks would leave a broken image, silently.
# Not in /tmp, which many hosts mount noexec: programs of the new system run there.
TMPDIR=/var/tmp mmdebstrap --variant=minbase "$suite" "$work/base.tar"
docker import "$work/base.tar" "$image"
