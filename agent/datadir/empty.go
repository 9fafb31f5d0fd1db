package datadir

import (
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/agent/runtime"
)

// Empty tells whether a member has no data at all: neither live nor staged nor kept as old. In the middle
// of a swap nothing is live.
func Empty(m runtime.Member) (bool, error) {
	const anyRestore = "any"
	d, err := Open(m, anyRestore)
	if err != nil {
		return false, err
	}
	for _, s := range d.slots {
		live, err := s.entries(s.dir)
		if err != nil || len(live) > 0 {
			return false, err
		}
		for _, aside := range []string{s.staging, s.quarantine} {
			found, err := filepath.Glob(escapeGlob(strings.TrimSuffix(aside, anyRestore)) + "*")
			if err != nil || len(found) > 0 {
				return false, err
			}
		}
	}
	return true, nil
}
