#!/bin/sh
# Reads all that a plan needs to know about one host, in one piece, and changes nothing.
#
# usage: read_host.sh APP_DIR PROJECT SERVICE TOKEN_DIR TOKEN_FILE RELEASE IMAGE...
# Prints one fact a line, `name value`; what is not there is not printed. No secret is printed.
app_dir=$1 project=$2 service=$3 token_dir=$4 token_file=$5 release=$6
shift 6
export LC_ALL=C # the words of stat are compared

echo "uid $(id -u)"
echo "clock $(date +%s)"
echo "architecture $(uname -m)"
# shellcheck disable=SC1091  # the host's own file
(. /etc/os-release && echo "os $ID ${VERSION_ID:-}") 2>/dev/null
command -v apt-get >/dev/null && echo "apt yes"
command -v docker >/dev/null && echo "docker_cli yes"
command -v dockerd >/dev/null && echo "dockerd yes"
compose=$(docker compose version --short 2>/dev/null) && echo "compose ${compose#v}"
engine=$(docker version --format '{{.Server.Version}}' 2>/dev/null) && echo "engine $engine"
docker_root=/var/lib/docker
while [ ! -d "$docker_root" ]; do docker_root=$(dirname "$docker_root"); done
echo "disk_free_kb $(df -Pk "$docker_root" | awk 'NR == 2 { print $4 }')"

# Listening TCP sockets as the kernel shows them: address and port in hexadecimal.
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == "0A" { print "listening " $2 }' | sort -u

if [ -e "$token_dir" ]; then
  echo "token_dir $(stat -c '%a %u:%g %F' "$token_dir")"
fi
if [ -e "$token_dir/$token_file" ]; then
  echo "token_file $(stat -c '%a %u:%g %F' "$token_dir/$token_file")"
  echo "token_written $(stat -c %Y "$token_dir/$token_file")"
  expiry=$(token_expiry "$token_dir/$token_file" 2>/dev/null) && echo "token_expires $expiry"
fi

[ -s "$app_dir/lock" ] && echo "lock $(cat "$app_dir/lock")"
for name in current previous; do
  [ -L "$app_dir/$name" ] && echo "$name $(basename "$(readlink "$app_dir/$name")")"
done
# The compose file in base64, in which it is one line. Of the other files, hashes.
if [ -r "$app_dir/current/docker-compose.yml" ]; then
  echo "current_compose $(base64 -w 0 "$app_dir/current/docker-compose.yml")"
  for file in "$app_dir/current"/*; do
    echo "current_file $(sha256sum "$file" | cut -d ' ' -f 1) ${file##*/}"
  done
fi
for directory in "$app_dir/releases"/*; do
  [ -d "$directory" ] && echo "release ${directory##*/}"
done
tail -n 5 "$app_dir/history.jsonl" 2>/dev/null | awk '{ print "history " $0 }'
for file in "$app_dir/releases/$release"/*; do
  [ -f "$file" ] || continue
  echo "release_file $(stat -c '%a %u:%g' "$file") $(sha256sum "$file" | cut -d ' ' -f 1) ${file##*/}"
done

[ -n "$engine" ] || exit 0
for image in "$@"; do
  id=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null) && echo "image $image $id"
done
# By label, not by name: an interrupted re-creation leaves containers named <id>_name.
containers=$(docker ps --all --quiet --no-trunc \
  --filter "label=com.docker.compose.project=$project" \
  --filter "label=com.docker.compose.service=$service")
simulator=$(docker ps --all --quiet --no-trunc --filter label=kis-simulator)
# shellcheck disable=SC2086  # one word an id
for container in $containers $simulator; do
  docker inspect --format 'container {"id": {{json .Id}}, "image": {{json .Image}},
    "image_name": {{json .Config.Image}}, "labels": {{json .Config.Labels}},
    "status": {{json .State.Status}}, "restarts": {{json .RestartCount}},
    "health": {{with index .State "Health"}}{{json .Status}}{{else}}null{{end}},
    "ports": {{json .HostConfig.PortBindings}}}' "$container" 2>/dev/null | tr -d '\n'
  echo
done
exit 0
