#!/bin/sh
# Brings a token for the next gateway of an app key; it arrives on standard input in base64.
#
# usage: give_token.sh TOKEN_FILE KEY UID:GID <TOKEN
base64 -d | bring_token "$1" "$2" "$3" || lasts "$1" || lasts "$1.of-$2" || {
  echo "The token that another host gave could not be put beside $1, or has expired." >&2
  exit 1
}
