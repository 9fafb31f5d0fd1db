package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// save measures a snapshot until it is ready on three nodes, beside etcdctl's of one member.
func save(ctx context.Context, r *Report, b *Bed) error {
	var ours, base []float64
	for round := range r.Settings.Rounds {
		measures := []func() error{
			func() error { return b.timed(&ours, func() error { return b.saveOurs(ctx, round) }) },
			func() error { return b.timed(&base, func() error { return b.saveByTool(ctx) }) },
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

func (b *Bed) saveOurs(ctx context.Context, round int) error {
	begun := time.Now()
	op, err := b.save(ctx, fmt.Sprintf("save-%d", round))
	if err != nil {
		return err
	}
	b.r.Say("  requorum snapshot save: %.2f s; %s", time.Since(begun).Seconds(), tell(op))
	return nil
}

func (b *Bed) saveByTool(ctx context.Context) error {
	m, err := b.follower(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "tool.db")
	begun := time.Now()
	if err := command(ctx, b.r.Settings.Etcdctl, "--endpoints="+m.clientURL, "snapshot", "save", path); err != nil {
		return err
	}
	b.r.Say("  etcdctl snapshot save: %.2f s", time.Since(begun).Seconds())
	return os.Remove(path)
}
