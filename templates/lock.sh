#!/bin/sh
# Takes or gives back the deploy lock of one host: the file APP_DIR/lock, a JSON line that says who
# holds it.
#
# usage: lock.sh take APP_DIR ID HOLDER TTL GONE     ID: the rollout's; GONE: one whose holder died
#        lock.sh release APP_DIR ID
# The lock of another rollout is taken over where it is older than TTL seconds by this host's clock.
set -eu
umask 077
action=$1 app_dir=$2 id=$3
lock=$app_dir/lock

value() { sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" "$lock"; }

mkdir -p "$app_dir"
exec 9>"$app_dir/.lock.guard"
flock 9
case $action in
  take)
    if [ -s "$lock" ] && [ "$(value id)" != "$id" ] && [ "$(value id)" != "$6" ] &&
      since=$(value since) && [ "${since:-0}" -gt 0 ] && [ $(($(date +%s) - since)) -lt "$5" ]; then
      echo "$(value by) is deploying here, on $(value at), since $(date -d "@$since")" >&2
      echo "The lock can be taken over $5 s after that, or at once when that run has ended." >&2
      exit 1
    fi
    # The time is this host's, by which the lock's age will be told.
    echo "${4%\}}, \"since\": $(date +%s)}" >"$lock" ;;
  release)
    if [ -s "$lock" ] && [ "$(value id)" = "$id" ]; then rm "$lock"; fi ;;
esac
