#!/bin/sh
# Builds an image from a context that arrives on standard input (tar.gz in base64).
#
# usage: build_image.sh IMAGE BASE_IMAGE <CONTEXT
# BASE_IMAGE is the default of the Dockerfile's `ARG BASE_IMAGE`, or empty. Where no hub has it, and
# it is Debian's own `debian:SUITE-slim`, an equal is made of the distribution's packages.
set -eu
image=$1 base=$2

work=$(mktemp -d /var/tmp/build.XXXXXX)
trap 'rm -rf "$work"' EXIT
base64 -d >"$work/context.tar.gz"

fail() { # what
  tail -n 20 "$work/log" >&2
  echo "$1" >&2
  exit 1
}

bootstrap() { # suite, tag
  command -v mmdebstrap >/dev/null || {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q && apt-get install -q -y --no-install-recommends mmdebstrap
  }
  # Through a file: a pipe into `docker import` that breaks would leave a broken image, silently.
  # Not in /tmp, which many hosts mount noexec: programs of the new system run there.
  TMPDIR=/var/tmp mmdebstrap --variant=minbase "$1" "$work/base.tar" && docker import "$work/base.tar" "$2"
}

# No `set -e` inside an `if` condition: each step says for itself that it failed.
if [ -n "$base" ] && ! docker image inspect "$base" >/dev/null 2>&1 &&
  ! timeout 120 docker pull --quiet "$base" >"$work/log" 2>&1; then
  suite=${base#debian:} suite=${suite%-slim}
  [ "$base" = "debian:$suite-slim" ] || fail "The base image $base could not be pulled."
  base=kis-base:$suite
  if ! docker image inspect "$base" >/dev/null 2>&1; then
    bootstrap "$suite" "$base" >"$work/log" 2>&1 ||
      fail "No hub has debian:$suite-slim and it could not be made of Debian's packages: see above."
  fi
fi
docker build --tag "$image" ${base:+--build-arg BASE_IMAGE="$base"} - \
  <"$work/context.tar.gz" >"$work/log" 2>&1 || fail "The image $image could not be built: see above."
