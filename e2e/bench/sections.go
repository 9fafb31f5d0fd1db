package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Section is a part of the benchmark that can be run by itself. It has either Run or RunOn.
type Section struct {
	Name  string // as in -only
	About string // in a few words
	// Takes estimates how long it takes with so many GiB of data on two cores; it is only shown.
	Takes func(gib float64) time.Duration
	// Run measures, and adds rows to the report.
	Run func(ctx context.Context, r *Report) error
	// RunOn does so once for every size, on a cluster with that much data.
	RunOn func(ctx context.Context, r *Report, b *Bed) error
}

// sections lists all there is, in the order in which it runs; those with RunOn come first.
func sections() []Section {
	return []Section{
		{Name: "save", About: "a snapshot until it is ready, against etcdctl snapshot save", Takes: perGiB(5, 60), RunOn: save},
		{Name: "upload", About: "a snapshot until a bucket has it, against etcdctl and a client of S3", Takes: perGiB(10, 150), RunOn: upload},
		{Name: "memory", About: "memory of the agents", Takes: perGiB(20, 40), RunOn: memory},
		{Name: "restore", About: "a restore, against a bare restart and the classical script", Takes: perGiB(60, 180), RunOn: restore},
		{Name: "writes", About: "writes during a save, against etcdctl snapshot save", Takes: perGiB(15, 60), RunOn: writes},
		{Name: "growth", About: "unavailability at the largest size against the others", Takes: fixed(0), Run: growth},
		{Name: "sent", About: "bytes that the source of a distribution sends", Takes: fixed(4 * time.Minute), Run: sent},
		{Name: "links", About: "a distribution over slow links, against a star", Takes: fixed(5 * time.Minute), Run: links},
		{Name: "far", About: "the same over links that are slower and longer", Takes: fixed(3 * time.Minute), Run: far},
		{Name: "agents", About: "a thousand agents on one controller", Takes: fixed(90 * time.Second), Run: manySessions},
	}
}

// preparing estimates how long a cluster with data takes.
var preparing = perGiB(15, 45)

func fixed(d time.Duration) func(float64) time.Duration {
	return func(float64) time.Duration { return d }
}

// perGiB is for what takes so many seconds, and so many more for each GiB.
func perGiB(seconds, more float64) func(float64) time.Duration {
	return func(gib float64) time.Duration { return time.Duration((seconds + more*gib) * float64(time.Second)) }
}

// choose returns the sections with these names, or all of them if none is named.
func choose(all []Section, names []string) ([]Section, error) {
	if len(names) == 0 {
		return all, nil
	}
	var known []string
	var chosen []Section
	for _, s := range all {
		known = append(known, s.Name)
		if slices.Contains(names, s.Name) {
			chosen = append(chosen, s)
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("there is no section %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// estimate adds up how long sections take.
func estimate(chosen []Section, sizes []Size) time.Duration {
	var sum time.Duration
	onData := false
	for _, s := range chosen {
		if s.RunOn == nil {
			sum += s.Takes(0)
			continue
		}
		onData = true
		for _, size := range sizes {
			sum += s.Takes(size.GiB())
		}
	}
	if onData {
		for _, size := range sizes {
			sum += preparing(size.GiB())
		}
	}
	return sum
}
