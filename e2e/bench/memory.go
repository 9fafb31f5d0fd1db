package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/bench/usage"
)

// What an agent does that takes memory.
const (
	saving    = "memory of an agent that saves"
	inspects  = "memory of an agent that inspects"
	sending   = "memory of an agent that sends"
	receiving = "memory of an agent that receives"
	hashing   = "memory of an agent that hashes"
	staging   = "memory of an agent that stages a restore"

	ownMemory  = 64 << 20
	sameMemory = 16 << 20
	idleTime   = 2 * time.Second
	mapped     = ", mapped files included"
)

// memory measures how much memory agents take above what they take at rest, by what they do. Agents that were just
// started save a snapshot, distribute and check it; after that they restore it.
func memory(ctx context.Context, r *Report, b *Bed) error {
	peaks := map[string]usage.Memory{}
	for _, act := range []func(context.Context) (*requorumv1.Operation, error){
		func(ctx context.Context) (*requorumv1.Operation, error) { return b.save(ctx, "memory") }, b.restore,
	} {
		if err := b.freshAgents(ctx); err != nil {
			return err
		}
		if err := b.peaks(ctx, act, peaks); err != nil {
			return err
		}
	}
	for _, what := range []string{saving, sending, receiving, hashing, inspects, staging} {
		row := Row{Section: "memory", What: what, Size: b.Size, Unit: "bytes", Measured: float64(peaks[what].Anon), Target: ownMemory}
		if what == inspects || what == staging {
			row.Target = 0
		}
		r.Add(row)
		row.What, row.Measured = what+mapped, float64(peaks[what].RSS)
		r.Add(row)
	}
	return b.Clean(ctx)
}

// freshAgents starts the agents again, so that what they did before has no part in what they have.
func (b *Bed) freshAgents(ctx context.Context) error {
	for _, n := range b.Cluster.Nodes {
		if err := errors.Join(n.Agent.Stop(), n.Agent.Start()); err != nil {
			return err
		}
	}
	return b.serving(ctx)
}

// watching is what was seen of the agents at rest and then during an operation.
type watching struct {
	*usage.Watch
	op           *requorumv1.Operation
	begun, acted time.Time // the rest is between the two
}

// idle returns the most that a node's agent had at rest.
func (w *watching) idle(node string) usage.Memory {
	m, _ := w.Peak(node, w.begun, w.acted)
	return m
}

// watch watches the agents at rest and during the operation that act does.
func (b *Bed) watch(ctx context.Context, act func(context.Context) (*requorumv1.Operation, error)) (*watching, error) {
	b.Settle()
	pids := map[string]int{}
	for _, n := range b.Cluster.Nodes {
		pids[n.Name] = n.Agent.PID()
	}
	w := &watching{Watch: usage.Start(ctx, pids), begun: time.Now()}
	err := pause(ctx, idleTime)
	w.acted = time.Now()
	if err == nil {
		w.op, err = act(ctx)
	}
	return w, errors.Join(err, w.Stop())
}

// peaks watches the agents at rest and during an operation, and adds what was more.
func (b *Bed) peaks(ctx context.Context, act func(context.Context) (*requorumv1.Operation, error), into map[string]usage.Memory) error {
	watch, err := b.watch(ctx, act)
	if err != nil {
		return err
	}
	op := watch.op
	for _, n := range b.Cluster.Nodes {
		node, idle := n.Name, watch.idle(n.Name)
		for what, during := range activities(op, node) {
			peak, looked := watch.Peak(node, during.from, during.to)
			if looked {
				into[what] = into[what].Max(peak.Above(idle))
				b.r.Say("  %s on %s: %d MiB own, %d MiB in all", what, node, peak.Above(idle).Anon>>20, peak.Above(idle).RSS>>20)
			}
		}
	}
	if len(into) == 0 {
		return fmt.Errorf("operation %s was too short to be watched", op.GetId())
	}
	return nil
}

// activities returns what a node did in an operation, and when.
func activities(op *requorumv1.Operation, node string) map[string]span {
	at, all := steps(op), map[string]span{}
	if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_RESTORE {
		all[staging] = at["stage"]
		return all
	}
	all[hashing] = at["agree"]
	if node == nodeOf(op, "save") {
		all[saving], all[inspects], all[sending] = at["save"], at["inspect"], at["distribute"]
	} else {
		all[receiving] = at["distribute"]
	}
	return all
}
