package datadir

import (
	"path/filepath"
	"time"

	"github.com/requorum/requorum/internal/durable"
)

const (
	markerName     = "requorum-quarantine.json"
	completionName = "requorum-staged.json"
)

// marker says, in a quarantine directory, that all the old data of the slot is there and that from now
// on the slot's directory holds restored data. It is also what a person reads who finds the directory.
type marker struct {
	What        string    `json:"what"`
	RestoreID   string    `json:"restore_id"`
	From        string    `json:"from"` // directory that the old data came from
	Quarantined time.Time `json:"quarantined"`
	Missing     bool      `json:"missing"`  // From was not there
	Old         []string  `json:"old"`      // entries that were in From
	Restored    []string  `json:"restored"` // entries that take their place
}

// completion says, in a staging directory, that everything is staged.
type completion struct {
	RestoreID string   `json:"restore_id"`
	Entries   []string `json:"entries"`
}

func isMarker(name string) bool {
	switch name {
	case markerName, markerName + durable.PartSuffix, completionName, completionName + durable.PartSuffix:
		return true
	}
	return false
}

// readMarker returns nil if there is none.
func readMarker(dir string) (*marker, error) {
	m := new(marker)
	found, err := durable.ReadJSON(filepath.Join(dir, markerName), m)
	if !found {
		return nil, err
	}
	return m, nil
}

// readCompletion returns nil if there is none.
func readCompletion(dir string) (*completion, error) {
	c := new(completion)
	found, err := durable.ReadJSON(filepath.Join(dir, completionName), c)
	if !found {
		return nil, err
	}
	return c, nil
}
