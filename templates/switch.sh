#!/bin/sh
# Makes a staged release the running one: in the end the new release runs, or the old one again.
# Run by run_detached.sh; leaves 0 or 1 in $status.
#
# usage: switch.sh ACTION APP_DIR PROJECT SERVICE RELEASE TOKEN_FILE UID:GID TOKEN_AT_START PORT
#                  MIN_HEALTHY_TIME HEALTHY_DEADLINE LOCK_ID BY BUDGET WAIT ADOPT ADOPT_PATH HEALTH_CHECK
# ACTION is `switch`, `rollback`, `revert` (RELEASE is empty where none ran before) or `restart`.
# TOKEN_AT_START is empty where the gateway asks for a token later than at its start. PORT: inside.
# Times in milliseconds; WAIT, for which KIS is to be left alone, in seconds. BUDGET: issuances.
# HEALTH_CHECK: the words of the default one, on a line each.
# ADOPT names a container of a gateway that was started by other means, its token at ADOPT_PATH.
# shellcheck disable=SC2034,SC2154  # gate.sh uses the others, and token.sh has some
action=$1 app_dir=$2 project=$3 service=$4 release=$5 token_file=$6 user=$7 token_at_start=$8 port=$9
shift 9
min_healthy_time=$1 healthy_deadline=$2 lock_id=$3 by=$4 budget=$5 wait=$6 adopt=$7 adopt_path=$8 default_check=$9
export GOGC=400 # docker's commands are short-lived: they need not clean up so often
began=$(now)
port_in_hex=$(printf %04X "$port") kept=$app_dir/tokens
image='' looked_at=never issuances=0 allowed=$budget asking='' may_ask='' stopped_adopted=''

say() { echo "$*" >&2; }
compose() { # release, arguments of docker compose
  file=$app_dir/releases/$1/docker-compose.yml
  shift
  docker_compose --progress quiet --file "$file" "$@" >&2
}
last_log_lines() {
  for container in $(containers); do
    say "--- last log lines of the container ${container%"${container#????????????}"}:"
    docker logs --tail 20 "$container" >&2
    say '---'
  done
}

# A client that asks while the container's address is empty leaves the kernel without its neighbour,
# and it looks again after a second (ip-sysctl, neigh retrans_time_ms): for this while after 50 ms, on
# all of Docker's bridges, for to ask which one is ours takes longer than it costs the others.
be_impatient() {
  for setting in /proc/sys/net/ipv4/neigh/br-*/retrans_time_ms; do
    [ -w "$setting" ] || continue
    patience=$(cat "$setting") # not `read`: it reads byte by byte, of which the kernel gives one
    [ "$patience" != 50 ] || continue # another switch is at it
    was_patient="$was_patient$patience $setting$newline"
    echo 50 >"$setting"
  done
}
be_patient_again() {
  echo "$was_patient" | while read -r patience setting; do
    [ ! -w "$setting" ] || echo "$patience" >"$setting"
  done
}

# A restore, a revert or a rollback goes by what the release itself says, not by today's inventory.
heed_settings_of() { # release
  lines=$app_dir/releases/$1/docker-compose.yml
  directory='' name=''
  while IFS= read -r found; do # a path may end with a blank
    case $found in
      'user '*) user=${found#* } ;;
      'directory '*) directory=${found#* } ;;
      'name '*) name=${found#* } ;;
    esac
  done <<END
$(sed -n 's/^    user: "\([0-9]*:[0-9]*\)"$/user \1/p
s/^        source: "\(\/[^"\\$]*\)"$/directory \1/p
s/^      KIS_TOKEN_FILE_PATH: "\/app\/tokens\/\([A-Za-z0-9._-]*\)"$/name \1/p' "$lines")
END
  # Both, or neither: a directory alone would pass for a damaged token file.
  [ -z "$directory" ] || [ -z "$name" ] || token_file=$directory/$name
}

# Before a gateway starts: the token is its app key's, and nothing runs that would write another's.
ready_token() { # release
  heed_settings_of "$1"
  read_id "$app_dir/releases/$1/app_key_fingerprint"
  key=$line
  whose=$(token_key "$token_file" "$kept")
  look_at_token
  if [ "$state" = damaged ] || [ "${whose:-$key}" != "$key" ]; then
    containers | xargs -r docker stop >/dev/null
    count_issuances
  fi
  reason="the token directory ${token_file%/*} could not be made ready, see above"
  [ "$state" != damaged ] || set_damaged_aside "$token_file"
  keep_tokens "$token_file" "$kept" || return 1
  [ -z "$key" ] || select_token "$token_file" "$key" "$kept" || return 1
  own_token_dir "$token_file" "$user" || return 1
  remember_token
  if ! must_ask; then
    # One that asks later than at its start may do so now, or one whose token is about to end.
    is_token_left "$worth_keeping" || allowed=$((issuances + 1))
    return 0
  fi
  [ -z "$may_ask" ] || allowed=$((issuances + 1))
  [ "$issuances" -lt "$allowed" ] && return
  reason="there is no valid token in $token_file, though there was one when this deploy began"
  return 1
}

# Starts the containers of a release without Docker's own restarts, each of which would be a
# request to KIS, where there is no token yet; the policy comes with the token.
let_ask() { # command that creates or stops the container
  wait_for_kis "$wait"
  "$@" || return 1
  asking=yes
  policy=$(docker inspect --format '{{.HostConfig.RestartPolicy.Name}}' "$(containers)")
  docker update --restart no "$(containers)" >/dev/null && docker start "$(containers)" >/dev/null &&
    gate
  passed=$?
  wait=61 asking=''
  docker update --restart "${policy:-no}" "$(containers)" >/dev/null
  return $passed
}

bring_up() { # release, more flags of `compose up`
  bring_up=$1
  shift
  ready_token "$bring_up" || return 1
  reason='docker compose up failed, see above'
  set -- "$bring_up" up --no-build --pull never "$@"
  if must_ask; then let_ask compose "$@" --no-start; else compose "$@" --detach && gate; fi
}

point() { # name at release
  ln -s "releases/$2" "$app_dir/.$1.$$" && mv -T "$app_dir/.$1.$$" "$app_dir/$1"
}

finish() { # outcome, exit status
  count_issuances
  record "$app_dir" "$action" "$by" "$began" "$current" "$release" "$image" "$1" $issuances
  say "issuances: $issuances (budget $budget)"
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

# The token comes out of the container that is replaced before that is stopped.
adopt() {
  [ "$action" = switch ] || return 0
  rm -f "$app_dir/.replaced"
  adopted=$(adopted_container "$adopt" "$app_dir") || return 0
  key=$(cat "$app_dir/releases/$release/app_key_fingerprint")
  keep_tokens "$token_file" "$kept" || return 1
  if bring_adopted_token; then
    say "the token of the container $adopt is taken over"
  else
    say "the container $adopt has no token at $adopt_path that would be of use"
  fi
  reason="the container $adopt could not be stopped, see above"
  stopped_adopted=yes
  stop_adopted "$adopted" "$app_dir" || return 1
  bring_adopted_token || true # one that came in the meantime
}
bring_adopted_token() {
  file_of_container "$adopted" "$adopt_path" | bring_token "$token_file" "$key" "$kept"
}

start_again() {
  ready_token "$release" || return 1
  reason='docker compose restart failed, see above'
  if must_ask; then let_ask compose "$release" stop; else compose "$release" restart && gate; fi
}

restart() {
  say "restart of release $release"
  if start_again; then
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
    if compose "$current" down && rm "$app_dir/current" &&
      { ! mv "$app_dir/.replaced" "$app_dir/.adopted" 2>/dev/null || start_adopted "$app_dir"; }; then
      finish reverted 0
    else
      say "The gateway could not be taken back to what was before, see above."
      finish failed 1
    fi
    return
  fi
  [ "$action" != revert ] || may_ask=yes
  # The release that should run already: something about its container is wrong, and compose, which
  # sees no change of a mounted file's content, would let it be.
  again=''
  [ "$current" != "$release" ] || again=--force-recreate
  if adopt && bring_up "$release" $again; then
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
    [ -z "$stopped_adopted" ] || mv "$app_dir/.adopted" "$app_dir/.replaced" # for a revert
    say "release $release is healthy"
    finish switched 0
    prune
    return
  fi
  last_log_lines
  say "The $action to release $release failed: $reason"
  # What is over the budget was spent: it does not count against what runs again.
  failure=$reason allowed=$issuances may_ask=yes
  if [ -n "$stopped_adopted" ]; then
    compose "$release" down >/dev/null 2>&1
    if start_adopted "$app_dir"; then
      say "Restored: the container $adopt runs again."
      say "Mend the cause ($failure) and deploy again."
      finish restored 1
    else
      say "NO GATEWAY RUNS: the container $adopt could not be started again, see above."
      finish failed 1
    fi
  elif [ "$current" = "$release" ]; then
    say "It is the release that ran before, so there is none to go back to; it was left as it is."
    finish failed 1
  elif [ -z "$current" ]; then
    compose "$release" down >/dev/null 2>&1
    say "No release ran before: the container was removed, so that it asks KIS for nothing."
    finish removed 1
  elif bring_up "$current"; then
    say "Restored: release $current runs again and is healthy."
    say "Mend the cause ($failure) and deploy again."
    finish restored 1
  else
    last_log_lines
    say "Restoring release $current failed too: $reason"
    say_what_serves
    say "See: docker compose --project-name $project ps"
    finish failed 1
  fi
}

# One switch at a time: that of a controller that died may still be on its way.
exec 9>"$app_dir/.switch.guard"
if ! flock --timeout $((healthy_deadline / 500 + 360)) 9; then # it may have to wait for KIS, too
  say "Another switch is still under way on this host; see $app_dir/switch.log"
  status=1
elif ! grep -q "\"id\": \"$lock_id\"" "$app_dir/lock" 2>/dev/null; then
  say "The deploy lock of this host was taken over: $(cat "$app_dir/lock" 2>/dev/null)"
  status=1
else
  current=$(readlink "$app_dir/current") && current=${current##*/}
  remember_token
  was_patient=''
  be_impatient
  if [ "$action" = restart ]; then restart; else switch; fi
  be_patient_again
fi
