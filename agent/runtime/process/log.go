package process

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/internal/durable"
)

const (
	tailBytes = 8 << 10
	tailLines = 12
)

// openLog opens etcd's log for appending and returns where new lines will begin. A log that has grown
// too large is set aside first, in place of the one before.
func (r *Runtime) openLog() (f *os.File, offset int64, err error) {
	path := filepath.Join(r.o.Dir, logFile)
	if info, err := os.Stat(path); err == nil && info.Size() >= r.o.LogLimit {
		if err := durable.Rename(path, path+".1"); err != nil {
			return nil, 0, err
		}
	}
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	offset, err = f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, offset, nil
}

// tail returns the last lines that the process logged, or why they cannot be read.
func (r *Runtime) tail(rec *record) string { return r.lines(rec.LogOffset, math.MaxInt64) }

// tailBefore returns the last lines that were logged before the process was started.
func (r *Runtime) tailBefore(rec *record) string { return r.lines(0, rec.LogOffset) }

func (r *Runtime) lines(from, to int64) string {
	lines, err := tailOf(filepath.Join(r.o.Dir, logFile), from, to)
	if err != nil {
		return fmt.Sprintf("(its log cannot be read: %v)", err)
	}
	return lines
}

func tailOf(path string, from, to int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	end := min(to, info.Size())
	begin := max(from, end-tailBytes)
	data := make([]byte, max(end-begin, 0))
	if _, err := f.ReadAt(data, begin); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(len(lines)-tailLines, 0):], "\n"), nil
}
