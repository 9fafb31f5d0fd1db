#!/usr/bin/env bash
# The same without requorum's command, in two calls with grpcurl: where only that can be installed, or as the beginning of
# a client of your own. It takes a snapshot each time, and ends with 0 only if every node holds it. Its name is all that
# stands on stdout.
#
#   REQUORUM_DIR=/etc/requorum ./grpcurl.sh requorum.example.org:7079 prod
#
# REQUORUM_DIR holds ca.crt, client.crt and client.key of an operator (requorum access create).
set -euo pipefail

controller=${1:?usage: $0 HOST:PORT CLUSTER} cluster=${2:?usage: $0 HOST:PORT CLUSTER}
dir=${REQUORUM_DIR:-/etc/requorum}

call() {
	grpcurl -cacert "$dir/ca.crt" -cert "$dir/client.crt" -key "$dir/client.key" -d "$2" "$controller" "requorum.v1.$1"
}
field() { # the first "name": "value" in an answer
	sed -n "s/^ *\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1
}

started=$(call SnapshotService/SaveSnapshot "{\"cluster\": \"$cluster\", \"kind\": \"SNAPSHOT_KIND_PRE_UPGRADE\", \"labels\": {\"pre-upgrade\": \"true\"}}")
ended=$(call OperationService/WaitOperation "{\"id\": \"$(field id <<<"$started")\", \"or_needs_attention\": true}")
state=$(grep -o 'OPERATION_STATE_[A-Z]*' <<<"$ended" | head -n 1)
if [[ $state != OPERATION_STATE_SUCCEEDED ]]; then
	echo "the snapshot was not taken: $ended" >&2
	exit 1
fi
field snapshot <<<"$ended"
