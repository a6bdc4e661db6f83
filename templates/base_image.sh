#!/bin/sh
# Makes an image from the distribution's packages, like Debian's own `debian:SUITE-slim`.
#
# usage: base_image.sh SUITE IMAGE
set -eu
suite=$1 image=$2

work=$(mktemp -d /var/tmp/base.XXXXXX)
trap 'rm -rf "$work"' EXIT
command -v mmdebstrap >/dev/null || {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  # Ubuntu has no keyring of Debian's.
  apt-get install -q -y --no-install-recommends --no-remove mmdebstrap debian-archive-keyring
}
# Through a file: if a pipe into `docker import` broke, it would silently make a broken image.
# Not in /tmp, which many hosts mount noexec: mmdebstrap runs programs of the new system there.
TMPDIR=/var/tmp mmdebstrap --variant=minbase "$suite" "$work/base.tar"
docker import "$work/base.tar" "$image"
