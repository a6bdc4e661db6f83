#!/bin/sh
# Runs a script to its end whatever becomes of the connection, or of the program, that started it.
#
# usage: run_detached.sh APP_DIR SCRIPT ARGUMENT...
# What the script says is shown as it comes, and stays in APP_DIR/switch.log.
umask 077
app_dir=$1 script=$2
shift 2

# The script finds this one in its environment, so that no path is ever read as sh.
export log="$app_dir/.switch.$$.log"
: >"$log"
# A session of its own: neither a hang-up nor a closed pipe reaches it.
# shellcheck disable=SC2016  # the new shell expands them
setsid sh -c "$script"'
mv "$log" "$app_dir/switch.log"
exit $status' switch "$@" >"$log" 2>&1 </dev/null &
job=$!
tail --lines=+1 --follow --sleep-interval=0.05 --pid=$job "$log"
wait $job
