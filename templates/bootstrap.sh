#!/bin/sh
# Installs packages of the distribution (python3, Docker, compose), and starts the Docker engine.
# An engine that runs already is left alone.
#
# usage: bootstrap.sh engine|no-engine PACKAGE...
engine=$1
shift
say() { echo "$*" >&2; }

if [ "$(id -u)" -ne 0 ]; then
  say "Installing packages needs root: set \`_sudo\` to True in the host's inventory data, or"
  say "connect as root."
  exit 1
fi
if docker --version 2>/dev/null | grep -qi podman; then
  say "\`docker\` is Podman here, which is not supported: install Docker Engine instead."
  exit 1
fi

# Two gateways of one machine are deployed in parallel. Daemons must not inherit this lock.
exec 9>/run/kis-engine.guard
flock 9

# `update` has no lock timeout: another apt, such as unattended-upgrades, may be running.
update() {
  tries=0
  until apt-get update -q; do
    tries=$((tries + 1))
    [ $tries -lt 24 ] && grep -qi 'could not get lock\|unable to lock' "$log" || return 1
    : >"$log"
    sleep 5
  done
}
if [ $# -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    say "This distribution has no apt-get: install $* yourself, then deploy again."
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp) && trap 'rm -f "$log"' EXIT
  if ! { update && apt-get install -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends --no-remove "$@"; } >>"$log" 2>&1 9>&-; then
    tail -n 15 "$log" >&2
    say "The packages could not be installed: $*"
    if grep -qi 'could not get lock\|unable to lock' "$log"; then
      say "Another apt process, such as unattended-upgrades, holds apt's lock: wait for its end, then"
      say "deploy again."
      exit 1
    fi
    say "Look at the lines above: usually the host cannot reach a package mirror. Correct that and"
    say "run this again, or install the packages yourself."
    exit 1
  fi
fi
[ "$engine" = engine ] || exit 0

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
wait_for_engine() { # seconds
  i=0
  until answers; do
    i=$((i + 1))
    [ $i -le $(($1 * 5)) ] || return 1
    sleep 0.2
  done
}

answers && exit 0
if [ -d /run/systemd/system ]; then
  systemctl enable --now docker
  log_hint='journalctl -u docker'
  wait_for_engine 60 && exit 0
  journalctl -u docker --no-pager --lines 20 >&2
else
  # No systemd (a container, WSL): the service script if it works, else dockerd itself.
  service docker start >/dev/null 2>&1 9>&- && wait_for_engine 10 && exit 0
  log_hint=/var/log/dockerd.log
  if ! pgrep -x dockerd >/dev/null; then
    # After a crash, other processes may have the pids in its pid files: it would refuse to start,
    # or wait for a containerd that does not run.
    rm -f /run/docker.pid /var/run/docker.pid
    pgrep -x containerd >/dev/null || rm -f /run/docker/containerd/containerd.pid
    setsid dockerd >>"$log_hint" 2>&1 </dev/null 9>&- &
  fi
  wait_for_engine 60 && exit 0
  tail -n 20 "$log_hint" >&2
fi
say "The Docker engine did not start within 60 s; its log: $log_hint"
exit 1
