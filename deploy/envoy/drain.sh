#!/bin/bash
# Before SIGTERM, at which Envoy ends at once: says that it is not ready, answers on with each answer the last of its
# connection, and returns once nothing is under way, or after LONGEST_S seconds. Its admin port is on loopback and asked
# by what bash itself can do, since the image has no other client.
set -u
ADMIN_PORT=${ADMIN_PORT:-9901}
# Until everybody has heard that it goes: new connections come until then.
HEARD_S=${HEARD_S:-10}
# From the start of this script: a request that comes when HEARD_S is over may take 70 s (edge.yaml).
LONGEST_S=${LONGEST_S:-85}
# Who is silent for so long does not answer.
ANSWER_S=${ANSWER_S:-5}

# $1 is method and path; the answer's body is on stdout. Status 1 if nobody listens, 2 if it is no 200.
ask() {
  local line status
  exec 3<>"/dev/tcp/127.0.0.1/$ADMIN_PORT" || return 1
  printf '%s HTTP/1.1\r\nHost: edge\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" >&3
  read -t "$ANSWER_S" -r _ status _ <&3 || return 2
  [ "$status" = 200 ] || return 2
  while read -t "$ANSWER_S" -r line <&3; do
    echo "${line%$'\r'}"
  done
  exec 3<&-
}

# How many requests, or nothing if it does not say so of both listeners: that is unknown, not none.
under_way() {
  local total=0 told=0 name count
  while IFS=': ' read -r name count; do
    case $name in
      http.public.downstream_rq_active|http.internal.downstream_rq_active)
        total=$((total + count)) told=$((told + 1)) ;;
    esac
  done < <(ask 'GET /stats?filter=downstream_rq_active')
  [ "$told" = 2 ] && echo "$total"
}

until ask 'POST /healthcheck/fail' >/dev/null; do
  if [ $? = 1 ] || [ "$SECONDS" -ge "$LONGEST_S" ]; then
    exit 0  # it has gone already, or will not say
  fi
  sleep 0.2
done
sleep "$HEARD_S"
until [ "$(under_way)" = 0 ] || [ "$SECONDS" -ge "$LONGEST_S" ]; do
  sleep 0.2
done
