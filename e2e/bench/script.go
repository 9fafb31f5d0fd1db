package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/e2e/bench/probe"
)

// restartByScript is the bare stop and start.
func (b *Bed) restartByScript(ctx context.Context) error {
	begun := time.Now()
	if err := b.stopAll(ctx); err != nil {
		return err
	}
	b.stopTook = time.Since(begun)
	return b.startAll()
}

// restoreByScript is what people do by hand: stop all, copy the snapshot to each, restore it there, start all.
func (b *Bed) restoreByScript(ctx context.Context) error {
	if err := b.stopAll(ctx); err != nil {
		return err
	}
	b.scripts++
	var nodes errgroup.Group
	for _, m := range b.members {
		nodes.Go(func() error { return b.restoreMember(ctx, m) })
	}
	if err := nodes.Wait(); err != nil {
		return err
	}
	return b.startAll()
}

// restoreMember restores one member with etcd's own tool. Its old data is kept aside.
func (b *Bed) restoreMember(ctx context.Context, m *member) error {
	copied := m.dataDir + ".snapshot"
	if err := command(ctx, "cp", b.seed, copied); err != nil {
		return err
	}
	if err := os.Rename(m.dataDir, fmt.Sprintf("%s.old-%d", m.dataDir, b.scripts)); err != nil {
		return err
	}
	return command(ctx, b.r.Settings.Etcdutl, "snapshot", "restore", copied, "--data-dir="+m.dataDir, "--name="+m.name,
		"--initial-cluster="+m.initialCluster, "--initial-advertise-peer-urls="+m.peerURL,
		fmt.Sprintf("--initial-cluster-token=script-%d", b.scripts))
}

// stopAll stops the followers together and then the leader, which is the fastest way: a leader that is asked to end
// while all others do looks for a successor for seconds.
func (b *Bed) stopAll(ctx context.Context) error {
	leader, err := b.leader(ctx)
	if err != nil {
		return err
	}
	var followers errgroup.Group
	for _, m := range b.members {
		if m != leader {
			followers.Go(m.stop)
		}
	}
	if err := followers.Wait(); err != nil {
		return err
	}
	return leader.stop()
}

func (b *Bed) startAll() error {
	for _, m := range b.members {
		if err := m.start(); err != nil {
			return err
		}
	}
	return nil
}

// leader returns the member that leads.
func (b *Bed) leader(ctx context.Context) (*member, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, m := range b.members {
		leads, err := m.leads(ctx)
		if err != nil {
			return nil, fmt.Errorf("ask %s who leads: %w", m.name, err)
		}
		if leads {
			return m, nil
		}
	}
	return nil, errors.New("the cluster has no leader")
}

// follower returns a member that does not lead.
func (b *Bed) follower(ctx context.Context) (*member, error) {
	leader, err := b.leader(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range b.members {
		if m != leader {
			return m, nil
		}
	}
	return nil, errors.New("the cluster has no follower")
}

func (m *member) leads(ctx context.Context) (bool, error) {
	client, err := probe.Dial(m.clientURL)
	if err != nil {
		return false, err
	}
	defer client.Close()
	status, err := client.Status(ctx, m.clientURL)
	if err != nil {
		return false, err
	}
	return status.Leader == status.Header.GetMemberId(), nil
}

// healthy returns once every member serves.
func (b *Bed) healthy(ctx context.Context) error {
	for _, m := range b.members {
		if err := m.healthy(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *member) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("etcd %s does not serve; its log is %s", m.name, m.log))
	defer cancel()
	client, err := probe.Dial(m.clientURL)
	if err != nil {
		return err
	}
	defer client.Close()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, time.Second)
		_, err := client.Get(within, "health")
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// command runs a command to its end.
func command(ctx context.Context, name string, args ...string) error {
	_, err := commandCPU(ctx, name, args...)
	return err
}

// commandCPU does so and returns how long it computed.
func commandCPU(ctx context.Context, name string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
