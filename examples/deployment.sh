#!/usr/bin/env bash
# A federation that is deployed, audited: one SuperLink and two SuperNodes, real processes on loopback.
#
#   bash examples/deployment.sh MY_APP                          both sides watched
#   bash examples/deployment.sh MY_APP --server-only \
#     --model my_app.task:build_model --image-shape 3,32,32 --input-range=0,1
#
# With --server-only the SuperNodes run the app's own code, as they would at your clients: they need no
# fl-audit, and what they trained on is not seen. The reconstructions are then pictures to look at; have them
# graded with --truth my_app.audit:images_of, a function of client and round that gives images and labels.
#
# SuperLink and SuperNodes are started as Flower's guide says, without TLS, which only suits loopback. Against
# your own, give fl-audit a connection of your Flower configuration: --superlink NAME. PORT chooses the ports.
set -euo pipefail

app=${1:?say which app: bash examples/deployment.sh MY_APP}
shift
port=${PORT:-8000}
logs=$(mktemp -d)
export FLWR_HOME="$logs/flower" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1

pids=()
stop() {
  kill "${pids[@]}" 2>/dev/null || true
  wait || true
  rm -rf "$logs"
}
trap stop EXIT

flower-superlink --insecure --host 127.0.0.1 --port "$port" >"$logs/superlink.log" 2>&1 &
pids+=($!)
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
  kill -0 "${pids[0]}" || { cat "$logs/superlink.log"; exit 1; }
  sleep 0.2
done
for client in 0 1; do
  flower-supernode --insecure --superlink "127.0.0.1:$port" --host 127.0.0.1 --port "$((port + 1 + client))" \
    --node-config "partition-id=$client num-partitions=2" >"$logs/supernode-$client.log" 2>&1 &
  pids+=($!)
done

fl-audit app "$app" --engine flwr --superlink "127.0.0.1:$port" --clients 2 "$@"
