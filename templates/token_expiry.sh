#!/bin/sh
# Prints the epoch second at which the token in file $1 ends; fails where there is no token.
# Reads what gateways write: `expires_at` as a number or an ISO date, or KIS's own
# `access_token_token_expired`. A date without a zone is Korean time (KIS Developers, tokenP).
token_expiry() {
  [ -f "$1" ] && grep -q '"access_token" *: *"[^"]' "$1" || return 1
  [ "$(tr -d '[:space:]' <"$1" | tail -c 1)" = '}' ] || return 1 # truncated
  ends=$(sed -n 's/.*"\(expires_at\|access_token_token_expired\)" *: *"\{0,1\}\([^",}]*[^",}[:space:]]\).*/\2/p' "$1" |
    head -n 1 | tr T ' ')
  case $ends in
    '') return 1 ;;
    *[!0-9.]*) # a date
      case ${ends#????-??-??} in
        *Z | *[+-][0-9]*) date -d "$ends" +%s ;;
        *) date -d "$ends +0900" +%s ;;
      esac ;;
    *)
      ends=${ends%%.*}
      [ ${#ends} -le 11 ] && echo "$ends" ;; # more digits are no seconds
  esac
}
