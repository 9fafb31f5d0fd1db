package etcdfile

import (
	"fmt"
	"strings"
)

// maxProblems is how many problems a CorruptError lists.
const maxProblems = 10

// CorruptError says that a file is not a readable etcd database.
type CorruptError struct {
	Path     string
	Problems []string // the first of them
	More     int      // how many are not listed
}

// Error lists the problems.
func (e *CorruptError) Error() string {
	text := fmt.Sprintf("%s is damaged or no etcd database: %s", e.Path, strings.Join(e.Problems, "; "))
	if e.More > 0 {
		text += fmt.Sprintf("; and %d more", e.More)
	}
	return text + "; use another copy"
}

func (e *CorruptError) add(format string, args ...any) {
	if len(e.Problems) == maxProblems {
		e.More++
		return
	}
	e.Problems = append(e.Problems, fmt.Sprintf(format, args...))
}

func corrupt(path, format string, args ...any) error {
	e := &CorruptError{Path: path}
	e.add(format, args...)
	return e
}
