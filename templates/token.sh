#!/bin/sh
# All that is known of token files: their forms, what is damage, and whose token it is. Functions.
#
# Beside the token file F lie F.key (whose token F is: the fingerprint of an app key, never the key)
# and F.of-KEY (the token of another app key, or one that was brought for KEY's next gateway).

# Whether standard input is one whole JSON object: what is left after putting a mark for each value,
# from the inside out (RFC 8259).
is_json_object() {
  marks=$(tr '\0\n\r\t' '\1   ' | LC_ALL=C sed -E '
    s/"([^"\\]|\\.)*"/"/g
    s/true|false|null|-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?/0/g
    s/ +//g
    /^\{/!d
    :inside_out
    s/\[(["0](,["0])*)?\]/0/g
    s/\{(":["0](,":["0])*)?\}/0/g
    t inside_out')
  [ "$marks" = 0 ]
}

# Prints the epoch second at which the token on standard input ends; fails where there is no token.
# Reads what gateways write: `expires_at` as a number or an ISO date, or KIS's own
# `access_token_token_expired`. A date without a zone is Korean time (KIS Developers, tokenP).
token_expiry() {
  text=$(head -c 65536 | tr '\0' '\1')
  printf '%s' "$text" | is_json_object || return 1
  printf '%s' "$text" | grep -q '"access_token" *: *"[^"]' || return 1
  ends=$(printf '%s\n' "$text" |
    sed -n 's/.*"\(expires_at\|access_token_token_expired\)" *: *"\{0,1\}\([^",}]*[^",}[:space:]]\).*/\2/p' |
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

# Prints `missing`, `token` (expired or not), `damaged` (no gateway can have meant it) or `unknown`
# (a form that this package does not know, and leaves alone).
token_state() { # token file
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then
    echo missing
  elif [ -L "$1" ] || [ ! -f "$1" ]; then
    echo damaged # a directory, as Docker makes one where a mounted file is missing
  elif token_expiry >/dev/null 2>&1 <"$1"; then
    echo token
  elif is_json_object <"$1"; then
    echo unknown
  else
    case $1-$(tr -d ' \0\n\r\t' <"$1" | head -c 1) in
      *.json-* | *-'{' | *-) echo damaged ;; # it says that it is JSON, or says nothing
      *) echo unknown ;;
    esac
  fi
}

token_ends() { # token file; prints 0 where it holds no token
  token_expiry 2>/dev/null <"$1" || echo 0
}

# Whose token it is, where that is known: the reference gateway says so in the file itself.
token_key() { # token file
  own=$(sed -n 's/.*"app_key_fingerprint" *: *"\([0-9a-f]\{12\}\)".*/\1/p' "$1" 2>/dev/null | head -n 1)
  if [ -n "$own" ]; then echo "$own"; else cat "$1.key" 2>/dev/null; fi
}

# Of a gateway that is writing at this moment a file may be seen half way: it gets a second.
set_damaged_aside() { # token file
  [ "$(token_state "$1")" = damaged ] || return 0
  sleep 1
  [ "$(token_state "$1")" = damaged ] || return 0
  aside=$1.damaged-$(date +%Y%m%d-%H%M%S)
  mv -T "$1" "$aside" && echo "The token file was damaged and is set aside: $aside" >&2
}

# Makes KEY's token the one that its gateway finds: sets another key's aside and brings back KEY's,
# or takes up one that was brought here, where that ends later. Nothing is lost.
select_token() { # token file, fingerprint of the app key, uid:gid
  whose=$(token_key "$1")
  if [ -e "$1" ] && [ -n "$whose" ] && [ "$whose" != "$2" ]; then
    mv -T "$1" "$1.of-$whose" || return 1
    echo "The token of another app key is set aside: $1.of-$whose" >&2
  fi
  if [ -f "$1.of-$2" ] && [ "$(token_state "$1")" != unknown ] &&
    [ "$(token_ends "$1.of-$2")" -gt "$(token_ends "$1")" ]; then
    mv -T "$1.of-$2" "$1" || return 1
  fi
  [ "$(cat "$1.key" 2>/dev/null)" = "$2" ] && return
  (umask 077 && echo "$2" >"$1.key.tmp") && chown "$3" "$1.key.tmp" && mv -T "$1.key.tmp" "$1.key"
}

# Puts the token on standard input where `select_token` finds it; fails where one is there already
# that ends as late. At no moment is it readable for others, or there in part.
bring_token() { # token file, fingerprint of the app key, uid:gid
  brought=$1.brought.tmp
  (umask 077 && cat >"$brought") && chown "$3" "$brought" || return 1
  whose=$(token_key "$brought")
  key=${whose:-$2} ends=$(token_ends "$brought") whose=$(token_key "$1")
  if [ "$ends" -gt "$(token_ends "$1.of-$key")" ] &&
    { [ "${whose:-$key}" != "$key" ] || [ "$ends" -gt "$(token_ends "$1")" ]; }; then
    mv -T "$brought" "$1.of-$key"
  else
    rm "$brought"
    return 1
  fi
}

# The lines of a gateway's log in which KIS refuses it a token, in its own words or in those of the
# HTTP libraries: it says 403 to all that it refuses, of which wrong credentials do not pass.
refusals() {
  grep -Ei 'EGW00133|403[^0-9].{0,16}forbidden' | grep -v 'EGW0010[35]'
}

# What lies at PATH in a container, running or not, also on a tmpfs where it runs.
file_of_container() { # container, path
  docker cp "$1:$2" - 2>/dev/null | tar --extract --to-stdout 2>/dev/null ||
    docker exec "$1" cat "$2" 2>/dev/null
}
