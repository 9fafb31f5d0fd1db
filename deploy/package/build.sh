#!/usr/bin/env bash
# Makes the .deb and the .rpm in dist/, or in DIST, from a binary that is built. make packages calls it.
# usage: build.sh BINARY SBOM VERSION NFPM...   VERSION is git describe's; NFPM is the command that runs nfpm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

binary=$1 sbom=$2 version=$3
shift 3

# package_version turns git describe's v1.2.3, v1.2.3-rc.1, v1.2.3-5-g0123abc and 0123abc, each with -dirty or without,
# into what both dpkg and rpm sort in the order of the commits.
package_version() {
	local v=$1 dirty='' commits=''
	[[ $v == *-dirty ]] && dirty=+dirty
	v=${v%-dirty}
	if [[ $v =~ ^(.*)-([0-9]+)-g([0-9a-f]+)$ ]]; then
		v=${BASH_REMATCH[1]} commits=+${BASH_REMATCH[2]}.g${BASH_REMATCH[3]}
	fi
	if [[ $v =~ ^v?([0-9]+\.[0-9]+\.[0-9]+)(-([0-9A-Za-z.]+))?$ ]]; then
		echo "${BASH_REMATCH[1]}${BASH_REMATCH[3]:+~${BASH_REMATCH[3]}}$commits$dirty"
	else # no tag yet: older than any release
		echo "0.0.0~$(TZ=UTC date -d "$PACKAGE_DATE" +%Y%m%d%H%M%S).$v$dirty"
	fi
}

PACKAGE_DATE=$(TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd)
PACKAGE_VERSION=$(package_version "$version")
PACKAGE_ARCH=$(go env GOARCH)
STAGE=$(mktemp -d)
export PACKAGE_DATE PACKAGE_VERSION PACKAGE_ARCH STAGE
trap 'rm -rf "$STAGE"' EXIT

cp "$binary" "$STAGE/requorum"
cp "$sbom" "$STAGE/sbom.cdx.json"
# Another architecture's binary cannot be asked for its completions.
run=("$binary")
[[ $PACKAGE_ARCH == $(go env GOHOSTARCH) ]] || run=(env "GOARCH=$(go env GOHOSTARCH)" go run ./cmd/requorum)
"${run[@]}" completion bash >"$STAGE/requorum.bash"
"${run[@]}" completion zsh >"$STAGE/_requorum"
"${run[@]}" completion fish >"$STAGE/requorum.fish"
gzip -9n <deploy/package/requorum.8 >"$STAGE/requorum.8.gz"
gzip -9n <CHANGELOG.md >"$STAGE/CHANGELOG.md.gz"
cat >"$STAGE/changelog.yaml" <<EOF
- semver: $PACKAGE_VERSION
  date: $PACKAGE_DATE
  packager: The requorum maintainers <maintainers@requorum.example.org>
  deb: {urgency: medium, distributions: [unstable]}
  changes:
    - note: The changes are in /usr/share/doc/requorum/changelog.gz.
EOF
fill_in() { # nfpm fills in some fields, but not all that are needed here
	sed -e "s|\$STAGE|$STAGE|g; s|\$PACKAGE_ARCH|$PACKAGE_ARCH|g; s|\$PACKAGE_VERSION|$PACKAGE_VERSION|g; s|\$PACKAGE_DATE|$PACKAGE_DATE|g"
}
fill_in <deploy/package/nfpm.yaml >"$STAGE/nfpm.yaml"
dist=${DIST:-dist}
mkdir -p "$dist"
for format in deb rpm; do
	"$@" package --config "$STAGE/nfpm.yaml" --packager "$format" --target "$dist/"
done
