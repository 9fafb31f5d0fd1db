package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// What rows of this section are about, by which others find them.
const (
	unavailable = "unavailability of a restore"
	bareRestart = "bare stop and start"
	script      = "classical script"
)

// restores are the measurements of one size.
type restores struct {
	ours, bare, script []seen
	durations          map[string][]float64 // of the steps of ours, in seconds
	stops              []float64            // of the bare restarts, in seconds
	finished           []float64            // from the command to the end of the step that finishes ours, in seconds
}

// restore measures restores as a client sees them, beside a bare restart and the classical script.
func restore(ctx context.Context, r *Report, b *Bed) error {
	m := restores{durations: map[string][]float64{}}
	kinds := []func(context.Context, *Bed) error{m.measureBare, m.measureScript, m.measureOurs}
	for round := range r.Settings.Rounds {
		for i := range kinds { // another one begins in every round
			if err := kinds[(i+round)%len(kinds)](ctx, b); err != nil {
				return err
			}
			if err := b.Clean(ctx); err != nil {
				return err
			}
		}
	}
	if err := b.HandBack(ctx); err != nil {
		return err
	}
	m.report(r, b.Size)
	return b.Clean(ctx)
}

func (m *restores) measureBare(ctx context.Context, b *Bed) error {
	if err := b.TakeOver(ctx); err != nil {
		return err
	}
	s, err := b.watched(ctx, b.restartByScript)
	m.bare = append(m.bare, s)
	m.stops = append(m.stops, b.stopTook.Seconds())
	b.r.Say("  bare restart: %.2f s without service, stop %.2f s", s.longest, b.stopTook.Seconds())
	return err
}

func (m *restores) measureScript(ctx context.Context, b *Bed) error {
	if err := b.TakeOver(ctx); err != nil {
		return err
	}
	s, err := b.watched(ctx, b.restoreByScript)
	m.script = append(m.script, s)
	b.r.Say("  classical script: %.2f s without service, %.2f s in all", s.longest, s.serving)
	return err
}

func (m *restores) measureOurs(ctx context.Context, b *Bed) error {
	if err := b.HandBack(ctx); err != nil {
		return err
	}
	var op *requorumv1.Operation
	var begun time.Time
	s, err := b.watched(ctx, func(ctx context.Context) (err error) {
		begun = time.Now()
		op, err = b.restore(ctx)
		return err
	})
	if err != nil {
		return err
	}
	m.ours = append(m.ours, s)
	m.finished = append(m.finished, steps(op)["finish"].to.Sub(begun).Seconds())
	for name, step := range steps(op) {
		m.durations[name] = append(m.durations[name], step.seconds())
	}
	b.r.Say("  requorum restore: %.2f s without service (reported: %.2f s), %.2f s in all; %s",
		s.longest, op.GetUnavailability().AsDuration().Seconds(), s.whole, tell(op))
	return nil
}

// tell lists how long the steps took.
func tell(op *requorumv1.Operation) string {
	var parts []string
	for _, s := range op.GetSteps() {
		took := s.GetEnded().AsTime().Sub(s.GetStarted().AsTime())
		parts = append(parts, fmt.Sprintf("%s %s", s.GetName(), took.Round(time.Millisecond)))
	}
	return strings.Join(parts, ", ")
}

func (m *restores) report(r *Report, size Size) {
	longest := func(s seen) float64 { return s.longest }
	total := func(s seen) float64 { return s.total }
	ours := Row{Section: "restore", What: unavailable, Size: size, Unit: "s", Note: m.noteSteps("stop", "swap", "start", "verify")}
	ours.Note += fmt.Sprintf(" The stop of a bare restart: %.2f s.", median(m.stops))
	r.Add(compare(ours, bareRestart, 1.25, pick(m.ours, longest), pick(m.bare, longest)))
	ours.Note = ""
	r.Add(compare(ours, script, 1.0/3, pick(m.ours, longest), pick(m.script, longest)))
	ours.What, ours.Note = "all times without service in a restore", "Every time longer than 100 ms without an answer, added up: also those while etcd serves and the disk is busy."
	r.Add(compare(ours, bareRestart, 0, pick(m.ours, total), pick(m.bare, total)))
	byScript := pick(m.script, func(s seen) float64 { return s.serving })
	ours.What, ours.Note = "whole restore, command to Finished", "Until the step finish has ended. "+m.noteSteps("preflight", "agree", "stage", "safety")
	r.Add(compare(ours, script, 1.5, m.finished, byScript))
	ours.What, ours.Note = "the same with the fresh snapshot after it", ""
	r.Add(compare(ours, script, 0, pick(m.ours, func(s seen) float64 { return s.whole }), byScript))
}

// noteSteps says how long steps took.
func (m *restores) noteSteps(names ...string) string {
	var parts []string
	for _, step := range names {
		parts = append(parts, fmt.Sprintf("%s %.2f s", step, median(m.durations[step])))
	}
	return "Of this: " + strings.Join(parts, ", ") + "."
}

// compare fills a row with the medians of two series.
func compare(row Row, against string, target float64, ours, base []float64) Row {
	row.Against, row.Target = against, target
	row.Samples, row.BaseSamples = ours, base
	row.Measured, row.Base = median(ours), median(base)
	return row
}

func pick[T any](all []T, of func(T) float64) []float64 {
	var numbers []float64
	for _, one := range all {
		numbers = append(numbers, of(one))
	}
	return numbers
}

// median returns the middle of what was measured, 0 if nothing was.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
