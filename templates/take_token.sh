#!/bin/sh
# Prints `token BASE64` of an app key: the one that its gateway uses, or one that lies aside.
#
# usage: take_token.sh TOKEN_FILE KEY
token_file=$1 key=$2
whose=$(token_key "$token_file")
best=$token_file
if [ "${whose:-$key}" != "$key" ] ||
  [ "$(token_ends "$token_file.of-$key")" -gt "$(token_ends "$token_file")" ]; then
  best=$token_file.of-$key
fi
lasts "$best" && echo "token $(read_file "$best" | base64 -w 0)"
