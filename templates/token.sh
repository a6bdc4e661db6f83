#!/bin/sh
# All that is known of token files: their forms, what is damage, and whose token it is. Functions.
#
# The container's user may write in the directory of the token file F: root follows no link there and
# makes no file there. What must be remembered is kept in APP_DIR/tokens, where only root can write:
# `whose` (the fingerprint of F's app key, never the key, and F's path), and parked tokens by
# fingerprint: of another app key, or brought for the next gateway of that key.

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
token_key() { # token file, APP_DIR/tokens
  own=$(read_file "$1" | sed -n '/.*"app_key_fingerprint" *: *"\([0-9a-f]\{12\}\)".*/{s//\1/p;q;}')
  if [ -z "$own" ]; then
    own=$(read_file "$2/whose")
    [ "${own#* }" = "$1" ] || own=''
    own=${own%% *}
  fi
  ! is_id "$own" || echo "$own"
}

# A gateway may be writing at this moment: a file that is half written gets a second.
set_damaged_aside() { # token file
  [ "$(token_state "$1")" = damaged ] || return 0
  sleep 1
  [ "$(token_state "$1")" = damaged ] || return 0
  aside=$1.damaged-$(date +%Y%m%d-%H%M%S)
  mv -T "$1" "$aside" && echo "The token file was damaged and is set aside: $aside" >&2
}

# Makes the directory, and the token's files in it, the container's user's own. Everything relative
# to a descriptor of the directory: a name may be a link in the next moment.
own_token_dir() { # token file, uid:gid
  (umask 077 && mkdir -p "${1%/*}") || return 1
  python3 -I -S -c '
import os, stat, sys
path, uid, gid = sys.argv[1], *map(int, sys.argv[2].split(":"))
directory, token_file = os.path.split(path)
opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
os.fchmod(opened, 0o700)
os.fchown(opened, uid, gid)
for name in os.listdir(opened):
    if name != token_file and not name.startswith(token_file + "."):
        continue
    try:
        at = os.stat(name, dir_fd=opened, follow_symlinks=False)
        if (at.st_uid, at.st_gid) != (uid, gid):
            os.chown(name, uid, gid, dir_fd=opened, follow_symlinks=False)
        if name == token_file and stat.S_ISREG(at.st_mode) and at.st_mode & 0o600 != 0o600:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened)
            os.fchmod(file, stat.S_IMODE(os.fstat(file).st_mode) | 0o600)
    except FileNotFoundError:
        pass
' "$1" "$2"
}

# Makes APP_DIR/tokens. An earlier version kept these files beside the token: F.key and F.of-KEY.
keep_tokens() { # token file, APP_DIR/tokens
  [ ! -d "$2" ] || return 0
  (umask 077 && mkdir -p "$2.new") || return 1
  for old in "$1".of-* "$1.key"; do
    name=${old##*.of-}
    [ "$old" != "$1.key" ] || name=whose
    [ "$name" = whose ] || is_id "$name" || continue
    content=$(read_file "$old") || continue
    [ "$name" != whose ] || content="$content $1"
    (umask 077 && printf '%s\n' "$content" >"$2.new/$name") && rm "$old" || return 1
  done
  mv -T "$2.new" "$2"
}

# Makes KEY's token the one that its gateway finds: parks another key's, and brings back KEY's, or
# takes up one that was brought, if that ends later. Nothing is lost.
select_token() { # token file, fingerprint of the app key, APP_DIR/tokens
  whose=$(token_key "$1" "$3")
  if [ -e "$1" ] && [ -n "$whose" ] && [ "$whose" != "$2" ]; then
    parked=$3/$whose
    [ "$(token_ends "$parked")" -le "$(token_ends "$1")" ] || parked=$parked-$(date +%Y%m%d-%H%M%S)
    mv -T "$1" "$parked" || return 1
    echo "The token of another app key is parked: $parked" >&2
  fi
  if [ -f "$3/$2" ] && [ "$(token_state "$1")" != unknown ] &&
    [ "$(token_ends "$3/$2")" -gt "$(token_ends "$1")" ]; then
    mv -T "$3/$2" "$1" || return 1
  fi
  [ "$(read_file "$3/whose")" = "$2 $1" ] || (umask 077 && echo "$2 $1" >"$3/whose")
}

# Parks the token on standard input for the next gateway of its key; fails if it has expired, or one
# that ends as late is there already.
bring_token() { # token file, fingerprint of the app key, APP_DIR/tokens
  brought=$3/.brought
  (umask 077 && head -c 65536 >"$brought") || return 1
  whose=$(token_key "$brought" "$3")
  key=${whose:-$2} ends=$(token_ends "$brought") whose=$(token_key "$1" "$3")
  if lasts "$brought" && [ "$ends" -gt "$(token_ends "$3/$key")" ] &&
    { [ "${whose:-$key}" != "$key" ] || [ "$ends" -gt "$(token_ends "$1")" ]; }; then
    mv -T "$brought" "$3/$key"
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
