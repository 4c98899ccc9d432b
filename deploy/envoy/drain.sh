#!/bin/bash
# Before SIGTERM, at which Envoy ends at once: says that it is not ready, answers on with each answer the last of its
# connection, and returns once nothing is under way, or after LONGEST_S seconds. Its admin port is on loopback and asked
# by what bash itself can do, since the image has no other client.
set -u
ADMIN_PORT=${ADMIN_PORT:-9901}
# Until everybody has heard that it goes: new connections come until then.
HEARD_S=${HEARD_S:-10}
# Above the longest that a request may take (70 s, edge.yaml).
LONGEST_S=${LONGEST_S:-75}

# $1 is method and path; the answer's body is on stdout, status 1 if it is not a 200.
ask() {
  local line status
  exec 3<>"/dev/tcp/127.0.0.1/$ADMIN_PORT" || return 1
  printf '%s HTTP/1.1\r\nHost: edge\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" >&3
  read -r _ status _ <&3
  while IFS= read -r line <&3 && [ "${line%$'\r'}" ]; do :; done
  cat <&3
  exec 3<&-
  [ "$status" = 200 ]
}

under_way() {
  local total=0 name count
  while IFS=': ' read -r name count; do
    case $name in
      http.public.downstream_rq_active|http.internal.downstream_rq_active) total=$((total + ${count%$'\r'})) ;;
    esac
  done < <(ask 'GET /stats?usedonly&filter=downstream_rq_active')
  echo "$total"
}

ask 'POST /healthcheck/fail' >/dev/null || exit 0  # it has gone already
sleep "$HEARD_S"
until [ "$(under_way)" = 0 ] || [ "$SECONDS" -ge "$LONGEST_S" ]; do
  sleep 0.2
done
