#!/bin/sh
# Installs python3 from the distribution's packages: it is what reads a host.
#
# usage: bootstrap.sh
command -v python3 >/dev/null && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "python3 is missing here, and installing it needs root: set \`_sudo\` to True in the host's" >&2
  echo "inventory data, or connect as root." >&2
  exit 1
fi
if ! command -v apt-get >/dev/null; then
  echo "python3 is missing here, and this distribution has no apt-get: install python3 3.9 or newer." >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp) && trap 'rm -f "$log"' EXIT
if ! { apt-get update -q && apt-get install -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends python3; } >"$log" 2>&1; then
  tail -n 15 "$log" >&2
  echo "python3 could not be installed: see apt's own words above." >&2
  exit 1
fi
