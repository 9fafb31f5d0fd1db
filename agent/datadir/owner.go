package datadir

import (
	"os"
	"syscall"
)

// Owner returns the user and group that a data directory belongs to: root where it is not there.
func Owner(dataDir string) (uid, gid int) {
	info, err := os.Stat(dataDir)
	if err != nil {
		return 0, 0
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid), int(stat.Gid)
	}
	return 0, 0
}
