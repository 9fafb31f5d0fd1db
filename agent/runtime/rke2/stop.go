package rke2

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/cri"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

// Stop stops RKE2 and keeps it stopped, then ends the pods of the control plane and of etcd, and returns once nothing holds
// etcd's data and ports. Other containers of the node go on running.
func (r *Runtime) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, err := r.unit.Inspect(ctx) // before anything is changed, for without it it cannot be told that the data is free
	if err != nil {
		return err
	}
	if err := r.fault("stop the unit"); err != nil {
		return err
	}
	if err := r.unit.StopUnit(ctx); err != nil {
		return err
	}
	if err := r.fault("run containerd"); err != nil {
		return err
	}
	if err := r.withContainerd(ctx, m, func(c *cri.Client) error { return r.endPods(ctx, c) }); err != nil {
		return fmt.Errorf("end the pods of RKE2's control plane: %w", err)
	}
	return datadir.WaitFree(ctx, m.DataDir, m.WALDir, m.ListenURLs())
}

// endPods notes which containers of etcd's there are, to which without a kubelet none comes. Then it ends what writes to
// etcd, and etcd.
func (r *Runtime) endPods(ctx context.Context, c *cri.Client) error {
	s, err := c.Look(ctx, etcdPod)
	if err != nil {
		return err
	}
	if err := r.writeState(state{Stopped: s.IDs(etcd)}); err != nil {
		return err
	}
	if err := r.end(ctx, c, controlPlane()...); err != nil {
		return err
	}
	return r.end(ctx, c, etcdPod)
}

// end ends pods until nothing of them is left.
func (r *Runtime) end(ctx context.Context, c *cri.Client, pods ...cri.Pod) error {
	if err := r.fault("end pods"); err != nil {
		return err
	}
	return c.Wait(ctx, func(s cri.Seen) (waitsFor, err error) {
		sandboxes, containers := s.Left()
		if len(sandboxes)+len(containers) == 0 {
			return nil, nil
		}
		return fmt.Errorf("containers %v and sandboxes %v do not end", containers, sandboxes), c.End(ctx, r.o.Grace, sandboxes, containers)
	}, pods...)
}

// containerd is the unit in which RKE2's containerd is run while RKE2 is stopped.
const containerd = "requorum-rke2-containerd.service"

// withContainerd runs do with a connection to the container runtime while RKE2 is stopped. That one is RKE2's child, so it is
// run for as long as do takes, as RKE2 runs it; not by the agent, whose view of the file systems may be restricted. A
// container runtime that RKE2 was told to use instead runs by itself. Where RKE2 never ran there is nothing to connect to.
func (r *Runtime) withContainerd(ctx context.Context, m runtime.Member, do func(*cri.Client) error) error {
	if r.o.Endpoint != DefaultEndpoint {
		return r.connected(ctx, do)
	}
	root, socket := rootOf(m), strings.TrimPrefix(r.o.Endpoint, "unix://")
	program := filepath.Join(root, "bin/containerd")
	if _, err := os.Stat(program); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	t := systemd.Transient{
		Unit: containerd, Description: "containerd of RKE2, for requorum to stop etcd and the control plane", Conflicts: r.o.Unit,
		Command: []string{
			program, "-c", filepath.Join(root, "agent/etc/containerd/config.toml"), "-a", socket,
			"--state", filepath.Dir(socket), "--root", filepath.Join(root, "agent/containerd"),
		},
		Env: []string{"PATH=" + filepath.Join(root, "bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	return t.While(ctx, func() error {
		return r.connected(ctx, func(c *cri.Client) error {
			if err := r.waitAnswers(ctx, c); err != nil {
				return fmt.Errorf("%w; see journalctl -u %s", err, containerd)
			}
			return do(c)
		})
	})
}

// waitAnswers waits until the container runtime answers.
func (r *Runtime) waitAnswers(ctx context.Context, c *cri.Client) error {
	look := time.NewTicker(cri.LookInterval)
	defer look.Stop()
	for {
		err := c.Answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return err
		}
	}
}
