#!/bin/sh
# All that is known of token files: their forms, what is damage, and whose token it is. Functions.
#
# Beside the token file F lie F.key (whose token F is: the fingerprint of an app key, never the key)
# and F.of-KEY (the token of another app key, or one that was brought for KEY's next gateway). The
# container's user may write here, root only makes new files, and follows no link.

# Seconds before its end from which no gateway uses a token: then its next start asks KIS. And from
# which one may be replaced soon.
# shellcheck disable=SC2034  # of the scripts that use this
margin=600 worth_keeping=1200

# Of one line of JSON sed leaves a mark for each value, from the inside out (RFC 8259): at last `o` of
# one whole object, `a` of an array, `"` of a string, `0` of another value.
inside_out='
  s/"([^"\\]|\\.)*"/"/g
  s/true|false|null|-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?/0/g
  s/ +//g
  :inside_out
  s/\[(["0ao](,["0ao])*)?\]/a/g
  s/\{(":["0ao](,":["0ao])*)?\}/o/g
  t inside_out'
one_line() { tr '\0\n\r\t' '\1   '; }
json_kind() { # prints the mark of standard input, or nothing
  one_line | LC_ALL=C sed -E "$inside_out"'
    /^["0ao]$/!d'
}

read_line() { # path; sets $line to its first line, or to nothing where there is none
  line=''
  [ ! -f "$1" ] || read -r line <"$1" || true
}

# Prints the epoch second at which the token on standard input ends; fails where there is no token.
# Reads what gateways write: `expires_at` as a number or an ISO date, or KIS's own
# `access_token_token_expired`. A date without a zone is Korean time (KIS Developers, tokenP).
token_expiry() {
  ends=$(head -c 65536 | one_line | LC_ALL=C sed -nE "h $inside_out"'
    /^o$/!q
    g
    /"access_token" *: *"[^"]/!q
    s/"(expires_at|access_token_token_expired)" *: *"?([^",}]*[^",} ]).*/\n\2/
    /\n/!q
    s/.*\n//
    s/T/ /
    p')
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

# Sets $state to `missing`, `token` (expired or not), `damaged` (no gateway can have meant it) or
# `unknown` (a form that this package does not know, and leaves alone: other JSON, or a bare word as
# tokens are); and $ends to the epoch second at which the token ends, 0 where there is none.
examine() { # token file
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then
    state=missing
  elif [ -L "$1" ] || [ ! -f "$1" ]; then
    state=damaged # a directory, as Docker makes one where a mounted file is missing
  elif ends=$(token_expiry 2>/dev/null <"$1"); then
    state=token
  else
    case $(json_kind <"$1")-$(tr -d ' \0\n\r\t' <"$1" | head -c 1) in
      [oa\"]-*) state=unknown ;;
      *-'{' | *-) state=damaged ;; # it is cut off, or says nothing
      *)
        state=unknown
        [ "${1%.json}" = "$1" ] || is_bare_token <"$1" || state=damaged ;;
    esac
  fi
  [ "$state" = token ] || ends=0
}
token_state() { examine "$1" && echo "$state"; } # token file
is_bare_token() { head -c 4096 | tr -d '\r\n' | grep -Eqx '[A-Za-z0-9._-]{32,}'; }

token_ends() { # token file; prints 0 where it holds no token
  token_expiry 2>/dev/null <"$1" || echo 0
}
lasts() { [ "$(token_ends "$1")" -gt $(($(date +%s) + ${2:-0})) ]; } # token file, seconds

# Whose token it is, where that is known: the reference gateway says so in the file itself.
token_key() { # token file
  own=$(sed -n '/.*"app_key_fingerprint" *: *"\([0-9a-f]\{12\}\)".*/{s//\1/p;q;}' "$1" 2>/dev/null)
  if [ -n "$own" ]; then line=$own; else read_line "$1.key"; fi
  [ -z "$line" ] || echo "$line"
}

# Of a gateway that is writing at this moment a file may be seen half way: it gets a second.
set_damaged_aside() { # token file
  [ "$(token_state "$1")" = damaged ] || return 0
  sleep 1
  [ "$(token_state "$1")" = damaged ] || return 0
  aside=$1.damaged-$(date +%Y%m%d-%H%M%S)
  mv -T "$1" "$aside" && echo "The token file was damaged and is set aside: $aside" >&2
}

# Makes the directory, and what is of the token in it, the container's user's own.
own_token_dir() { # token file, uid:gid
  install -d -m 0700 -o "${2%:*}" -g "${2#*:}" "${1%/*}" &&
    find "${1%/*}" -maxdepth 1 \( -name "${1##*/}" -o -name "${1##*/}.*" \) \
      ! \( -uid "${2%:*}" -gid "${2#*:}" \) -exec chown -h "$2" {} + || return 1
  [ ! -f "$1" ] || [ -L "$1" ] || chmod u+rw "$1"
}

# Writes standard input to a new file that is readable for its owner alone, from the beginning.
write_new() { # path, uid:gid
  rm -f "$1" && (umask 077 && set -C && cat >"$1") && chown -h "$2" "$1"
}

# Makes KEY's token the one that its gateway finds: sets another key's aside and brings back KEY's,
# or takes up one that was brought here, where that ends later. Nothing is lost.
select_token() { # token file, fingerprint of the app key, uid:gid
  whose=$(token_key "$1")
  if [ -e "$1" ] && [ -n "$whose" ] && [ "$whose" != "$2" ]; then
    aside=$1.of-$whose
    [ "$(token_ends "$aside")" -le "$(token_ends "$1")" ] || aside=$aside-$(date +%Y%m%d-%H%M%S)
    mv -T "$1" "$aside" || return 1
    echo "The token of another app key is set aside: $aside" >&2
  fi
  if [ -f "$1.of-$2" ] && [ "$(token_state "$1")" != unknown ] &&
    [ "$(token_ends "$1.of-$2")" -gt "$(token_ends "$1")" ]; then
    mv -T "$1.of-$2" "$1" || return 1
  fi
  read_line "$1.key"
  [ "$line" != "$2" ] || return 0
  echo "$2" | write_new "$1.key.tmp" "$3" && mv -T "$1.key.tmp" "$1.key"
}

# Puts the token on standard input where `select_token` finds it; fails where it has expired, or one
# is there already that ends as late. At no moment is it readable for others, or there in part.
bring_token() { # token file, fingerprint of the app key, uid:gid
  brought=$1.brought.tmp
  write_new "$brought" "$3" || return 1
  whose=$(token_key "$brought")
  key=${whose:-$2} ends=$(token_ends "$brought") whose=$(token_key "$1")
  if lasts "$brought" && [ "$ends" -gt "$(token_ends "$1.of-$key")" ] &&
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
