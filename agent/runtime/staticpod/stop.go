package staticpod

import (
	"context"
	"fmt"
	"time"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime/cri"
)

// Stop takes etcd's manifest away and waits until its pod has ended and nothing holds its data and ports. What is left
// after the grace, as where the kubelet does not run, is killed by way of the container runtime.
func (r *Runtime) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, _, err := r.read(r.etcd())
	if err != nil {
		return err
	}
	m, err := p.member(r.o.Version) // before anything is changed, for without it it cannot be told that the data is free
	if err != nil {
		return err
	}
	if err := r.hold(r.etcd()); err != nil {
		return fmt.Errorf("take etcd's manifest away: %w", err)
	}
	if err := r.connected(ctx, func(c *cri.Client) error { return r.waitEnded(ctx, c, p) }); err != nil {
		return err
	}
	return datadir.WaitFree(ctx, m.DataDir, m.WALDir, m.ListenURLs())
}

// waitEnded waits until nothing of the pods is left.
func (r *Runtime) waitEnded(ctx context.Context, c *cri.Client, pods ...*pod) error {
	grace := time.NewTimer(r.o.Grace)
	defer grace.Stop()
	late := false
	return c.Wait(ctx, func(s cri.Seen) (waitsFor, err error) {
		sandboxes, containers := s.Left()
		if len(sandboxes)+len(containers) == 0 {
			return nil, nil
		}
		select {
		case <-grace.C:
			late = true
			r.o.Log.Warn("the kubelet has not ended a pod in time; it is killed", "containers", containers, "sandboxes", sandboxes, "grace", r.o.Grace)
		default:
		}
		if late {
			err = c.End(ctx, 0, sandboxes, containers)
		}
		return fmt.Errorf("containers %v and sandboxes %v do not end (see journalctl -u %s)", containers, sandboxes, r.o.Kubelet), err
	}, named(pods)...)
}
