package main

import (
	"context"
	"fmt"
	"time"

	"github.com/requorum/requorum/e2e/bench/probe"
)

// steady is how many puts and reads must be answered before something is measured, and after it.
const steady = 50

// seen is what a client saw while something was done to the cluster.
type seen struct {
	longest float64 // seconds without an answer, of puts or of reads, whichever is the longer
	total   float64 // the same, of all times that are longer than probe.Noticed
	whole   float64 // seconds from the beginning until it was done
	serving float64 // seconds from the beginning until puts and reads were answered again
}

// watched does something to the cluster while a client uses it.
func (b *Bed) watched(ctx context.Context, act func(context.Context) error) (seen, error) {
	b.Settle()
	p, err := probe.Start(ctx, b.Endpoints())
	if err != nil {
		return seen{}, err
	}
	defer p.Stop()
	patient, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answers for %s", patience))
	defer cancel()
	if err := p.Served(patient, time.Now(), steady); err != nil {
		return seen{}, err
	}
	begun := time.Now()
	if err := act(ctx); err != nil {
		return seen{}, err
	}
	done := time.Now()
	if err := p.Served(patient, done, steady); err != nil {
		return seen{}, err
	}
	puts, reads := p.Puts.Outage(begun), p.Reads.Outage(begun)
	served := puts.End
	if reads.End.After(served) {
		served = reads.End
	}
	return seen{
		longest: max(puts.Longest, reads.Longest).Seconds(), total: max(puts.Total, reads.Total).Seconds(),
		whole: done.Sub(begun).Seconds(), serving: served.Sub(begun).Seconds(),
	}, nil
}
