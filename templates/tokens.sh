#!/bin/sh
# Makes the token directory ready for the container's user. Nothing in it is removed or emptied.
#
# usage: tokens.sh TOKEN_DIR TOKEN_FILE UID:GID
set -eu
token_dir=$1 token_file=$2 user=$3

install -d -m 0700 -o "${user%:*}" -g "${user#*:}" "$token_dir"
if [ -f "$token_dir/$token_file" ]; then
  chown "$user" "$token_dir/$token_file"
  chmod u+rw "$token_dir/$token_file"
fi
