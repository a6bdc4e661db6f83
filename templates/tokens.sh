#!/bin/sh
# Makes the token directory ready for the container's user. Nothing in it is removed or emptied.
#
# usage: tokens.sh TOKEN_FILE UID:GID
set_damaged_aside "$1"
own_token_dir "$1" "$2"
