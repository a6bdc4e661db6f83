#!/bin/sh
# Reads all that a plan needs to know about one host, in one piece, and changes nothing.
#
# usage: read_host.sh APP_DIR PROJECT SERVICE TOKEN_FILE ADOPT ADOPT_PATH RELEASE WITH_LAYERS IMAGE...
# ADOPT names a container that may run a gateway by other means, with its token at ADOPT_PATH inside,
# or is empty. WITH_LAYERS is empty where an image that is missing does not come from the controller.
# Prints one fact a line, `name value`; what is not there is not printed. No secret is printed.
# shellcheck disable=SC2154  # token.sh sets the others
app_dir=$1 project=$2 service=$3 token_file=$4 adopt=$5 adopt_path=$6 release=$7 with_layers=$8
shift 8
export LC_ALL=C # the words of stat are compared
# Each docker command is short-lived: collecting its garbage would cost a third of its time.
export GOGC=off
now=$(date +%s)

echo "uid $(id -u)"
echo "clock $now"
echo "architecture $(uname -m)"
# shellcheck disable=SC1091  # the host's own file
(. /etc/os-release && echo "os $ID ${VERSION_ID:-}") 2>/dev/null
command -v apt-get >/dev/null && echo "apt yes"
command -v docker >/dev/null && echo "docker_cli yes"
command -v dockerd >/dev/null && echo "dockerd yes"
{ compose_plugin || docker compose version >/dev/null 2>&1; } && echo "compose yes"
docker_root=/var/lib/docker
while [ ! -d "$docker_root" ]; do docker_root=${docker_root%/*} docker_root=${docker_root:-/}; done
echo "disk_free_kb $(($(stat -f -c '%a * (%S / 512) / 2' "$docker_root")))"

# Listening TCP sockets as the kernel shows them: address and port in hexadecimal.
awk '$4 == "0A" && !seen[$2]++ { print "listening " $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null

token_dir=${token_file%/*}
[ -e "$token_dir" ] && echo "token_dir $(stat -c '%a %u:%g %F' "$token_dir")"
token_ends=0
if [ -e "$token_file" ] || [ -L "$token_file" ]; then
  stat -c 'token_file %a %u:%g %F
token_written %Y' "$token_file"
  examine "$token_file"
  token_ends=$ends
  echo "token_state $state"
  [ "$state" != token ] || echo "token_expires $ends"
  whose=$(token_key "$token_file")
  [ -n "$whose" ] && echo "token_key $whose"
fi
for aside in "$token_file".of-*; do
  ! is_id "${aside##*.of-}" || echo "aside ${aside##*.of-} $(token_ends "$aside")"
done
# What the reference gateway remembers of the last time that it asked KIS, and with which key.
attempt=$(read_file "$token_file.attempt" | sed -n \
  's/.*"attempted_at": *\([0-9]\{1,11\}\)[^0-9].*"app_key_fingerprint": *"\([0-9a-f]\{12\}\)".*/attempted \1 \2/p')
[ -z "$attempt" ] || echo "$attempt"

[ -s "$app_dir/lock" ] && echo "lock $(cat "$app_dir/lock")"
current=''
for name in current previous; do
  [ -L "$app_dir/$name" ] || continue
  target=$(readlink "$app_dir/$name")
  is_id "${target##*/}" || continue
  echo "$name ${target##*/}"
  [ "$name" = previous ] || current=${target##*/}
done
# The compose file in base64, in which it is one line. Of the other files, hashes.
if [ -r "$app_dir/current/docker-compose.yml" ]; then
  echo "current_compose $(base64 -w 0 "$app_dir/current/docker-compose.yml")"
  [ "$current" = "$release" ] || (cd "$app_dir/current" && sha256sum -- * | sed 's/^/current_file /')
fi
for directory in "$app_dir/releases"/*; do
  is_id "${directory##*/}" || continue
  read_id "$directory/app_key_fingerprint"
  echo "release ${directory##*/} $line"
done
[ -e "$app_dir/history.jsonl" ] && tail -n 5 "$app_dir/history.jsonl" | awk '{ print "history " $0 }'
if cd "$app_dir/releases/$release" 2>/dev/null; then
  stat -c 'release_file %a %u:%g %n' -- *
  sha256sum -- * | sed 's/^/release_hash /'
fi

# By label, not by name: an interrupted re-creation leaves containers named <id>_name.
containers=$(docker ps --all --no-trunc --format '{{.ID}} {{.Label "com.docker.compose.project"}}/{{.Label "com.docker.compose.service"}} {{.Names}} {{.Image}}' 2>/dev/null) || exit 0
echo "engine yes"
chosen='' talkers='' named='' adopted=''
while read -r id labels name image; do
  case $labels,$name in
    "$project/$service",*) talkers="$talkers $id" ;;
    *,kis-simulator) ;;
    *,"$adopt") talkers="$talkers $id" adopted=$id && echo "adopted $id" ;;
    *) continue ;;
  esac
  chosen="$chosen $id"
  # Docker names an image here only as long as the name still means it.
  for wanted; do
    [ "$wanted" = "$image" ] && named="$named $image" && echo "image_of $id $image"
  done
done <<END
$containers
END
lacks=''
for image; do
  case " $named " in *" $image "*) continue ;; esac
  if id=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null); then
    echo "image $image $id"
  else
    lacks=yes
  fi
done
# Layers that are here need not be sent with an image. Containerd's image store has to get all of them.
[ -z "$with_layers" ] || [ -z "$lacks" ] || case $(docker info --format '{{.DriverStatus}}' 2>/dev/null) in
  '' | *io.containerd.snapshotter*) ;;
  *)
    docker image ls --quiet --no-trunc | sort -u |
      xargs -r docker image inspect --format 'layers{{range .RootFS.Layers}} {{.}}{{end}}' 2>/dev/null ;;
esac
if [ -n "$chosen" ]; then
  # shellcheck disable=SC2086  # one word an id
  docker inspect --format 'container {"id": {{json .Id}}, "name": {{json .Name}}, "auto_remove": {{json .HostConfig.AutoRemove}}, "image": {{json .Image}}, "image_name": {{json .Config.Image}}, "labels": {{json .Config.Labels}}, "status": {{json .State.Status}}, "restarts": {{json .RestartCount}}, "restart_policy": {{json .HostConfig.RestartPolicy.Name}}, "health": {{with index .State "Health"}}{{json .Status}}{{else}}null{{end}}, "ports": {{json .HostConfig.PortBindings}}}' $chosen 2>/dev/null
fi

if [ -n "$adopted" ]; then
  ends=$(file_of_container "$adopted" "$adopt_path" | token_expiry 2>/dev/null) &&
    echo "adopted_token_expires $ends"
fi
# Who has no token may be asking KIS for one all the time.
[ "$token_ends" -le $((now + margin)) ] || exit 0
for id in $talkers; do
  refused=$(docker logs --timestamps --since 130s "$id" 2>&1 | refusals | tail -n 1)
  [ -n "$refused" ] && echo "refused $(date -d "${refused%% *}" +%s)"
done
exit 0
