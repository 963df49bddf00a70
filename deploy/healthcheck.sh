#!/bin/bash
# Exit 0 when the server answers GET /health with 200, or what is named instead (/ready), else 1. Needs no
# token, and nothing but bash: the image has no curl, whose libraries would be most of what there is to
# patch in it.

set -u
bind=${FANFARE_BIND:-127.0.0.1:8080}
host=${bind%:*}
# What listens on every address, or on a port alone, is asked on loopback.
case $host in
    '' | 0.0.0.0) host=127.0.0.1 ;;
    '[::]') host=::1 ;;
    *) host=${host#[} host=${host%]} ;;
esac

exec 3<>"/dev/tcp/$host/${bind##*:}" || exit 1
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "${1:-/health}" >&3
read -r -t 4 _ status _ <&3 || exit 1
[ "$status" = 200 ]
