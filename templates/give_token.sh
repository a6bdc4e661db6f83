#!/bin/sh
# Brings a token for the next gateway of an app key; it arrives on standard input in base64.
#
# usage: give_token.sh TOKEN_FILE KEY UID:GID <TOKEN
base64 -d | bring_token "$1" "$2" "$3" || [ "$(token_ends "$1")" -gt "$(date +%s)" ]
