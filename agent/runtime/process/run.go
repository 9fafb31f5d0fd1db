package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	firstRestart = time.Second
	maxRestart   = 30 * time.Second
	// steadyAfter is how long etcd must live for the next restart to count as the first.
	steadyAfter = time.Minute
)

// Run supervises etcd until ctx ends, and leaves it running then: it starts etcd if it should run,
// waits for its end, and starts it again, each time later if it ends soon. It returns nil when ctx ends.
func (r *Runtime) Run(ctx context.Context) error {
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = firstRestart, maxRestart
	for ctx.Err() == nil {
		began := time.Now()
		ended, err := r.superviseOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) >= steadyAfter {
			delay.Reset()
		}
		if err != nil {
			r.o.Log.Error("etcd cannot be supervised; trying again", "error", err)
		}
		if ended || err != nil {
			r.pause(ctx, delay.NextBackOff())
		}
	}
	return nil
}

// superviseOnce waits for one change: etcd's end, which it reports, or a new wish.
func (r *Runtime) superviseOnce(ctx context.Context) (ended bool, err error) {
	rec, err := r.wanted(ctx)
	if err != nil {
		return false, err
	}
	if rec == nil { // etcd should not run
		select {
		case <-r.changed:
		case <-ctx.Done():
		}
		return false, nil
	}
	h, err := rec.open()
	if err != nil {
		return false, err
	}
	if h != nil {
		err = errors.Join(h.wait(ctx), h.close())
	}
	if err != nil {
		return false, err
	}
	d, err := r.readDesired()
	if err != nil || d.State == stopped {
		return false, err
	}
	r.o.Log.Error("etcd ended by itself", "pid", rec.PID, "log", r.tail(rec))
	return true, nil
}

// wanted returns the living etcd process, which it starts if there is none, or nil if etcd should not run.
func (r *Runtime) wanted(ctx context.Context) (*record, error) {
	var rec *record
	err := r.exclusively(ctx, func() error {
		d, err := r.readDesired()
		if err != nil || d.State == stopped {
			return err
		}
		if rec, err = r.find(); err != nil {
			return err
		}
		if rec != nil {
			return r.noteAgain(rec)
		}
		restarts, err := r.restarts()
		if err != nil {
			return err
		}
		if err := r.spawn(d, restarts); err != nil {
			return err
		}
		rec, err = r.readRecord()
		return err
	})
	return rec, err
}

// noteAgain writes a process down that could not be written down when it was started, as on a full disk.
func (r *Runtime) noteAgain(rec *record) error {
	noted, err := r.readRecord()
	if err != nil || noted != nil && *noted == *rec {
		return err
	}
	return r.writeRecord(*rec)
}

// restarts returns how often etcd will have been restarted once it is started now. A reboot is no fault of etcd's.
func (r *Runtime) restarts() (int, error) {
	last, err := r.readRecord()
	if err != nil || last == nil {
		return 0, err
	}
	boot, err := bootID()
	if err != nil || boot != last.BootID {
		return 0, err
	}
	return last.Restarts + 1, nil
}

// pause waits before etcd is started again, or until somebody asks for a change.
func (r *Runtime) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.changed:
	case <-ctx.Done():
	}
}

// Alive returns nil while the process that Start started lives. One that Run had to start again does
// not count: whoever waits for health should know at the first end.
func (r *Runtime) Alive(context.Context) error {
	rec, err := r.find()
	if err != nil {
		return err
	}
	last, err := r.readRecord()
	switch {
	case err != nil:
		return err
	case last == nil && rec == nil:
		return errors.New("etcd was not started")
	case rec == nil:
		return fmt.Errorf("etcd has ended; its last lines:\n%s", r.tail(last))
	case rec.Restarts > 0:
		return fmt.Errorf("etcd has ended %d times since it was started; its last lines:\n%s", rec.Restarts, r.tailBefore(rec))
	}
	return nil
}
