#!/usr/bin/env bash
# The exact commands of the study: which requests are sent to which server, in which order, on one machine with two GPUs.
#
#   run.sh MODELS MATH500.jsonl OUT SECONDS      # with the same OUT again: continues where the time was over
#   BACKEND=emulator run.sh …                    # does the same without a GPU
#
# The servers of a group start together. One of them runs at a time (in the TP 1 part: one per GPU). The processes of the
# others are stopped (SIGSTOP): they keep their memory and do nothing. The label `others` of a cell says what the other
# servers did: `stopped`, `idle` (running, without requests), `none` (no other server), or `other-gpu` (stopped, except
# for one that is loaded on the other GPU at the same time). MODELS holds 1.5b/, 7b/ and 14b/ (random weights).
set -uo pipefail
models=$1 math=$2 out=$3 deadline=$((SECONDS + $4))
backend=${BACKEND:-process} GPU=${GPU:-h100} PYTHON=${PYTHON:-python3}
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_USE_FLASHINFER_SAMPLER=0 TORCHINDUCTOR_COMPILE_THREADS=4
# No NVLink multicast: the ordinary custom all-reduce (CUDA IPC) runs at TP 2.
export VLLM_ALLREDUCE_USE_SYMM_MEM=0 NCCL_NVLS_ENABLE=0 TORCH_SYMM_MEM_DISABLE_MULTICAST=1 NVSHMEM_DISABLE_NVLS=1
export TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=7200 # the watchdog of a stopped worker must not report it as hung
export THINKLOAD_STATE=$out/state
mkdir -p "$out"/{logs,cells,pids,done,state,profile}
declare -A preset=([1.5b]=r1-distill-qwen-1.5b [7b]=r1-distill-qwen-7b [14b]=r1-distill-qwen-14b)

say() { echo "$(date +%T) $*" | tee -a "$out/log"; }

# --- servers -------------------------------------------------------------------------------------------------------

up() { # server config model gpus port kv-cache-bytes, options of vLLM: starts in the background and continues after this script
  local server=$1 config=$2 model=$3 gpus=$4 port=$5 kv=$6 options=()
  shift 6
  [ -e "$out/pids/$server" ] && return
  [ "$backend" = process ] && options=(--served-model-name "$model" --load-format dummy --max-model-len 16384
    --gpu-memory-utilization 0.02 --kv-cache-memory-bytes "$kv" "$@")
  [ "$backend" = emulator ] && options=(--speed 20 --dataset "$math" --gpu "$GPU")
  case $server in *-sync*) local -x VLLM_USE_V2_MODEL_RUNNER=0 ;; esac # on 0.26, n-gram uses it too
  local name=$model where=(--gpus "$gpus")
  [ "$backend" = process ] && name=$models/$model || { name=${preset[$model]} where=(); }
  echo starting >"$out/pids/$server"
  setsid nohup "$PYTHON" -m server up "$config" --model "$name" --backend "$backend" "${where[@]}" --port "$port" \
    --start-timeout 400 -- "${options[@]}" >"$out/logs/up-$server.log" 2>&1 </dev/null &
  echo "$port" >"$out/pids/$server.port"
}

ready() { # server…: waits until each is ready, then stops it (SIGSTOP); a server that failed is skipped
  local server port log began=$SECONDS
  for server in "$@"; do
    [ "$(cat "$out/pids/$server")" = starting ] || continue
    log="$out/logs/up-$server.log"
    until tail -n 1 "$log" 2>/dev/null | grep -q '^{"name"'; do
      if grep -q '^server: ' "$log" 2>/dev/null; then
        say "FAILED up $server: $(tail -n 1 "$log")"
        echo failed >"$out/pids/$server"
        continue 2
      fi
      [ $SECONDS -ge $deadline ] && { say "time is up while $server starts"; leave; }
      sleep 0.5
    done
    port=$(cat "$out/pids/$server.port")
    "$PYTHON" -c "import glob, json; print(next(s['pid'] for s in (json.load(open(f)) for f in glob.glob('$THINKLOAD_STATE/*.json')) if s['port'] == $port))" >"$out/pids/$server"
    say "up $server: $(grep -o 'ready at.*' "$log" | tail -n 1)"
  done
  for server in "$@"; do signal STOP "$server"; done
  say "group ready after $((SECONDS - began)) s of waiting"
}

signal() { # STOP|CONT|TERM server…
  local number=$1 server pid
  shift
  for server in "$@"; do
    pid=$(cat "$out/pids/$server" 2>/dev/null)
    case $pid in '' | starting | failed | down) ;; *) kill "-$number" -- "-$pid" ;; esac
  done
}

down() { # server…
  local server pid
  signal CONT "$@"
  for server in "$@"; do
    pid=$(cat "$out/pids/$server" 2>/dev/null)
    case $pid in '' | starting | failed | down) ;; *) kill -TERM "$pid" ;; esac
  done
  for server in "$@"; do
    pid=$(cat "$out/pids/$server" 2>/dev/null)
    case $pid in '' | starting | failed | down) continue ;; esac
    for _ in $(seq 60); do kill -0 -- "-$pid" 2>/dev/null || break; sleep 0.25; done
    kill -KILL -- "-$pid" 2>/dev/null
    echo down >"$out/pids/$server"
  done
}

once() { # name command…: runs a step only once
  [ -e "$out/done/$1" ] && return
  "${@:2}"
  touch "$out/done/$1"
}

leave() { # reports the number of cells and ends; the servers continue
  say "left at $SECONDS s; cells: $(ls "$out/cells" | wc -l)"
  exit 0
}

# --- loads ---------------------------------------------------------------------------------------------------------

enough() { # seconds: true if so much time is left; otherwise the script ends, or with SKIP=yes the cell is skipped
  [ $((SECONDS + $1)) -le "$deadline" ] && return 0
  [ -n "${SKIP:-}" ] && return 1
  leave
}

busy_s() { # CPU seconds of every server process so far, which show whether idle workers poll
  "$PYTHON" -S - "$out" "$1" <<'PY'
import glob, json, os, sys, time
found = {}
for path in glob.glob(f"{sys.argv[1]}/pids/*[!t]"):
    pid = open(path).read().strip()
    if pid.isdigit():
        found[pid] = os.path.basename(path)
row = {}
for path in glob.glob("/proc/[0-9]*/stat"):
    try:
        name, _, rest = open(path).read().partition("(")[2].rpartition(")")
    except OSError:
        continue
    fields = rest.split()
    if fields[2] in found:
        row.setdefault(found[fields[2]], {})[f"{name}/{path.split('/')[2]}"] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
print(json.dumps({"what": sys.argv[2], "t": time.time(), "load": os.getloadavg()[0], "cpu_s": row}))
PY
}

cell() { # time-limit-in-seconds others server suffix concurrency requests temperature tokens [options of loadgen]
  local limit=$1 others=$2 server=$3 suffix=$4 concurrency=$5 requests=$6 temperature=$7 tokens=$8
  shift 8
  local config=${server%%_*} model=${server##*_} name="${server}_c${concurrency}_t${temperature}" spec=none body='{"ignore_eos":true}'
  [ "$tokens" = 1024 ] || name+="_o$tokens"
  [ -z "$suffix" ] || name+="_$suffix"
  case $suffix in
    noseed) body='{"ignore_eos":true,"seed":null}' ;;
    nousage*) body='{"ignore_eos":true,"stream_options":{"include_usage":true}}' ;;
  esac
  [ -e "$out/done/$name" ] && return
  case $(cat "$out/pids/$server") in starting | failed | down) say "NO SERVER $name"; return ;; esac
  enough "$limit" || { say "SKIPPED $name"; return; }
  rm -rf "${out:?}/cells/$name"
  case $config in *ngram*) spec=ngram ;; esac
  busy_s "before $name" >>"$out/cpu.jsonl"
  timeout $((limit * 2 + 10)) "$PYTHON" -m loadgen --target "http://127.0.0.1:$(cat "$out/pids/$server.port")/v1" --dataset "$math" \
    --budgets "$tokens" --requests "$requests" --concurrency "$concurrency" --warmup "$((concurrency < 4 ? 1 : concurrency))" \
    --temperature "$temperature" --extra-body "$body" --no-text --config-name "$config" --preset "${preset[$model]}" \
    --num-gpus "${config:2:1}" --tensor-parallel-size "${config:2:1}" --speculation "$spec" --gpu "$GPU" --metrics-port off \
    --progress plain --label others="$others" ${GPU_METRICS:+--gpu-metrics "$GPU_METRICS"} "$@" \
    --out "$out/cells/$name" >"$out/logs/$name.log" 2>&1 || say "FAILED $name: $(tail -n 1 "$out/logs/$name.log")"
  busy_s "after $name" >>"$out/cpu.jsonl"
  touch "$out/done/$name"
  say "$name $(grep '^tpot_s' "$out/logs/$name.log" | cut -c 1-60)"
}

bench() { # time-limit-in-seconds server suffix concurrency requests [options]: vLLM's own client, on the same server
  local limit=$1 server=$2 suffix=$3 concurrency=$4 requests=$5 model=${2##*_}
  shift 5
  local name="vllm-bench_${server}_c$concurrency${suffix:+_$suffix}"
  [ "$backend" = emulator ] || [ -e "$out/done/$name" ] && return
  enough "$limit" || { say "SKIPPED $name"; return; }
  timeout $((limit * 2 + 10)) "$PYTHON" -m vllm.entrypoints.cli.main bench serve --backend openai-chat \
    --base-url "http://127.0.0.1:$(cat "$out/pids/$server.port")" --endpoint /v1/chat/completions --model "$model" \
    --tokenizer "$models/$model" --dataset-name custom --dataset-path "$out/prompts.jsonl" --custom-output-len 1024 \
    --skip-chat-template --ignore-eos --temperature 0 --disable-shuffle --num-prompts "$requests" \
    --max-concurrency "$concurrency" --num-warmups "$concurrency" --percentile-metrics ttft,tpot,itl,e2el "$@" \
    --save-result --result-dir "$out" --result-filename "$name.json" >"$out/logs/$name.log" 2>&1 ||
    say "FAILED $name: $(tail -n 1 "$out/logs/$name.log")"
  touch "$out/done/$name"
  say "$name $(grep 'Median TPOT' "$out/logs/$name.log")"
}

exporter() { # gpus port
  [ "$backend" = emulator ] || "$PYTHON" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$2/metrics')" 2>/dev/null && return
  setsid nohup "$PYTHON" -m server gpu-exporter --gpus "$1" --port "$2" >"$out/logs/gpu-exporter-$2.log" 2>&1 </dev/null &
}

metrics() { [ "$backend" = emulator ] || export GPU_METRICS=http://127.0.0.1:$1/metrics; }

profiled() { # server: 40 steps at concurrency 1 under PyTorch's profiler
  [ "$backend" = emulator ] && return
  "$PYTHON" - "http://127.0.0.1:$(cat "$out/pids/$1.port")" "${1##*_}" <<'PY'
import json, sys, urllib.request
def post(path, body=None):
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(sys.argv[1] + path, data, {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=60).read()
def ask():
    post("/v1/completions", {"model": sys.argv[2], "prompt": "Prove that the sum of two odd numbers is even.", "max_tokens": 160,
         "temperature": 1, "seed": 7, "ignore_eos": True})
ask()
post("/start_profile")
ask()
post("/stop_profile")
PY
}

# --- order -----------------------------------------------------------------------------------------------------

none_fused='{"pass_config":{"fuse_allreduce_rms":false}}'
ngram() { # acceptance length: n-gram with a fixed share of accepted drafts
  echo '{"method":"ngram","num_speculative_tokens":5,"prompt_lookup_min":1,"prompt_lookup_max":4,"rejection_sample_method":"synthetic","synthetic_acceptance_length":'"$1"'}'
}
"$PYTHON" - "$math" "$out/prompts.jsonl" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
tail = "\nPlease reason step by step, and put your final answer within \\boxed{}."
with open(sys.argv[2], "w") as file:
    file.writelines(json.dumps({"prompt": row["problem"] + tail}) + "\n" for row in rows)
PY
exporter 0,1 9400; exporter 0 9401; exporter 1 9402

parallel=(tp2_1.5b tp2-sync_1.5b tp2-ngram_1.5b tp2-ngram-a1_1.5b tp2-sync-piecewise_1.5b tp2-ngram-profile_1.5b)
single=(tp1_1.5b tp1-sync_1.5b tp1-ngram_1.5b tp1-ngram-a2.5_1.5b tp1_14b)
large=(tp2_14b tp2-sync_14b tp2-ngram_14b tp1-ngram-a1.5_1.5b tp1-ngram-a4_1.5b)

small_up() {
  up tp2_1.5b tp2 1.5b 0,1 8400 1G --compilation-config "$none_fused"
  up tp2-sync_1.5b tp2-sync 1.5b 0,1 8401 1G --compilation-config "$none_fused"
  up tp2-ngram_1.5b tp2-ngram 1.5b 0,1 8402 1G --compilation-config "$none_fused"
  up tp2-ngram-a1_1.5b tp2-ngram 1.5b 0,1 8403 1G --compilation-config "$none_fused" --speculative-config "$(ngram 1.0)"
  up tp2-sync-piecewise_1.5b tp2-sync 1.5b 0,1 8404 1G \
    --compilation-config '{"pass_config":{"fuse_allreduce_rms":false},"cudagraph_mode":"PIECEWISE"}'
  up tp2-ngram-profile_1.5b tp2-ngram 1.5b 0,1 8405 1G --compilation-config "$none_fused" --profiler-config \
    '{"profiler":"torch","torch_profiler_dir":"'"$(realpath "$out")"'/profile","torch_profiler_with_stack":false,"ignore_frontend":true,"delay_iterations":100,"max_iterations":40}'
  up tp1_1.5b tp1 1.5b 0 8200 5G
  up tp1-sync_1.5b tp1-sync 1.5b 0 8201 1500M
  up tp1-ngram_1.5b tp1-ngram 1.5b 0 8202 1500M
  up tp1-ngram-a2.5_1.5b tp1-ngram 1.5b 0 8203 1500M --speculative-config "$(ngram 2.5)"
  up tp1_14b tp1 14b 1 8100 8G
  ready "${parallel[@]}" "${single[@]}"
}

small_parallel() { # TP 2, 1.5B: one server runs at a time
  metrics 9400
  signal CONT tp2_1.5b
  cell 20 stopped tp2_1.5b "" 1 6 0 1024
  cell 13 stopped tp2_1.5b "" 32 64 0 1024
  cell 13 stopped tp2_1.5b "" 32 64 1 1024
  cell 12 stopped tp2_1.5b "" 1 6 1 512
  signal STOP tp2_1.5b; signal CONT tp2-sync_1.5b
  cell 28 stopped tp2-sync_1.5b "" 1 6 0 1024
  cell 18 stopped tp2-sync_1.5b "" 32 64 0 1024
  cell 20 stopped tp2-sync_1.5b "" 32 64 1 1024
  cell 16 stopped tp2-sync_1.5b "" 1 6 1 512
  signal STOP tp2-sync_1.5b; signal CONT tp2-ngram_1.5b
  cell 35 stopped tp2-ngram_1.5b stopped 32 64 1 1024
  cell 32 stopped tp2-ngram_1.5b stopped 1 6 1 512
  cell 8 stopped tp2-ngram_1.5b "" 1 6 0 1024
  cell 8 stopped tp2-ngram_1.5b "" 32 64 0 1024
  signal CONT tp2_1.5b tp2-sync_1.5b tp2-ngram-a1_1.5b tp2-sync-piecewise_1.5b "${single[@]}"
  cell 35 idle tp2-ngram_1.5b idle 32 64 1 1024
  cell 32 idle tp2-ngram_1.5b idle 1 6 1 512
  cell 13 idle tp2_1.5b idle 32 64 0 1024
  signal STOP tp2_1.5b tp2-sync_1.5b tp2-ngram-a1_1.5b tp2-sync-piecewise_1.5b "${single[@]}"
  cell 35 stopped tp2-ngram_1.5b noseed 32 64 1 1024
  signal STOP tp2-ngram_1.5b; signal CONT tp2-sync-piecewise_1.5b
  cell 25 stopped tp2-sync-piecewise_1.5b "" 1 6 0 512
  cell 32 stopped tp2-sync-piecewise_1.5b "" 32 64 0 1024
  signal STOP tp2-sync-piecewise_1.5b; signal CONT tp2-ngram-a1_1.5b
  cell 25 stopped tp2-ngram-a1_1.5b "" 1 6 0 512
  cell 25 stopped tp2-ngram-a1_1.5b "" 32 64 0 1024
  signal STOP tp2-ngram-a1_1.5b; signal CONT tp2-ngram-profile_1.5b
  enough 20 && once profile profiled tp2-ngram-profile_1.5b
  down tp2-ngram-profile_1.5b tp2-ngram-a1_1.5b tp2-sync-piecewise_1.5b tp2_1.5b tp2-sync_1.5b
}

lane_small() { # GPU 0, 1.5B at TP 1: both clients alternate, then the cost of n-gram and of synchronous scheduling
  metrics 9401
  signal CONT tp1_1.5b
  cell 20 other-gpu tp1_1.5b "" 1 6 0 1024
  cell 15 other-gpu tp1_1.5b "" 32 96 0 1024
  bench 35 tp1_1.5b 1 32 96
  cell 15 other-gpu tp1_1.5b nousage1 32 96 0 1024
  bench 35 tp1_1.5b usage1 32 96 --extra-body '{"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'
  bench 35 tp1_1.5b usage2 32 96 --extra-body '{"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'
  cell 15 other-gpu tp1_1.5b nousage2 32 96 0 1024
  bench 35 tp1_1.5b 2 32 96
  cell 15 other-gpu tp1_1.5b again 32 96 0 1024
  bench 35 tp1_1.5b "" 1 6
  cell 15 other-gpu tp1_1.5b "" 32 64 1 1024
  signal STOP tp1_1.5b; signal CONT tp1-sync_1.5b
  cell 28 other-gpu tp1-sync_1.5b "" 1 6 0 1024
  cell 16 other-gpu tp1-sync_1.5b "" 32 64 0 1024
  cell 16 other-gpu tp1-sync_1.5b "" 32 64 1 1024
  signal STOP tp1-sync_1.5b; signal CONT tp1-ngram_1.5b
  cell 40 other-gpu tp1-ngram_1.5b "" 1 6 1 1024
  cell 24 other-gpu tp1-ngram_1.5b "" 32 64 1 1024
  cell 8 other-gpu tp1-ngram_1.5b "" 1 6 0 1024
  cell 8 other-gpu tp1-ngram_1.5b "" 32 64 0 1024
  signal STOP tp1-ngram_1.5b; signal CONT tp1-ngram-a2.5_1.5b
  cell 20 other-gpu tp1-ngram-a2.5_1.5b "" 1 6 0 1024
  cell 20 other-gpu tp1-ngram-a2.5_1.5b "" 32 64 0 1024
  signal STOP tp1-ngram-a2.5_1.5b; signal CONT tp1_1.5b
  cell 15 other-gpu tp1_1.5b "" 8 32 0 1024
  cell 25 other-gpu tp1_1.5b "" 128 256 0 1024
  touch "$out/done/lane_small"
}

lane_large() { # GPU 1, 14B at TP 1
  metrics 9402
  signal CONT tp1_14b
  cell 90 other-gpu tp1_14b "" 1 6 0 1024
  cell 50 other-gpu tp1_14b "" 32 64 0 1024
  bench 65 tp1_14b "" 32 64
  bench 85 tp1_14b "" 1 5
  cell 45 other-gpu tp1_14b "" 8 16 0 1024
  cell 60 other-gpu tp1_14b "" 1 1 0 4096
  touch "$out/done/lane_large"
}

small_single() {
  lane_small & local a=$!
  lane_large & local b=$!
  wait $a $b
  [ -e "$out/done/lane_small" ] && [ -e "$out/done/lane_large" ] || leave
  down "${single[@]}"
}

small_alone() { # no other server on the machine
  metrics 9400
  signal CONT tp2-ngram_1.5b
  cell 35 none tp2-ngram_1.5b "" 32 64 1 1024
  cell 60 none tp2-ngram_1.5b "" 1 6 1 1024
  down tp2-ngram_1.5b
}

large_up() {
  up tp2_14b tp2 14b 0,1 8300 4G --compilation-config "$none_fused"
  up tp2-sync_14b tp2-sync 14b 0,1 8301 4G --compilation-config "$none_fused"
  up tp2-ngram_14b tp2-ngram 14b 0,1 8302 4G --compilation-config "$none_fused"
  up tp1-ngram-a1.5_1.5b tp1-ngram 1.5b 0 8204 1500M --speculative-config "$(ngram 1.5)"
  up tp1-ngram-a4_1.5b tp1-ngram 1.5b 1 8205 1500M --speculative-config "$(ngram 4)"
  ready "${large[@]}"
}

acceptance() { # server gpu-metrics port
  metrics "$2"
  signal CONT "$1"
  cell 22 other-gpu "$1" "" 1 6 0 1024
  cell 20 other-gpu "$1" "" 32 64 0 1024
  signal STOP "$1"
}

large_parallel() {
  metrics 9400
  signal CONT tp2_14b
  cell 35 stopped tp2_14b "" 1 6 0 512
  cell 35 stopped tp2_14b "" 32 64 0 1024
  signal STOP tp2_14b; signal CONT tp2-sync_14b
  cell 38 stopped tp2-sync_14b "" 1 6 0 512
  cell 38 stopped tp2-sync_14b "" 32 64 0 1024
  acceptance tp1-ngram-a1.5_1.5b 9401 & local a=$!
  acceptance tp1-ngram-a4_1.5b 9402 & wait $a $!
  metrics 9400
  cell 40 stopped tp2-sync_14b "" 32 64 1 1024
  signal STOP tp2-sync_14b; signal CONT tp2_14b
  cell 36 stopped tp2_14b "" 32 64 1 1024
  down tp2_14b tp2-sync_14b tp1-ngram-a1.5_1.5b tp1-ngram-a4_1.5b
}

large_alone() {
  metrics 9400
  signal CONT tp2-ngram_14b
  cell 60 none tp2-ngram_14b "" 32 64 1 1024
  cell 62 none tp2-ngram_14b "" 1 6 1 512
  cell 15 none tp2-ngram_14b "" 32 64 0 1024
  cell 12 none tp2-ngram_14b "" 1 6 0 512
  down tp2-ngram_14b
}

middle_single() { # 7B at TP 1
  (
    metrics 9401
    signal CONT tp1_7b
    cell 25 other-gpu tp1_7b "" 32 64 0 1024
    cell 25 other-gpu tp1_7b "" 1 6 0 512
  ) & local a=$!
  (
    metrics 9402
    signal CONT tp1-ngram_7b
    cell 32 other-gpu tp1-ngram_7b "" 32 64 1 1024
    cell 8 other-gpu tp1-ngram_7b "" 32 64 0 1024
    cell 10 other-gpu tp1-ngram_7b "" 1 6 0 512
    cell 25 other-gpu tp1-ngram_7b "" 1 6 1 512
  ) & wait $a $!
  down tp1_7b tp1-ngram_7b
}

small_up
once small_parallel small_parallel
once small_single small_single
once small_alone small_alone
large_up
once large_parallel large_parallel
once large_alone large_alone
up tp1_7b tp1 7b 0 8500 4G
up tp1-ngram_7b tp1-ngram 7b 1 8501 4G
ready tp1_7b tp1-ngram_7b
once middle_single middle_single
say "everything is done"
leave
