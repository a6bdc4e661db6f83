#!/bin/sh
# Makes a staged release the running one: in the end the new release runs, or the old one again.
# Run by run_detached.sh; leaves 0 or 1 in $status.
#
# usage: switch.sh ACTION APP_DIR PROJECT SERVICE RELEASE TOKEN_FILE MIN_HEALTHY_TIME HEALTHY_DEADLINE
#                  LOCK_ID BY
# ACTION is `switch`, `rollback`, `revert` (RELEASE is empty where none ran before) or `restart`.
# TOKEN_FILE is empty where the gateway has no token at its start. Times in milliseconds.
action=$1 app_dir=$2 project=$3 service=$4 release=$5
token_file=$6 min_healthy_time=$7 healthy_deadline=$8 lock_id=$9 by=${10}
began=$(now)
token_hash=$(sha256sum "$token_file" 2>/dev/null)

say() { echo "$*" >&2; }
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
# there and valid; all within HEALTHY_DEADLINE. Says what it waits for; sets $reason where it fails.
gate() {
  opened=$(now) healthy_since='' before='' said='' said_at=0 counted=''
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
    [ $# -le 4 ] || status=several
    # Restarts of its earlier life do not count.
    [ "$container" = "$counted" ] || counted=$container restarts_before=$restarts
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
    [ $((restarts - restarts_before)) -lt 3 ] || { reason="$reason: a crash loop" && return 1; }
    if [ -n "$healthy_since" ] && [ $(($(now) - healthy_since)) -ge "$min_healthy_time" ]; then
      return 0
    fi
    waited=$(($(now) - opened))
    if [ $waited -ge "$healthy_deadline" ]; then
      reason="not healthy within $((healthy_deadline / 1000)) s: $reason"
      return 1
    fi
    if [ "$reason" != "$said" ] || [ $((waited - said_at)) -ge 5000 ]; then
      say "  $((waited / 1000)) s: $reason"
      said=$reason said_at=$waited
    fi
    sleep 0.2
  done
}

bring_up() { # release, more flags of `compose up`
  bring_up=$1
  shift
  if ! output=$(compose "$bring_up" up --detach --no-build --pull never --remove-orphans "$@" 2>&1); then
    reason="docker compose up failed: $output"
    return 1
  fi
  gate
}

point() { # name at release
  ln -s "releases/$2" "$app_dir/.$1.$$" && mv -T "$app_dir/.$1.$$" "$app_dir/$1"
}

finish() { # outcome, exit status
  image=$(docker inspect --format '{{.Config.Image}}' "$(containers | head -n 1)" 2>/dev/null)
  issuances=0
  [ "$(sha256sum "$token_file" 2>/dev/null)" = "$token_hash" ] || issuances=1
  record "$app_dir" "$action" "$by" "$began" "$current" "$release" "$image" "$1" $issuances
  status=$2
}

# The last five releases stay, and the two that a rollback goes between.
prune() {
  # shellcheck disable=SC2012  # releases are named by hexadecimal digits
  for old in $(ls -1t "$app_dir/releases" | tail -n +6); do
    for kept in current previous .before; do
      [ "$(readlink "$app_dir/$kept")" != "releases/$old" ] || continue 2
    done
    rm -r "$app_dir/releases/$old"
  done
}

restart() {
  say "restart of release $release"
  reason='docker compose restart failed, see above'
  if compose "$release" restart && gate; then
    finish restarted 0
  else
    last_log_lines
    say "The restart failed: $reason"
    finish failed 1
  fi
}

switch() {
  say "switch: ${current:-none} -> ${release:-none}"
  if [ -z "$release" ]; then
    if compose "$current" down && rm "$app_dir/current"; then
      finish reverted 0
    else
      finish failed 1
    fi
    return
  fi
  # The release that should run already: something about its container is wrong, and compose, which
  # sees no change of a mounted file's content, would let it be.
  again=''
  [ "$current" != "$release" ] || again=--force-recreate
  if bring_up "$release" $again; then
    if [ "$current" != "$release" ]; then
      # A revert also restores which release a rollback would go to.
      if [ "$action" = revert ]; then
        mv -T "$app_dir/.before" "$app_dir/previous" 2>/dev/null || rm -f "$app_dir/previous"
      else
        rm -f "$app_dir/.before" && cp -P "$app_dir/previous" "$app_dir/.before" 2>/dev/null
        [ -z "$current" ] || point previous "$current"
      fi
      point current "$release"
    fi
    say "release $release is healthy"
    finish switched 0
    prune
    return
  fi
  last_log_lines
  say "The $action to release $release failed: $reason"
  if [ "$current" = "$release" ]; then
    say "It is the release that ran before, so there is none to go back to; it was left as it is."
    finish failed 1
  elif [ -z "$current" ]; then
    compose "$release" down >/dev/null 2>&1
    say "No release ran before: the container was removed, so that it asks KIS for nothing."
    finish removed 1
  elif failure=$reason && bring_up "$current"; then
    say "Restored: release $current runs again and is healthy."
    say "Mend the cause ($failure) and deploy again."
    finish restored 1
  else
    last_log_lines
    say "Restoring release $current failed too: $reason"
    say "THE GATEWAY DOES NOT SERVE. See: docker compose --project-name $project ps"
    finish failed 1
  fi
}

# One switch at a time: that of a controller that died may still be on its way.
exec 9>"$app_dir/.switch.guard"
if ! flock --timeout $((healthy_deadline / 500 + 60)) 9; then
  say "Another switch is still under way on this host; see $app_dir/switch.log"
  status=1
elif ! grep -q "\"id\": \"$lock_id\"" "$app_dir/lock" 2>/dev/null; then
  say "The deploy lock of this host was taken over: $(cat "$app_dir/lock" 2>/dev/null)"
  status=1
else
  current=$(readlink "$app_dir/current") && current=${current##*/}
  if [ "$action" = restart ]; then restart; else switch; fi
fi
