#!/usr/bin/env bash
# Bring a cluster's data back after an upgrade has failed: from the snapshot that is named, or else from the one that
# kubeadm-upgrade.sh has noted.
#
#   ./post-upgrade-failed.sh prod
#   ./post-upgrade-failed.sh prod pre-upgrade-prod-20260304T120000Z-ab12cd
#
# Put the old version of etcd and of the control plane back first: data is not restored by another minor version of etcd
# than it was saved from, and what is refused says so. Everything that was written since the snapshot is gone then; it
# is kept in a safety snapshot.
set -euo pipefail

cluster=${1:?usage: $0 CLUSTER [SNAPSHOT]}
noted=${REQUORUM_STATE:-/var/lib/requorum}/$cluster.pre-upgrade
snapshot=${2:-}
if [[ -z $snapshot ]]; then
	[[ -s $noted ]] || { echo "$noted does not name a snapshot; requorum snapshot ls --cluster $cluster shows them" >&2; exit 2; }
	snapshot=$(<"$noted")
fi

requorum restore --cluster "$cluster" --snapshot "$snapshot" --plan
exec requorum restore --cluster "$cluster" --snapshot "$snapshot" --yes
