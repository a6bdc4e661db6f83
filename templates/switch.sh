#!/bin/sh
# Makes a staged release the running one: in the end the new release runs, or the old one again.
#
# usage: switch.sh APP_DIR PROJECT SERVICE RELEASE TOKEN_FILE MIN_HEALTHY_TIME HEALTHY_DEADLINE
# TOKEN_FILE is empty where the gateway has no token at its start. Times in milliseconds.
app_dir=$1 project=$2 service=$3 release=$4 token_file=$5 min_healthy_time=$6 healthy_deadline=$7
current=$(readlink "$app_dir/current") && current=${current##*/}

say() { echo "$*" >&2; }
now() { date +%s%3N; }
compose() { # release, arguments of docker compose
  file=$app_dir/releases/$1/docker-compose.yml
  shift
  docker compose --progress quiet --file "$file" "$@"
}
containers() {
  docker ps --all --quiet --no-trunc \
    --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$service"
}
last_log_lines() {
  for container in $(containers); do
    say "--- last log lines of the container ${container%"${container#????????????}"}:"
    docker logs --tail 20 "$container" >&2
    say '---'
  done
}
token_is_valid() {
  [ -z "$token_file" ] && return 0
  ends=$(token_expiry "$token_file" 2>/dev/null) && [ "$ends" -gt "$(date +%s)" ]
}

# The health gate: container healthy, same container and restart count for MIN_HEALTHY_TIME, token
# there and valid; all within HEALTHY_DEADLINE. Sets $reason where it does not pass.
gate() {
  deadline=$(($(now) + healthy_deadline)) healthy_since='' before=''
  while :; do
    # shellcheck disable=SC2046  # one word an id
    set -- $(docker inspect --format \
      '{{.Id}} {{.RestartCount}} {{.State.Status}} {{with index .State "Health"}}{{.Status}}{{else}}none{{end}}' \
      $(containers) 2>/dev/null)
    container=${1:-none} restarts=${2:-0} status=${3:-missing} health=${4:-none}
    case $# in
      0) reason='there is no container' ;;
      4) reason="the container is $status, its health is $health, it restarted $restarts times" ;;
      *) reason="there is more than one container of the service $service" ;;
    esac
    case $status-$health in
      running-healthy | running-none)
        if ! token_is_valid; then
          reason="the container is healthy, but there is no valid token in $token_file"
          healthy_since=''
        elif [ -z "$healthy_since" ] || [ "$container-$restarts" != "$before" ]; then
          healthy_since=$(now)
        fi ;;
      running-unhealthy) return 1 ;;
      *) healthy_since='' ;;
    esac
    before=$container-$restarts
    [ "$restarts" -lt 3 ] || { reason="$reason: a crash loop" && return 1; }
    if [ -n "$healthy_since" ] && [ $(($(now) - healthy_since)) -ge "$min_healthy_time" ]; then
      return 0
    fi
    if [ "$(now)" -ge "$deadline" ]; then
      reason="not healthy within $((healthy_deadline / 1000)) s: $reason"
      return 1
    fi
    sleep 0.2
  done
}

bring_up() { # release
  if ! output=$(compose "$1" up --detach --no-build --pull never --remove-orphans 2>&1); then
    reason="docker compose up failed: $output"
    return 1
  fi
  gate
}

point_current_at_release() {
  ln -s "releases/$release" "$app_dir/.current.$$" && mv -T "$app_dir/.current.$$" "$app_dir/current"
}

bring_up "$release" && point_current_at_release && exit 0

last_log_lines
say "The switch to release $release failed: $reason"
if [ "$current" = "$release" ]; then
  say "It is the release that ran before, so there is none to go back to; it was left as it is."
elif [ -z "$current" ]; then
  compose "$release" down >/dev/null 2>&1
  say "No release ran before: the container was removed, so that it asks KIS for nothing."
elif failure=$reason && bring_up "$current"; then
  say "Restored: release $current runs again and is healthy."
  say "Mend the cause ($failure) and deploy again."
else
  last_log_lines
  say "Restoring release $current failed too: $reason"
  say "THE GATEWAY DOES NOT SERVE. See: docker compose --project-name $project ps"
fi
exit 1
