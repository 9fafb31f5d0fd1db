//go:build faultinject

package simulated_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// errDead is what everything answers that a killed process still tries.
var errDead = errors.New("this process is dead")

// process is a controller or an agent. Once it is killed nothing that it still does has any effect.
type process struct {
	name   string
	dead   atomic.Bool
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

func newProcess(name string) *process {
	p := &process{name: name}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	return p
}

// live fails once the process is dead.
func (p *process) live() error {
	if p.dead.Load() {
		return errDead
	}
	return nil
}

// wait lets simulated time pass. No timer is made where none has to: one that is due at once has ended the process
// under the race detector, in the runtime (Go 1.26.8, maybeRunChan in a bubble).
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// work lets time pass in a process, which may die meanwhile.
func (p *process) work(ctx context.Context, d time.Duration) error {
	err := wait(ctx, d)
	if dead := p.live(); dead != nil {
		return dead
	}
	return err
}
