package process

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/durable"
)

var errGrace = errors.New("etcd did not end in time")

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
	err = h.signal(unix.SIGTERM)
	if err == nil {
		err = r.outlast(ctx, h)
	}
	return errors.Join(err, h.close())
}

func (r *Runtime) outlast(ctx context.Context, h *handle) error {
	grace, cancel := context.WithTimeoutCause(ctx, r.o.Grace, errGrace)
	defer cancel()
	err := h.wait(grace)
	if !errors.Is(err, errGrace) {
		return err
	}
	r.o.Log.Warn("etcd did not end in time and is killed", "pid", h.rec.PID, "grace", r.o.Grace)
	if err := h.kill(); err != nil {
		return err
	}
	if err := h.wait(ctx); err != nil {
		return fmt.Errorf("process %d does not end although it was killed: %w", h.rec.PID, err)
	}
	return nil
}
