#!/bin/sh
# Functions about a gateway that was started by other means and is to be replaced. It is stopped,
# never removed: APP_DIR/.adopted says which one, and how it is started again.

adopted_container() { # name, app dir; prints the id where it runs, or was stopped by us
  [ -n "$1" ] || return 1
  id=$(docker ps --all --quiet --no-trunc --filter "name=^/$1\$") && [ -n "$id" ] || return 1
  # shellcheck disable=SC2154  # of the scripts that use this
  case $(docker inspect --format '{{.State.Status}} {{index .Config.Labels "com.docker.compose.project"}}/{{index .Config.Labels "com.docker.compose.service"}}' "$id") in
    *" $project/$service") return 1 ;; # it is this deployment's own
    exited* | created* | dead*) grep -qs "^$id " "$2/.adopted" || return 1 ;;
  esac
  echo "$id"
}
stop_adopted() { # id, app dir
  grep -qs "^$1 " "$2/.adopted" || docker inspect --format \
    '{{.Id}} {{with .HostConfig.RestartPolicy}}{{or .Name "no"}}{{if .MaximumRetryCount}}:{{.MaximumRetryCount}}{{end}}{{end}}' \
    "$1" >"$2/.adopted"
  # Stopped first: the engine cannot update a container that exits at the same moment.
  docker stop "$1" >/dev/null && docker update --restart no "$1" >/dev/null
}
start_adopted() { # app dir
  read -r id policy <"$1/.adopted" && docker update --restart "$policy" "$id" >/dev/null &&
    docker start "$id" >/dev/null && rm "$1/.adopted"
}
