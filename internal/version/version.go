// Package version tells which requorum this is.
package version

import "runtime/debug"

// release is set by the linker for released binaries.
var release string

// String returns the released version, or the module version that Go recorded, or "dev".
func String() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
