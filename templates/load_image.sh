#!/bin/sh
# Loads an image that arrives on standard input, as `docker save` writes it, and gives it its name.
#
# usage: load_image.sh REFERENCE <IMAGE     (tar or tar.gz; it may lack layers that are here)
reference=$1

if ! loaded=$(docker load --quiet 2>&1); then
  cat >/dev/null # the sender hears nothing until it has sent everything
  echo "$loaded" >&2
  echo "The image $reference could not be loaded: the engine's own words are above. Usually the" >&2
  echo "disk is full, or the archive is damaged; or an image with some of its layers was removed" >&2
  echo "here just now: then deploy again. Nothing was changed." >&2
  exit 1
fi
# `Loaded image: NAME` for each name that it brought, or `Loaded image ID: …` where it has none.
image=$(echo "$loaded" | sed -n 's/^Loaded image\( ID\)\{0,1\}: //p' | head -n 1)
if ! docker tag "$image" "$reference"; then
  echo "$loaded" >&2
  echo "The image was loaded, but could not be named $reference: see above." >&2
  exit 1
fi
