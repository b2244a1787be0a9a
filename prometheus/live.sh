#!/usr/bin/env bash
# Prometheus on this host, without Docker: the same rules and targets as in compose. Ends with Ctrl-C, keeps nothing unless
# PROMETHEUS_DATA names a folder. PROMETHEUS_PORT is 9090 unless told.
set -euo pipefail
cd "$(dirname "$0")"
port=${PROMETHEUS_PORT:-9090} url=http://127.0.0.1:${PROMETHEUS_PORT:-9090}

cat >&2 <<TEXT
In other terminals, from the repository:
  python -m loadgen sweep --configs tp1,tp2-ngram --models r1-distill-qwen-7b --backend emulator   # servers announce themselves
  python -m loadgen --dataset sample                                                               # or one run, on a server of yours
  python -m grafana.render --prometheus $url --last 5m --out /tmp/dashboards                       # pictures of the dashboards
Look at $url/alerts and $url/graph; in a Grafana of yours, add the data source $url (scrape interval 1s) and
import grafana/dashboards/*.json. What to look for: docs/dashboards.md.
TEXT
if ! command -v prometheus >/dev/null; then
  echo "live: no prometheus on PATH: install it (Debian: apt-get install prometheus), or: docker compose up --wait" >&2
  exit 2
fi
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
  echo "live: port $port is taken: choose another, e.g. PROMETHEUS_PORT=$((port + 1)) make live" >&2
  exit 2
fi

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
# What only a container needs: its own services, and a name for the host, which here is this host.
sed -e '/^scrape_config_files:/,/^$/d' -e 's/replacement: host\.docker\.internal/replacement: 127.0.0.1/' \
  -e '/- host\.docker\.internal:9464/d' -e '/- loadgen:9464/d' prometheus.yml >"$home/prometheus.yml"
ln -s "$PWD/rules" "$PWD/targets" "$home/"
echo "{\"prometheus\": \"$url\"}"
prometheus --config.file="$home/prometheus.yml" --storage.tsdb.path="${PROMETHEUS_DATA:-$home/data}" \
  --web.listen-address="127.0.0.1:$port" --log.level=warn &
trap 'kill %1 2>/dev/null; wait %1; rm -rf "$home"' EXIT
wait %1
