// Package critest has what stand-ins for container runtimes share. It is for tests only.
package critest

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Log writes lines as the CRI wants them in a container's log.
type Log struct {
	To   io.Writer
	rest string // of a line that is not whole yet
}

// Write takes what a process writes.
func (l *Log) Write(b []byte) (int, error) {
	l.rest += string(b)
	for {
		line, rest, whole := strings.Cut(l.rest, "\n")
		if !whole {
			return len(b), nil
		}
		l.rest = rest
		if _, err := fmt.Fprintf(l.To, "%s stderr F %s\n", time.Now().UTC().Format(time.RFC3339Nano), line); err != nil {
			return 0, err
		}
	}
}
