#!/bin/sh
# Makes the token directory ready for the container's user. Nothing in it is removed or emptied.
#
# usage: tokens.sh TOKEN_FILE UID:GID
set -eu
token_file=$1 user=$2

install -d -m 0700 -o "${user%:*}" -g "${user#*:}" "${token_file%/*}"
set_damaged_aside "$token_file"
if [ -f "$token_file" ]; then
  chown "$user" "$token_file"
  chmod u+rw "$token_file"
fi
