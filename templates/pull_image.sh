#!/bin/sh
# Pulls an image while nothing depends on it yet.
#
# usage: pull_image.sh IMAGE
if ! output=$(docker pull --quiet "$1" 2>&1); then
  echo "$output" >&2
  echo "The image $1 could not be pulled: check gateway_image, and that this host reaches" >&2
  echo "the registry and may read from it (docker login). Nothing was changed." >&2
  exit 1
fi
