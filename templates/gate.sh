#!/bin/sh
# The health gate, and what it counts. Functions of switch.sh, on its variables.
# shellcheck disable=SC2154,SC2034
newline='
'

containers() {
  docker ps --all --quiet --no-trunc \
    --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$service" \
    --filter label=com.docker.compose.oneoff=False # `docker compose run` leaves others behind
}

# Sets $written, and $state and $ends as `examine` does: anew only where the file was written anew.
look_at_token() {
  written=$(stat -c '%i %.Y' "$token_file" 2>/dev/null)
  [ "$token_file $written" != "$looked_at" ] || return 0
  looked_at="$token_file $written"
  examine "$token_file"
}
is_token_left() { # for so many seconds, as it was last looked at
  [ "$ends" -gt $(($(date +%s) + $1)) ]
}
# Of a form that is not known nobody can say how long its token is valid.
token_is_valid() { is_token_left 0 || [ "$state" = unknown ]; }
must_ask() { [ -n "$token_at_start" ] && ! is_token_left "$margin" && [ "$state" != unknown ]; }

# Evidence of an issuance is that a gateway writes its token file. Not that another token is in it:
# for six hours KIS answers with the same one, and is asked all the same.
remember_token() { look_at_token && token_written=$written; }
count_issuances() {
  look_at_token
  [ "$written" != "$token_written" ] || return 0
  # One that is being written is not whole yet, or no more what was looked at: it is looked at again.
  looked_at=never
  case $state in missing | damaged) return 0 ;; esac
  [ "$written" = "$(stat -c '%i %.Y' "$token_file" 2>/dev/null)" ] || return 0
  issuances=$((issuances + 1)) token_written=$written
}

was_refused() { # container, since (epoch ms)
  docker logs --since "$(($2 / 1000))" "$1" 2>&1 | refusals >/dev/null
}
wait_for_kis() { # seconds
  left=$1
  while [ "$left" -gt 0 ]; do
    say "  KIS issues one token a minute per app key: waiting $left s"
    step=$((left < 5 ? left : 5))
    sleep $step
    left=$((left - step))
  done
}

listens() { # its process; in the kernel's table: local address and port, remote ones, LISTEN
  grep -Eqs ":$port_in_hex 0+:0000 0A " "/proc/$1/net/tcp" "/proc/$1/net/tcp6"
}

# What the default health check asks, asked from the host: `docker exec` takes 50 ms of the processor
# before its program begins in the container.
says_it_is_healthy() { # address
  # shellcheck disable=SC2016  # they are bash's
  timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1" && printf "GET /health HTTP/1.0\r\n\r\n" >&3 &&
    read -r _ code _ <&3 && [ "$code" = 200 ]' "$1" "$port"
}

# Says whether a client gets an answer: nothing is said of a gateway that was not asked.
say_what_serves() {
  for serving in $(containers); do
    # shellcheck disable=SC2046  # the address may be missing
    set -- $(docker inspect --format \
      '{{.State.Running}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}' "$serving")
    [ "$1" = true ] || continue
    if ! command -v bash >/dev/null; then
      say "A container runs; whether it answers could not be asked, because this host has no bash."
      return
    fi
    address=127.0.0.1
    ! is_address "${2:-}" || address=$2
    if says_it_is_healthy "$address" >/dev/null 2>&1; then
      say "The gateway answers /health now, though it did not pass the gate."
      return
    fi
  done
  say "THE GATEWAY DOES NOT SERVE: it was asked for /health on port $port and did not answer."
}

# In the host's network the container has none: then engines print nothing, or `invalid IP`.
is_address() {
  case $1 in [0-9]*.*) ;; *) return 1 ;; esac
}

# Whether the gateway answers what its health check asks: known sooner than by the engine's probe.
# At most five questions a start, for each is a line in some gateways' logs. Until it listens, the
# kernel says for less than the engine whether there is something new: for two seconds at most.
answers() { # container, its process, its start, its address, the words of its health check on a line each
  [ "$3" != "$answered" ] || return 0
  [ "$3" = "$asked_start" ] || asked_start=$3 questions=0
  [ "$questions" -lt 5 ] || return 1
  looks=0
  until listens "$2"; do
    [ $looks -lt 12 ] && [ -d "/proc/$2" ] || return 1
    looks=$((looks + 1))
    if [ $looks -lt 5 ]; then sleep 0.1; else sleep 0.2; fi
  done
  questions=$((questions + 1))
  container_id=$1 start=$3
  if [ "$5" = "$default_check" ] && is_address "$4" && command -v bash >/dev/null; then
    says_it_is_healthy "$4" >/dev/null 2>&1 && answered=$start
    return
  fi
  set -f
  IFS=$newline
  # shellcheck disable=SC2086  # one word a line
  set -- $5
  unset IFS
  set +f
  case $1 in
    CMD) shift && timeout 5 docker exec "$container_id" "$@" ;;
    CMD-SHELL) timeout 5 docker exec "$container_id" /bin/sh -c "$2" ;;
    *) false ;;
  esac >/dev/null 2>&1 && answered=$start
}

# Container healthy, same container and restart count for MIN_HEALTHY_TIME, token there and valid, no
# issuance over what is allowed; all within HEALTHY_DEADLINE, or three minutes more where KIS itself
# is what it waits for. Says what it waits for; sets $reason where it fails.
gate() {
  ids=$project-$service-1 # as compose names it; where there is none, it is looked for
  opened=$(now) deadline=$healthy_deadline healthy_since='' before='' said='' said_at=0 counted=''
  answered='' asked_start='' asked_again='' refused=''
  while :; do
    # shellcheck disable=SC2086  # one word an id
    inspected=$(docker inspect --format \
      '{{.Id}} {{.RestartCount}} {{.State.Status}} {{with index .State "Health"}}{{.Status}}{{else}}none{{end}} {{.State.Pid}} {{.State.StartedAt}} {{.State.ExitCode}} {{.Config.Image}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}{{with .Config.Healthcheck}}{{range .Test}}{{println}}{{.}}{{end}}{{end}}' \
      $ids 2>/dev/null) || ids=$(containers)
    # shellcheck disable=SC2086
    set -- ${inspected%%"$newline"*}
    container=${1:-none} restarts=${2:-0} status=${3:-missing} health=${4:-none} process=${5:-0}
    image=${8:-}
    case $ids in
      '') reason='there is no container' ;;
      *"$newline"*) status=several reason="there is more than one container of the service $service" ;;
      *) reason="the container is $status, its health is $health, it restarted $restarts times" ;;
    esac
    # Restarts of its earlier life do not count.
    [ "$container" = "$counted" ] || counted=$container restarts_before=$restarts
    again=''
    [ "$restarts" = "$restarts_before" ] ||
      again=", but it restarted $((restarts - restarts_before)) times"
    [ "$status-$health" != running-starting ] ||
      ! answers "$container" "$process" "$6" "${9:-}" "${inspected#*"$newline"}" ||
      { health=answering && reason="the container is running and the gateway answers$again"; }
    count_issuances
    if [ "$issuances" -gt "$allowed" ]; then
      reason="the gateway asked KIS for a token that it did not need, for it wrote $token_file anew"
      return 1
    fi
    case $status-$health in
      running-healthy | running-answering | running-none)
        if [ -n "$token_at_start" ] && ! token_is_valid; then
          reason="the container is healthy, but there is no valid token in $token_file"
          healthy_since=''
        elif [ -z "$healthy_since" ] || [ "$container-$restarts" != "$before" ]; then
          healthy_since=$(now)
        fi ;;
      running-unhealthy) return 1 ;;
      exited-*)
        healthy_since=''
        # It runs without Docker's restarts while it has to ask: each would be a request.
        if [ -n "$asking" ]; then
          reason="the container exited with status $7"
          was_refused "$container" "$opened" && [ $(($(now) - opened)) -lt $((healthy_deadline + 120000)) ] || return 1
          say "  KIS refused the gateway a token, and it exited: it is started once more"
          deadline=$((healthy_deadline + 180000)) refused=yes
          wait_for_kis 61
          docker start "$container" >/dev/null || return 1
        fi ;;
      *) healthy_since='' asked_again='' ;;
    esac
    before=$container-$restarts
    [ $((restarts - restarts_before)) -lt 3 ] || { reason="$reason: a crash loop" && return 1; }
    if [ -n "$healthy_since" ] && [ $(($(now) - healthy_since)) -ge "$min_healthy_time" ]; then
      [ "$health" = answering ] && [ "$min_healthy_time" -gt 0 ] && [ -z "$asked_again" ] || return 0
      # The engine may not have asked in all that time: what it answered once, it has to answer still.
      asked_again=yes answered=''
      continue
    fi
    waited=$(($(now) - opened))
    if [ $waited -ge "$deadline" ] && [ -z "$refused" ] && [ -n "$asking" ] &&
      was_refused "$container" "$opened"; then
      say '  KIS refused the gateway a token; it gets three minutes more'
      deadline=$((healthy_deadline + 180000)) refused=yes
    fi
    if [ $waited -ge "$deadline" ]; then
      reason="not healthy within $((deadline / 1000)) s: $reason"
      return 1
    fi
    if [ "$reason" != "$said" ] || [ $((waited - said_at)) -ge 5000 ]; then
      say "  $((waited / 1000)) s: $reason"
      said=$reason said_at=$waited
    fi
    sleep 0.2
  done
}
