#!/usr/bin/env bash
# The exact commands of the study. The servers of one phase start together, several on one GPU (an idle vLLM uses memory
# but no computing time). Then one server per GPU is loaded at a time. So the start-up of two minutes occurs once per phase.
#
#   run.sh tp1|tp2|memo MODELS MATH500.jsonl OUT        # BACKEND=emulator does the same without a GPU
#   run.sh parallel|7b|synthetic|loads|long|tp4 …       # not run on H200: one server on the machine at a time
#
# MODELS holds 1.5b/, 7b/, 14b/ (config and tokenizer, random weights) and memo-20m/. Cells that exist in OUT are skipped.
set -uo pipefail
phase=$1 models=$2 math=$3 out=$4
backend=${BACKEND:-process}
PYTHON=${PYTHON:-python3}
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_USE_FLASHINFER_SAMPLER=0 TORCHINDUCTOR_COMPILE_THREADS=4
# No NVLink multicast: the ordinary custom all-reduce (CUDA IPC) runs at TP 2.
export VLLM_ALLREDUCE_USE_SYMM_MEM=0 NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1
mkdir -p "$out"/logs

declare -A preset=([1.5b]=r1-distill-qwen-1.5b [7b]=r1-distill-qwen-7b [14b]=r1-distill-qwen-14b)
# Bytes of KV cache per GPU: 40 requests of 1.2K tokens at TP 1, at 28, 56 and 192 KiB per token (memo: 6 KiB).
declare -A kv=([1.5b]=3G [7b]=5G [14b]=11G [memo-20m]=2G)
declare -A share=([1.5b]=0.08 [7b]=0.17 [14b]=0.31 [memo-20m]=0.05)

up() { # config model gpus port
  local config=$1 model=$2 gpus=$3 port=$4 more=() room=()
  if [ "$backend" = emulator ]; then
    "$PYTHON" -m server up "$config" --model "${preset[$model]:-r1-distill-qwen-1.5b}" --backend emulator --port "$port" -- \
      --speed 20 --dataset "$math" >"$out/logs/up-$model-$config.log" 2>&1
    return
  fi
  [ "$model" = memo-20m ] && more+=(--max-model-len 4096) || more+=(--load-format dummy --max-model-len 16384)
  [ -n "${ALONE:-}" ] && room=(--gpu-memory-utilization 0.85) ||
    room=(--gpu-memory-utilization "${share[$model]}" --kv-cache-memory-bytes "${kv[$model]}")
  [ -n "${ACCEPT:-}" ] && more+=(--speculative-config '{"method":"ngram","num_speculative_tokens":5,"prompt_lookup_min":1,"prompt_lookup_max":4,"rejection_sample_method":"synthetic","synthetic_acceptance_length":'"$ACCEPT}")
  case $config in tp[24]*) more+=(--compilation-config '{"pass_config":{"fuse_allreduce_rms":false}}') ;; esac
  case $config in *-sync) export VLLM_USE_V2_MODEL_RUNNER=0 ;; esac # on 0.26, n-gram uses it too
  "$PYTHON" -m server up "$config" --model "$models/$model" --backend process --gpus "$gpus" --port "$port" -- \
    --served-model-name "$model" "${room[@]}" "${more[@]}" >"$out/logs/up-$model-$config.log" 2>&1
}

load() { # config model gpus port concurrency requests temperature [tokens]
  local config=$1 model=$2 gpus=$3 port=$4 concurrency=$5 requests=$6 temperature=$7 tokens=${8:-1024}
  local tp=${config:2:1} spec=none cell="${config}_${model}_c${concurrency}_t${temperature}"
  [ "$tokens" = 1024 ] || cell+="_o$tokens"
  [ -z "${ACCEPT:-}" ] || cell+="_a$ACCEPT"
  case $config in *ngram) spec=ngram ;; esac
  [ -e "$out/$cell" ] && return
  "$PYTHON" -m loadgen --target "http://127.0.0.1:$port/v1" --dataset "$math" --budgets "$tokens" \
    --requests "$requests" --concurrency "$concurrency" --warmup "$((concurrency < 4 ? 1 : concurrency))" \
    --temperature "$temperature" --extra-body '{"ignore_eos":true}' --no-text \
    --config-name "$config" --preset "${preset[$model]}" --num-gpus "$tp" --tensor-parallel-size "$tp" \
    --speculation "$spec" --gpu h200 --metrics-port off --progress plain --label phase="$phase" \
    ${GPU_METRICS:+--gpu-metrics "$GPU_METRICS"} --out "$out/$cell" >"$out/logs/$cell.log" 2>&1 ||
    echo "FAILED $cell: $(tail -n 1 "$out/logs/$cell.log")"
}

bench() { # model port concurrency requests: vLLM's own client beside ours, on the same server
  [ "$backend" = emulator ] && return
  "$PYTHON" -m vllm.entrypoints.cli.main bench serve --backend openai-chat --base-url "http://127.0.0.1:$2" \
    --endpoint /v1/chat/completions --model "$1" --tokenizer "$models/$1" --dataset-name custom \
    --dataset-path "$out/prompts.jsonl" --custom-output-len 1024 --skip-chat-template --ignore-eos --temperature 0 \
    --disable-shuffle --num-prompts "$4" --max-concurrency "$3" --num-warmups "$3" --percentile-metrics ttft,tpot,itl,e2el \
    --save-result --result-dir "$out" --result-filename "vllm-bench_$1_c$3.json" >"$out/logs/vllm-bench_$1_c$3.log" 2>&1 ||
    echo "FAILED vllm bench $1 c$3: $(tail -n 1 "$out/logs/vllm-bench_$1_c$3.log")"
}

exporter() { # gpus port
  [ "$backend" = emulator ] && return
  "$PYTHON" -m server gpu-exporter --gpus "$1" --port "$2" >"$out/logs/gpu-exporter-$2.log" 2>&1 &
  exporters+=($!)
}

alone() ( # config model gpus, then concurrency:requests:temperature[:tokens] …: no other server on the machine
  local config=$1 model=$2 gpus=$3 exporters=()
  shift 3
  ALONE=yes up "$config" "$model" "$gpus" 8600 ||
    { echo "FAILED up $config $model: $(tail -n 1 "$out/logs/up-$model-$config.log")"; return; }
  exporter "$gpus" 9405
  [ "$backend" = emulator ] || export GPU_METRICS=http://127.0.0.1:9405/metrics
  for point in "$@"; do
    IFS=: read -r concurrency requests temperature tokens <<<"$point"
    load "$config" "$model" "$gpus" 8600 "$concurrency" "$requests" "$temperature" "$tokens"
  done
  [ "$config" = tp1 ] && [ "$model" = 14b ] && bench 14b 8600 1 8
  "$PYTHON" -m server down --all >>"$out/logs/down.log" 2>&1
  for pid in "${exporters[@]}"; do kill "$pid"; done
)

cells() { # config model gpus port, requests at concurrency 1, at 32
  load "$1" "$2" "$3" "$4" 1 "$5" 0
  load "$1" "$2" "$3" "$4" 32 "$6" 0
  case $1 in *ngram) # random weights repeat themselves at temperature 0, so every draft is accepted; at 1 nothing is drafted
    load "$1" "$2" "$3" "$4" 1 "$5" 1
    load "$1" "$2" "$3" "$4" 32 "$6" 1 ;;
  esac
}

memo() { # config port: a real model that was trained to repeat MATH500, all problems, real text
  local cell
  for concurrency in 32 1; do
    cell="$1_memo-20m_c$concurrency"
    [ -e "$out/$cell" ] && continue
    "$PYTHON" -m loadgen --target "http://127.0.0.1:$2/v1" --dataset "$math" --budgets 256,512,1024,2048 --one-pass \
      $([ $concurrency = 1 ] && echo "--problems 100") --concurrency $concurrency --config-name "$1" --num-gpus 1 \
      --tensor-parallel-size 1 --speculation "$([ "$1" = tp1 ] && echo none || echo ngram)" --gpu h200 --metrics-port off \
      --progress plain ${GPU_METRICS:+--gpu-metrics "$GPU_METRICS"} --out "$out/$cell" >"$out/logs/$cell.log" 2>&1 ||
      echo "FAILED $cell: $(tail -n 1 "$out/logs/$cell.log")"
  done
}

exporters=()
"$PYTHON" - "$math" "$out/prompts.jsonl" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
tail = "\nPlease reason step by step, and put your final answer within \\boxed{}."
with open(sys.argv[2], "w") as file:
    file.writelines(json.dumps({"prompt": row["problem"] + tail}) + "\n" for row in rows)
PY
started=$(date +%s)
case $phase in
  tp1)
    pids=()
    n=0
    for config in tp1 tp1-ngram tp1-sync; do
      up $config 14b 0 $((8100 + n)) & pids+=($!)
      up $config 1.5b 1 $((8200 + n)) & pids+=($!)
      n=$((n + 1))
    done
    exporter 0 9400; exporter 1 9401
    wait "${pids[@]}"; echo "servers up after $(($(date +%s) - started)) s"
    ( [ "$backend" = emulator ] || export GPU_METRICS=http://127.0.0.1:9400/metrics
      cells tp1 14b 0 8100 4 96; cells tp1-ngram 14b 0 8101 4 96; bench 14b 8100 32 64; cells tp1-sync 14b 0 8102 4 96; bench 14b 8100 1 4 ) & a=$!
    ( [ "$backend" = emulator ] || export GPU_METRICS=http://127.0.0.1:9401/metrics
      cells tp1 1.5b 1 8200 16 192; cells tp1-ngram 1.5b 1 8201 16 192; bench 1.5b 8200 32 192; bench 1.5b 8200 1 16
      cells tp1-sync 1.5b 1 8202 16 192 ) & b=$!
    wait $a $b ;;
  tp2)
    pids=()
    n=0
    for config in tp2 tp2-ngram tp2-sync; do
      up $config 14b 0,1 $((8300 + n)) & pids+=($!)
      up $config 1.5b 0,1 $((8400 + n)) & pids+=($!)
      n=$((n + 1))
    done
    exporter 0,1 9402
    wait "${pids[@]}"; echo "servers up after $(($(date +%s) - started)) s"
    [ "$backend" = emulator ] || export GPU_METRICS=http://127.0.0.1:9402/metrics
    n=0
    for config in tp2 tp2-ngram tp2-sync; do
      cells $config 1.5b 0,1 $((8400 + n)) 12 128
      cells $config 14b 0,1 $((8300 + n)) 4 64
      n=$((n + 1))
    done ;;
  memo)
    up tp1 memo-20m 0 8500 & a=$!
    up tp1-ngram memo-20m 1 8501 & b=$!
    exporter 0 9403; exporter 1 9404
    wait $a $b; echo "servers up after $(($(date +%s) - started)) s"
    ( [ "$backend" = emulator ] || export GPU_METRICS=http://127.0.0.1:9403/metrics; memo tp1 8500 ) & a=$!
    ( [ "$backend" = emulator ] || export GPU_METRICS=http://127.0.0.1:9404/metrics; memo tp1-ngram 8501 ) & b=$!
    wait $a $b ;;
  parallel) # the matched baseline at TP 2, and the rows marked † on the page, each server alone
    for model in 1.5b 14b; do
      alone tp2 $model 0,1 1:12:0 32:128:0
      alone tp2-sync $model 0,1 1:12:0 32:128:0
      alone tp2-ngram $model 0,1 1:12:1 32:128:1 1:12:0 32:128:0
    done ;;
  7b)
    for config in tp1 tp1-sync; do alone $config 7b 0 1:8:0 32:128:0; done
    alone tp1-ngram 7b 0 1:8:0 32:128:0 1:8:1 32:128:1
    for config in tp2 tp2-sync; do alone $config 7b 0,1 1:8:0 32:128:0; done
    alone tp2-ngram 7b 0,1 1:8:0 32:128:0 1:8:1 32:128:1 ;;
  synthetic) # repeated text always has drafts; the share that is accepted is fixed
    for length in 1.5 2.5 4; do
      for model in 1.5b 14b; do ACCEPT=$length alone tp1-ngram $model 0 1:8:0 32:128:0; done
    done ;;
  loads)
    for model in 1.5b 14b; do
      for config in tp1 tp1-sync tp1-ngram; do alone $config $model 0 8:32:0 128:256:0; done
      alone tp2 $model 0,1 8:32:0 128:256:0
    done ;;
  long)
    for model in 1.5b 14b; do
      for config in tp1 tp1-ngram; do alone $config $model 0 1:4:0:4096 32:64:0:4096 1:1:0:15000; done
    done ;; # 15,000: prompt and answer share the 16,384 of these servers
  tp4) # TP 1, 2 and 4 on one host: docs/results/tp4-prediction.md has the predictions
    for model in 1.5b 7b 14b; do
      for config in tp1 tp2 tp4 tp1-ngram tp2-ngram tp4-ngram; do
        gpus=$(seq -s, 0 $((${config:2:1} - 1)))
        points=(1:8:0 8:32:0 32:128:0 128:256:0 1:2:0:4096 32:64:0:4096)
        case $config in *ngram) points+=(1:8:1 8:32:1 32:128:1 128:256:1) ;; esac
        alone $config $model "$gpus" "${points[@]}"
      done
    done ;;
  *) echo "run.sh: $phase: no such phase" >&2; exit 2 ;;
esac
echo "loaded after $(($(date +%s) - started)) s"
"$PYTHON" -m server down --all >"$out/logs/down.log" 2>&1
for pid in "${exporters[@]}"; do kill "$pid"; done
ls "$out"
