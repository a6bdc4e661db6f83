#!/bin/sh
# One JSON line for the history of a host: what was done, by whom, how it ended.
now() { date +%s%3N; } # epoch milliseconds
record() { # app dir, action, by, began (epoch ms), from, to, image, outcome, issuances
  # Half a line, of a disk that was full, stays alone.
  [ -z "$(tail -c 1 "$1/history.jsonl" 2>/dev/null)" ] || echo >>"$1/history.jsonl"
  took=$(($(now) - $4))
  printf '{"began": %s, "seconds": %d.%03d, "by": "%s", "action": "%s", "from": "%s", "to": "%s", "image": "%s", "outcome": "%s", "issuances": %s}\n' \
    "$4" $((took / 1000)) $((took % 1000)) "$3" "$2" "$5" "$6" "$7" "$8" "$9" >>"$1/history.jsonl"
}
