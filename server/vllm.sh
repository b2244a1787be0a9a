#!/bin/sh
# Runs `vllm serve` for a model or a preset. A name or id in server/models/*.yaml adds the dtype and the reasoning parser.
# This is the entry point of the compose service, whose image does not contain our Python code. It follows the same rules as
# vllm_arguments in server/launch/commands.py. GPUS holds the indices of the GPUs to use; without it, vLLM takes the first ones.
set -eu
if [ -n "${GPUS:-}" ]; then export CUDA_VISIBLE_DEVICES="$GPUS"; fi # An empty value would hide all GPUs.
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
