#!/usr/bin/env bash
# kubeadm upgrade with a snapshot of etcd to go back to. It takes what "kubeadm upgrade" takes:
#
#   REQUORUM_CLUSTER=prod ./kubeadm-upgrade.sh apply v1.31.5
#   REQUORUM_CLUSTER=prod ./kubeadm-upgrade.sh node
#
# Nothing is upgraded unless every node holds a fresh snapshot. If the upgrade fails, it says how to go back; the
# snapshot's name is also in $REQUORUM_STATE/<cluster>.pre-upgrade, where post-upgrade-failed.sh finds it.
set -euo pipefail

cluster=${REQUORUM_CLUSTER:?set it to the name of the cluster, as requorum cluster ls shows it}
state=${REQUORUM_STATE:-/var/lib/requorum}
max_age=${REQUORUM_MAX_AGE:-2h} # longer than it takes to upgrade all nodes, so that they share one snapshot

version=$(kubectl version -o json 2>/dev/null | sed -n '/"serverVersion"/,/}/s/.*"gitVersion": *"\([^"]*\)".*/\1/p') || version=
snapshot=$(requorum hook pre-upgrade --cluster "$cluster" --max-age "$max_age" --kubernetes-version "$version")

mkdir -p -- "$state"
printf '%s\n' "$snapshot" >"$state/$cluster.pre-upgrade"
echo "snapshot to go back to: $snapshot" >&2

status=0
kubeadm upgrade "$@" || status=$?
if [[ $status -ne 0 ]]; then
	echo "kubeadm upgrade has failed with $status; to bring the data back: $(dirname -- "$0")/post-upgrade-failed.sh $cluster" >&2
fi
exit "$status"
