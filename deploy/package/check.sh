#!/usr/bin/env bash
# Checks the units, the scripts and the newest packages in dist/. A tool that is not there is said, and fails with CI=true.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

have() {
	command -v "$1" >/dev/null && return
	[[ ${CI:-} != true ]] || { echo "check-packages: $1 is not installed" >&2; exit 1; }
	echo "check-packages: SKIPPED what needs $1, which is not installed"
	return 1
}

newest() {
	local files=(dist/requorum*."$1")
	[[ -e ${files[0]} ]] || { echo "check-packages: there is no .$1 in dist/, run make packages" >&2; exit 1; }
	# shellcheck disable=SC2012 # the names are ours
	ls -t "${files[@]}" | head -n 1
}

if have shellcheck; then
	shellcheck deploy/package/*.sh deploy/package/{deb,rpm}/*
fi

if have systemd-analyze; then
	root=$(mktemp -d)
	trap 'rm -rf "$root"' EXIT
	for unit in controller agent; do
		# The binary is not installed here; the one that is built is looked for instead.
		sed "s|/usr/bin/requorum|$PWD/bin/requorum|" "deploy/package/requorum-$unit.service" >"$root/requorum-$unit.service"
	done
	systemd-analyze verify --man=no "$root"/*.service
	# What a process could still do, from 0 for nothing to 100; docs/install.md names the figures.
	systemd-analyze security --offline=yes --no-pager --threshold=16 "$root/requorum-controller.service" | tail -n 1
	systemd-analyze security --offline=yes --no-pager --threshold=37 "$root/requorum-agent.service" | tail -n 1
fi

if have lintian; then
	user=()
	[[ $(id -u) -ne 0 ]] || user=(--allow-root)
	lintian "${user[@]}" --fail-on error "$(newest deb)"
fi

if have rpm; then
	rpm --checksig --nosignature "$(newest rpm)"
fi
echo 'check-packages: all good'
