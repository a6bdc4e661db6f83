#!/bin/sh
# (Re)starts the KIS simulator where this host and its containers reach it, and nobody else:
# on 127.0.0.1 and on the address that containers know as host.docker.internal.
#
# usage: simulator.sh IMAGE
set -eu
bridge=$(docker network inspect bridge --format '{{range .IPAM.Config}}{{.Gateway}}{{end}}')
[ -n "$bridge" ] || bridge=$(ip -4 -o address show docker0 | awk '{ sub("/.*", "", $4); print $4 }')
docker rm --force kis-simulator >/dev/null 2>&1 || true
image=$1
set -- --label kis-simulator
for port in 9443 29443; do
  set -- "$@" --publish "127.0.0.1:$port:$port" --publish "$bridge:$port:$port"
done
docker run --detach --name kis-simulator --restart unless-stopped --init --read-only --tmpfs /tmp \
  --cap-drop ALL --security-opt no-new-privileges:true "$@" "$image" >/dev/null
