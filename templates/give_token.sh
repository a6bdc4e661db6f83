#!/bin/sh
# Brings a token for the next gateway of an app key; it arrives on standard input in base64.
#
# usage: give_token.sh TOKEN_FILE KEY APP_DIR/tokens <TOKEN
keep_tokens "$1" "$3" || exit 1
base64 -d | bring_token "$1" "$2" "$3" || lasts "$1" || lasts "$3/$2" || {
  echo "The token that another host gave could not be parked in $3, or has expired." >&2
  exit 1
}
