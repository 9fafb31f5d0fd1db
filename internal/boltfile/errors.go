package boltfile

import (
	"errors"
	"fmt"
)

// ErrLocked is in the error of Open when another process has the file open.
var ErrLocked = errors.New("another process has it open")

// DamagedError says that a file cannot be used any more.
type DamagedError struct {
	Path   string
	Reason string
	Advice string // the way out
}

// Error says what to do.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s is damaged: %s; %s", e.Path, e.Reason, e.Advice)
}
