#!/usr/bin/env bash
# Builds the image of a host for tests: Debian with systemd as init. Its tag is the checksum of this script, so that it
# is built again only when the script has changed. Prints the image's name. Needs root, debootstrap and a Docker engine.
# DEBIAN_MIRROR names another mirror than debootstrap's.
set -euo pipefail

suite=bookworm
packages=(
	systemd systemd-sysv dbus # what makes it a host
	iproute2 iputils-ping procps util-linux # tc, and what tests look with
	ca-certificates
	docker.io # an engine for hosts that run etcd in containers; tests start it where they need it
)

recipe=$(sha256sum "$0")
image=requorum-host:${recipe:0:12}

# Test packages run side by side; one builds, the others wait for it.
exec 9>"${TMPDIR:-/tmp}/requorum-host-image.lock"
flock 9

if docker image inspect "$image" >/dev/null 2>&1; then
	echo "$image"
	exit
fi
for tool in debootstrap tar; do
	command -v "$tool" >/dev/null || { echo "$tool is not installed" >&2; exit 1; }
done

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
list=$(IFS=,; echo "${packages[*]}")
debootstrap --variant=minbase --include="$list" "$suite" "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$root.log" 2>&1 ||
	{ tail -n 20 "$root.log" >&2; exit 1; }
rm -f "$root.log"

# A container has neither consoles nor devices of its own, and Docker writes its resolv.conf.
ln -sf /dev/null "$root/etc/systemd/system/console-getty.service"
ln -sf /dev/null "$root/etc/systemd/system/getty@.service"
ln -sf /dev/null "$root/etc/systemd/system/systemd-networkd-wait-online.service"
for unit in docker.service containerd.service docker.socket; do
	rm -f "$root"/etc/systemd/system/*.wants/"$unit"
done
mkdir -p "$root/etc/docker"
# Containers use the host's network, and what holds the engine's files need not be the host's root.
echo '{"bridge": "none", "iptables": false, "ip-forward": false}' >"$root/etc/docker/daemon.json"
# Each host gets an ID of its own at its first boot.
: >"$root/etc/machine-id"
# The journal of a test is to outlive a reboot.
mkdir -p "$root/var/log/journal"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}

tar -C "$root" --one-file-system -c . |
	docker import --change 'CMD ["/sbin/init"]' --change 'ENV container=docker' - "$image" >/dev/null
echo "$image"
