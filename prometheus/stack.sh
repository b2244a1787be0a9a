#!/bin/sh
# Starts Prometheus in Compose, whose image contains a shell but no Python. The scrape jobs come from $STACK in docker-compose.yml. This
# script inserts what only the file of the configuration $CONFIG tells: its parallelism, its speculation, and the GPUs that its server
# uses. They are those of $GPUS, such as 2,3, else the first ones. Telemetry of other GPUs of the host is not the server's.
set -eu
file=${THINKLOAD_CONFIGS:-/thinkload/configs}/$CONFIG.yaml
if [ ! -r "$file" ]; then
  echo "prometheus: CONFIG=$CONFIG: there is no file server/configs/$CONFIG.yaml" >&2
  exit 2
fi
size() { sed -n "s/^$1[-_]parallel[-_]size:[[:space:]]*\([0-9][0-9]*\).*/\1/p" "$file"; }
tp=$(size tensor) pp=$(size pipeline) dp=$(size data)
tp=${tp:-1} count=$((${tp:-1} * ${pp:-1} * ${dp:-1}))
method=$(sed -n "s/#.*//; s/.*[^[:alnum:]_]method[\"']*:[[:space:]]*[\"']*\([[:alnum:]_]*\).*/\1/p" "$file" | head -n 1)
gpus=0 index=1
while [ "$index" -lt "$count" ]; do
  gpus="$gpus,$index" index=$((index + 1))
done
gpus=$(echo "${GPUS:-$gpus}" | tr , '|')
printf '%s\n' "$STACK" | sed "s/@TP@/$tp/; s/@SPECULATION@/${method:-none}/; s/@GPUS@/$gpus/" \
  >"${STACK_FILE:-/etc/prometheus/stack/compose.yml}"
unset STACK
exec prometheus "$@"
