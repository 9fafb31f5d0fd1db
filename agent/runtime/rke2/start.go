package rke2

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/requorum/requorum/agent/runtime/cri"
)

// Start starts RKE2, which starts the control plane as well, and returns once etcd's container runs or has run.
func (r *Runtime) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.readState()
	if err != nil {
		return err
	}
	if err := r.fault("start the unit"); err != nil {
		return err
	}
	if err := r.unit.Start(ctx); err != nil {
		return err
	}
	return r.connected(ctx, func(c *cri.Client) error { return r.waitStarted(ctx, c, s) })
}

// waitStarted waits until there is a container of etcd's that runs, or one that has ended and not by Stop, and notes which.
// The container runtime starts with RKE2, and may need a while to answer.
func (r *Runtime) waitStarted(ctx context.Context, c *cri.Client, before state) error {
	look := time.NewTicker(cri.LookInterval)
	defer look.Stop()
	for {
		s, err := c.Look(ctx, etcdPod)
		k := s.Running(etcd)
		if k == nil {
			k = s.Ended(etcd, "") // Alive tells
			if k != nil && slices.Contains(before.Stopped, k.GetId()) {
				k = nil
			}
		}
		if k != nil {
			return r.writeState(state{Started: k.GetId(), Stopped: before.Stopped})
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			if err == nil {
				err = context.Cause(ctx)
			}
			return fmt.Errorf("RKE2 does not start etcd: %w; see journalctl -u %s", err, r.o.Unit)
		}
	}
}
