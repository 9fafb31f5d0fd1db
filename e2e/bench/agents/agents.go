package agents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Options say how much is measured.
type Options struct {
	Binary string        // requorum as it is released, an absolute path
	Dir    string        // for everything; what is made in it is removed again
	Agents int           // how many
	Rest   time.Duration // how long the controller is watched at rest, after a quarter of that without being watched
}

// Result is what was measured.
type Result struct {
	Enrolled time.Duration `json:"enrolled_ns"` // until all were enrolled and had a session for the first time
	Memory   int64         `json:"memory_bytes"`
	Peak     int64         `json:"peak_memory_bytes"` // while all enrolled, and while all came back, whichever is more
	Core     float64       `json:"core"`              // part of a core that the controller takes at rest
	Back     time.Duration `json:"back_ns"`           // from starting a controller that was killed until all have a session again
	Lost     int64         `json:"lost_sessions"`     // at rest, which should be none
}

// Measure lets agents connect to a controller, watches it at rest, kills it, starts it again, and ends everything.
func Measure(ctx context.Context, o Options) (_ *Result, err error) {
	dir, err := os.MkdirTemp(o.Dir, "agents-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	began := time.Now()
	f, err := newFleet(ctx, o.Binary, dir, o.Agents)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	r := &Result{Enrolled: time.Since(began)}
	if err := f.rest(ctx, o.Rest, r); err != nil {
		return nil, err
	}
	return r, f.killAndReturn(ctx, r)
}

// rest watches the controller while nothing happens but heartbeats.
func (f *fleet) rest(ctx context.Context, watch time.Duration, r *Result) error {
	if err := sleep(ctx, watch/4); err != nil { // for what it still does of the agents' arrival
		return err
	}
	pid, lost := f.controller.PID(), f.lost.Load()
	before, err := processorTime(pid)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := sleep(ctx, watch); err != nil {
		return err
	}
	after, err := processorTime(pid)
	if err != nil {
		return err
	}
	r.Core = (after - before).Seconds() / time.Since(began).Seconds()
	r.Lost = f.lost.Load() - lost
	r.Memory, r.Peak, err = memory(pid)
	return err
}

// killAndReturn kills the controller, starts it again and waits until all agents are back.
func (f *fleet) killAndReturn(ctx context.Context, r *Result) error {
	if err := f.controller.Kill(); err != nil {
		return err
	}
	began := time.Now()
	if err := f.controller.Start(); err != nil {
		return err
	}
	gone := func() bool { return f.there.Load() == 0 || f.lost.Load()-r.Lost >= int64(len(f.agents)) }
	if err := f.until(ctx, "the agents to notice", gone); err != nil {
		return err
	}
	if err := f.gathered(ctx); err != nil {
		return err
	}
	r.Back = time.Since(began)
	_, peak, err := memory(f.controller.PID())
	r.Peak = max(r.Peak, peak)
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("watch the controller: %w", context.Cause(ctx))
	}
}
