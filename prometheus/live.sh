#!/usr/bin/env bash
# Run Prometheus on this host without Docker, with the same rules and targets as in compose. Stop it with Ctrl-C. The data is deleted at
# the end unless PROMETHEUS_DATA names a folder. The default of PROMETHEUS_PORT is 9090.
set -euo pipefail
cd "$(dirname "$0")"
port=${PROMETHEUS_PORT:-9090} url=http://127.0.0.1:${PROMETHEUS_PORT:-9090}

cat >&2 <<TEXT
In other terminals, from the repository:
  python -m loadgen sweep --configs tp1,tp2-ngram --models r1-distill-qwen-7b --backend emulator   # adds its servers as targets
  python -m loadgen --dataset sample                                                               # or one run on your own server
  python -m grafana.render --prometheus $url --last 5m --out /tmp/dashboards                       # draw the dashboards
Open $url/alerts and $url/graph. In your own Grafana, add the data source $url (scrape interval 1s) and
import grafana/dashboards/*.json. docs/dashboards.md explains the dashboards.
TEXT
if ! command -v prometheus >/dev/null; then
  echo "live: prometheus is not on PATH; install it (Debian: apt-get install prometheus) or use: docker compose up --wait" >&2
  exit 2
fi
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
  echo "live: port $port is in use; choose another one, for example PROMETHEUS_PORT=$((port + 1)) make live" >&2
  exit 2
fi

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
# Remove what only a container needs: the services of compose, and the name of the host, which is this host here.
sed -e '/^scrape_config_files:/,/^$/d' -e 's/replacement: host\.docker\.internal/replacement: 127.0.0.1/' \
  -e '/- host\.docker\.internal:9464/d' -e '/- loadgen:9464/d' prometheus.yml >"$home/prometheus.yml"
ln -s "$PWD/rules" "$PWD/targets" "$home/"
echo "{\"prometheus\": \"$url\"}"
prometheus --config.file="$home/prometheus.yml" --storage.tsdb.path="${PROMETHEUS_DATA:-$home/data}" \
  --web.listen-address="127.0.0.1:$port" --log.level=warn &
trap 'kill %1 2>/dev/null; wait %1; rm -rf "$home"' EXIT
wait %1
