package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/durable"
)

const (
	desiredFile = "desired.json"
	pidFile     = "etcd.pid.json"
	logFile     = "etcd.log"
)

// state is what etcd should be.
type state string

const (
	running state = "running"
	stopped state = "stopped"
)

// desired is the durable wish for etcd's state.
type desired struct {
	State state  `json:"state"`
	Join  string `json:"join,omitempty"` // initial cluster to join; empty for a plain start
}

// readDesired returns the wish. On a node where nobody ever stopped or started etcd, it should run.
func (r *Runtime) readDesired() (desired, error) {
	d := desired{State: running}
	_, err := durable.ReadJSON(filepath.Join(r.o.Dir, desiredFile), &d)
	return d, err
}

func (r *Runtime) writeDesired(d desired) error {
	if err := durable.WriteJSON(filepath.Join(r.o.Dir, desiredFile), d); err != nil {
		return fmt.Errorf("note that etcd should be %s: %w", d.State, err)
	}
	return nil
}

// record identifies the etcd process that was started last.
type record struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // ticks after boot; with BootID it tells a recycled PID
	BootID    string `json:"boot_id"`
	Restarts  int    `json:"restarts"`   // since it was asked to start
	LogOffset int64  `json:"log_offset"` // where this process's lines begin in the log
}

// readRecord returns nil if there is none.
func (r *Runtime) readRecord() (*record, error) {
	rec := new(record)
	found, err := durable.ReadJSON(filepath.Join(r.o.Dir, pidFile), rec)
	if !found {
		return nil, err
	}
	return rec, nil
}

func (r *Runtime) writeRecord(rec record) error {
	if err := durable.WriteJSON(filepath.Join(r.o.Dir, pidFile), rec); err != nil {
		return fmt.Errorf("note etcd's process: %w", err)
	}
	return nil
}

// lockInterval is how often a lock that another agent holds is tried.
const lockInterval = 20 * time.Millisecond

// lockFile locks the file at path until it is closed.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	again := time.NewTicker(lockInterval)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("another agent is starting or stopping etcd (%s is locked): %w", path, context.Cause(ctx)), f.Close())
		}
	}
}
