package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/requorum/requorum/e2e/bench/usage"
)

// save measures a snapshot until it is ready on three nodes, beside etcdctl's of one member.
func save(ctx context.Context, r *Report, b *Bed) error {
	var ours, base, oursCPU, baseCPU []float64
	for round := range r.Settings.Rounds {
		measures := []func() error{
			func() error { return b.timed(&ours, func() error { return b.saveOurs(ctx, round, &oursCPU) }) },
			func() error { return b.timed(&base, func() error { return b.saveByTool(ctx, &baseCPU) }) },
		}
		for i := range measures {
			if err := measures[(i+round)%2](); err != nil {
				return err
			}
			if err := b.Clean(ctx); err != nil {
				return err
			}
		}
	}
	row := Row{Section: "save", What: "snapshot save until ready on three nodes", Size: b.Size, Unit: "s"}
	r.Add(compare(row, "etcdctl snapshot save of one member", 2, ours, base))
	row.What, row.Note = "processor time of the three agents for it", "Without etcd's own, which is the same for both. A machine of each node has a third of it to do."
	r.Add(compare(row, "etcdctl's", 0, oursCPU, baseCPU))
	return nil
}

// timed adds how long something took, in seconds.
func (b *Bed) timed(to *[]float64, act func() error) error {
	b.Settle()
	begun := time.Now()
	err := act()
	*to = append(*to, time.Since(begun).Seconds())
	return err
}

// saveOurs saves by requorum, and adds how many seconds the agents computed.
func (b *Bed) saveOurs(ctx context.Context, round int, cpu *[]float64) error {
	begun := time.Now()
	before, err := b.agentsCPU()
	if err != nil {
		return err
	}
	op, err := b.save(ctx, fmt.Sprintf("save-%d", round))
	if err != nil {
		return err
	}
	after, err := b.agentsCPU()
	if err != nil {
		return err
	}
	*cpu = append(*cpu, (after - before).Seconds())
	b.r.Say("  requorum snapshot save: %.2f s, the agents computed %.2f s; %s", time.Since(begun).Seconds(), (after - before).Seconds(), tell(op))
	return nil
}

func (b *Bed) agentsCPU() (time.Duration, error) {
	var sum time.Duration
	for _, n := range b.Cluster.Nodes {
		one, err := usage.CPU(n.Agent.PID())
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

// saveByTool saves by etcdctl, and adds how many seconds it computed.
func (b *Bed) saveByTool(ctx context.Context, cpu *[]float64) error {
	m, err := b.follower(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "tool.db")
	begun := time.Now()
	computed, err := commandCPU(ctx, b.r.Settings.Etcdctl, "--endpoints="+m.clientURL, "snapshot", "save", path)
	if err != nil {
		return err
	}
	*cpu = append(*cpu, computed.Seconds())
	b.r.Say("  etcdctl snapshot save: %.2f s, it computed %.2f s", time.Since(begun).Seconds(), computed.Seconds())
	return os.Remove(path)
}
