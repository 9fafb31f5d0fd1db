package process

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/internal/durable"
)

var (
	errGrace    = errors.New("etcd did not end in time")
	errReleased = errors.New("etcd has let go of its data")
)

// Stop notes that etcd should be stopped, ends it, kills it where it lingers longer than the grace, and
// waits until nothing holds its data and ports.
func (r *Runtime) Stop(ctx context.Context) error {
	defer r.wake()
	return r.exclusively(ctx, func() error {
		if err := r.writeDesired(desired{State: stopped}); err != nil {
			return err
		}
		rec, err := r.find()
		if err != nil {
			return err
		}
		if rec != nil {
			if err := r.end(ctx, rec); err != nil {
				return fmt.Errorf("stop etcd: %w", err)
			}
		}
		if err := durable.Remove(filepath.Join(r.o.Dir, pidFile)); err != nil {
			return err
		}
		return r.waitFree(ctx)
	})
}

// end ends one process, by force if need be.
func (r *Runtime) end(ctx context.Context, rec *record) error {
	h, err := rec.open()
	if err != nil || h == nil {
		return err
	}
	held := r.holdsData(ctx)
	if err = h.signal(unix.SIGTERM); err == nil {
		err = r.outlast(ctx, h, held)
	}
	return errors.Join(err, h.close())
}

// outlast waits until a process that was told to end has done so. One that has let go of its data can lose nothing
// any more, and is not waited for: etcd keeps its peers' idle connections for up to a second longer (embed.Etcd.Close).
func (r *Runtime) outlast(ctx context.Context, h *handle, held bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	patience, stop := context.WithTimeoutCause(ctx, r.o.Grace, errGrace)
	defer stop()
	ended, release := context.WithCancelCause(patience)
	if held {
		watch.Go(func() {
			if r.waitReleased(ended) == nil {
				release(errReleased)
			}
		})
	}
	err := h.wait(ended)
	release(nil)
	switch {
	case errors.Is(err, errGrace):
		r.o.Log.Warn("etcd did not end in time and is killed", "pid", h.rec.PID, "grace", r.o.Grace)
	case errors.Is(err, errReleased):
		r.o.Log.Debug("etcd has let go of its data and is not waited for", "pid", h.rec.PID)
	default:
		return err
	}
	if err := h.kill(); err != nil {
		return err
	}
	if err := h.wait(ctx); err != nil {
		return fmt.Errorf("process %d does not end although it was killed: %w", h.rec.PID, err)
	}
	return nil
}

// holdsData tells whether somebody is seen to hold the data directory: the process that is to end, as a rule. Where
// that cannot be told, as on a disk that fails, the process is to end all the same.
func (r *Runtime) holdsData(ctx context.Context) bool {
	m, err := r.configured()
	if err == nil {
		err = datadir.Free(ctx, m.DataDir, m.WALDir, nil)
	}
	var held *datadir.HeldError
	if err != nil && !errors.As(err, &held) {
		r.o.Log.Warn("it cannot be told whether etcd holds its data", "error", err)
	}
	return held != nil
}

// waitReleased waits until nothing holds the data directory; ports do not count.
func (r *Runtime) waitReleased(ctx context.Context) error {
	m, err := r.configured()
	if err != nil {
		return err
	}
	return datadir.WaitFree(ctx, m.DataDir, m.WALDir, nil)
}
