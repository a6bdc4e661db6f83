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

# Prints what a file of the token directory holds, 64 KiB at most. Its user may put anything there:
# a link is not followed, a FIFO is not waited for.
read_file() { # path
  [ ! -L "$1" ] && [ -f "$1" ] &&
    dd if="$1" iflag=nofollow,nonblock,fullblock bs=65536 count=1 2>/dev/null
}
is_id() { # of a release or of an app key: 12 hexadecimal digits
  case $1 in *[!0-9a-f]*) return 1 ;; esac
  [ ${#1} -eq 12 ]
}
read_id() { # path, in a directory of root's; sets $line to the id in its first line, or to nothing
  line=''
  [ ! -f "$1" ] || read -r line <"$1" || true
  is_id "$line" || line=''
}

# sed reduces each JSON value of one line to a mark, innermost first (RFC 8259): `o` is an object, `a`
# an array, `"` a string, `0` another value.
inside_out='
  s/"([^"\\]|\\.)*"/"/g
  s/true|false|null|-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?/0/g
  s/ +//g
  :inside_out
  s/\[(["0ao](,["0ao])*)?\]/a/g
  s/\{(":["0ao](,":["0ao])*)?\}/o/g
  t inside_out'
one_line() { tr '\0\n\r\t' '\1   '; }
# Whether standard input is JSON that ends in the middle: what is left of it opens and does not close.
is_cut_off() { one_line | LC_ALL=C sed -E "$inside_out" | grep -Eq '^[[{](.*[^]}])?$'; }

# Prints the epoch second at which the last of the JWTs on standard input expires (RFC 7519, `exp`).
jwt_expiry() {
  ends=$(grep -aoE 'eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+' | head -n 20 | cut -d. -f2 |
    while read -r claims; do
      echo "$claims===" | head -c $(((${#claims} + 3) / 4 * 4)) | tr '_-' '/+' | base64 -d 2>/dev/null |
        sed -nE 's/.*"exp" *: *([0-9]{1,11})([^0-9].*)?$/\1/p'
      echo # after the last line, which has no line break
    done | sort -n | tail -n 1)
  [ -n "$ends" ] && echo "$ends"
}
# Prints the epoch second that the token's own field names: `expires_at` as a number or a date with a
# zone, or KIS's own `access_token_token_expired`, which is Korean time (KIS Developers, tokenP). Any
# other date without a zone may be Korean time or UTC: it says nothing.
field_expiry() {
  ends=$(LC_ALL=C sed -nE "h $inside_out"'
    /^o$/!q
    g
    /"access_token" *: *"[^"]/!q
    s/"(expires_at|access_token_token_expired)" *: *"?([^",}]*[^",} ]).*/\n\1 \2/
    /\n/!q
    s/.*\n//
    s/(-[0-9]+)T/\1 /
    p')
  field=${ends%% *} ends=${ends#* }
  case $ends in
    '') return 1 ;;
    *[!0-9.]*) # a date
      case $field,${ends#????-??-??} in
        *Z | *,*[+-][0-9]*) date -d "$ends" +%s ;;
        access_token_token_expired,*) date -d "$ends +0900" +%s ;;
        *) return 1 ;;
      esac ;;
    *)
      ends=${ends%%.*}
      [ ${#ends} -le 11 ] && echo "$ends" ;; # more digits are not seconds
  esac
}
# Prints the epoch second at which the token on standard input expires; fails if that cannot be told.
# A gateway goes by its field, KIS by the JWT: the earlier one counts.
token_expiry() {
  content=$(one_line)
  {
    printf %s "$content" | jwt_expiry
    printf %s "$content" | field_expiry
  } | sort -n | head -n 1 | grep .
}

# Sets $state to `missing`, `token` (expired or not), `damaged` (empty, no file, or JSON that ends in
# the middle) or `unknown` (any other form: this package leaves it alone, and the gateway judges it);
# and $ends to the epoch second at which the token expires, 0 if there is none.
examine() { # token file
  ends=0
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then
    state=missing
  elif [ -L "$1" ] || [ ! -f "$1" ] || [ ! -s "$1" ]; then
    state=damaged # Docker makes a directory where a mounted file is missing
  elif [ "$(stat -c %s "$1")" -gt 65536 ]; then
    state=unknown
  elif expires=$(read_file "$1" | token_expiry 2>/dev/null); then
    state=token ends=$expires
  elif ! read_file "$1" | tr -d ' \0\n\r\t' | grep -q . || read_file "$1" | is_cut_off; then
    state=damaged
  else
    state=unknown
  fi
}
token_state() { examine "$1" && echo "$state"; } # token file

token_ends() { # token file; prints 0 if it holds no token
  read_file "$1" | token_expiry 2>/dev/null || echo 0
}
lasts() { [ "$(token_ends "$1")" -gt $(($(date +%s) + ${2:-0})) ]; } # token file, seconds

# Whose token it is, if that is known: the reference gateway says so in the file itself.
token_key() { # token file
  own=$(read_file "$1" | sed -n '/.*"app_key_fingerprint" *: *"\([0-9a-f]\{12\}\)".*/{s//\1/p;q;}')
  [ -n "$own" ] || own=$(read_file "$1.key" | head -n 1 | tr -d '\0')
  ! is_id "$own" || echo "$own"
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
  [ "$(read_file "$1.key" | tr -d '\0')" != "$2" ] || return 0
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
  {
    docker cp "$1:$2" - 2>/dev/null | tar --extract --to-stdout 2>/dev/null ||
      docker exec "$1" cat "$2" 2>/dev/null
  } | head -c 65536
}
