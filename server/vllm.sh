#!/bin/sh
# `vllm serve` whose model may be a preset: its name or id in server/models/*.yaml adds dtype and reasoning parser.
# Entry point of the compose service; `python -m server up` does the same in server/launch/commands.py.
set -eu
model=$1
shift
value() { sed -n "s/^$1:[[:space:]]*\([^[:space:]#]*\).*/\1/p" "$file"; }
for file in "${THINKLOAD_MODELS:-/thinkload/models}"/*.yaml; do
  if [ "$model" = "$(basename "$file" .yaml)" ] || [ "$model" = "$(value id)" ]; then
    model=$(value id)
    set -- --dtype "$(value dtype)" "$@"
    parser=$(value reasoning-parser)
    case $parser in null | "") ;; *) set -- --reasoning-parser "$parser" "$@" ;; esac
    break
  fi
done
exec vllm serve "$model" "$@"
