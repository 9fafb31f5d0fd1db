package agent

import (
	"context"
	"time"
)

// wakeFence makes keepFenced look at once.
func (a *agent) wakeFence() {
	select {
	case a.fence <- struct{}{}:
	default:
	}
}

// keepFenced keeps etcd stopped on a node that missed a restore, also when a person or a reboot starts it.
func (a *agent) keepFenced(ctx context.Context) error {
	ticker := time.NewTicker(observeEvery)
	defer ticker.Stop()
	stopped := false // by this process, so that the runtime does not start it
	for {
		var err error
		if stopped, err = a.enforceFence(ctx, stopped); err != nil && ctx.Err() == nil {
			a.log.Error("this node missed a restore, and its etcd cannot be stopped; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.fence:
		case <-ticker.C:
		}
	}
}

// enforceFence stops etcd if the node is fenced and etcd runs on the old data. It tells whether etcd is stopped.
func (a *agent) enforceFence(ctx context.Context, stopped bool) (bool, error) {
	state, err := a.journal.State()
	if err != nil || !state.GetFenced() {
		return false, err
	}
	restored, err := a.journal.Restored()
	if err != nil || restored != nil {
		return false, err // restored data is live: the restore that put it there starts it, and ends the fence
	}
	if stopped {
		m, err := a.runtime.Inspect(ctx)
		if err != nil || !m.Running {
			return true, err
		}
		a.log.Warn("etcd was started although this node missed a restore; it is stopped again")
	}
	if err := a.node.StopEtcd(ctx); err != nil {
		return false, err
	}
	return true, nil
}
