package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// flags are what a person may ask for.
type flags struct {
	size, only, dir, json, doc string
	rounds                     int
	seed                       uint64
	strict, list               bool
}

func main() {
	var f flags
	flag.StringVar(&f.size, "size", "1", "`GiB` of data; several, joined by commas, from the smallest to the largest")
	flag.StringVar(&f.only, "only", "", "run these `sections`, joined by commas, instead of all")
	flag.StringVar(&f.dir, "dir", "", "keep the data below this `directory` (default the system's for temporary files)")
	flag.StringVar(&f.json, "json", "dist/bench.json", "write the report to this `file`")
	flag.StringVar(&f.doc, "doc", "", "also put the table into this `file`, between its two markers")
	flag.IntVar(&f.rounds, "rounds", 3, "`times` that each thing is measured; the median counts")
	flag.Uint64Var(&f.seed, "seed", 1, "`number` from which the data is made")
	flag.BoolVar(&f.strict, "strict", false, "end with 1 if a target is missed")
	flag.BoolVar(&f.list, "list", false, "list the sections and end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, f); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // everything is cleaned up
	}
}

func run(ctx context.Context, f flags) error {
	if f.list {
		for _, s := range sections() {
			fmt.Printf("%-14s %s\n", s.Name, s.About)
		}
		return nil
	}
	r, chosen, err := begin(f)
	if err != nil {
		return err
	}
	if err := r.measure(ctx, chosen); err != nil {
		return err
	}
	return r.finish(f)
}

// begin reads what was asked for.
func begin(f flags) (*Report, []Section, error) {
	sizes, err := parseSizes(f.size)
	if err != nil {
		return nil, nil, err
	}
	if f.rounds < 1 {
		return nil, nil, errors.New("-rounds must be at least 1")
	}
	var only []string
	if f.only != "" {
		only = strings.Split(f.only, ",")
	}
	chosen, err := choose(sections(), only)
	if err != nil {
		return nil, nil, err
	}
	if f.dir == "" {
		f.dir = os.TempDir()
	}
	dir, err := filepath.Abs(f.dir)
	if err != nil {
		return nil, nil, err
	}
	return &Report{
		Began: time.Now(), Machine: describe(dir), progress: os.Stderr,
		Settings: Settings{Sizes: sizes, Rounds: f.rounds, Seed: f.seed, Only: only, Dir: dir},
	}, chosen, nil
}

// measure runs the sections in a directory that is gone afterwards. A section that fails is noted, and the
// others still run.
func (r *Report) measure(ctx context.Context, chosen []Section) (err error) {
	r.Say("%s", r.Machine)
	r.Say("this takes about %s on two cores", estimate(chosen, r.Settings.Sizes).Round(time.Minute))
	if r.Settings.Dir, err = os.MkdirTemp(r.Settings.Dir, "requorum-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.Settings.Dir)) }()
	if err := r.build(ctx); err != nil {
		return err
	}
	for _, size := range r.Settings.Sizes {
		if err := r.measureSize(ctx, chosen, size); err != nil {
			return err
		}
	}
	for _, s := range chosen {
		if s.Run != nil {
			if err := r.section(ctx, s.Name, func() error { return s.Run(ctx, r) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// measureSize runs the sections that need data on one cluster with that much of it.
func (r *Report) measureSize(ctx context.Context, chosen []Section, size Size) error {
	var bed *Bed
	for _, s := range chosen {
		if s.RunOn == nil {
			continue
		}
		if bed == nil {
			made, err := makeBed(ctx, r, size)
			if err != nil {
				return fmt.Errorf("make a cluster with %s: %w", size, err)
			}
			bed = made
		}
		failures := len(r.Failures)
		if err := r.section(ctx, s.Name, func() error { return s.RunOn(ctx, r, bed) }); err != nil {
			return errors.Join(err, bed.Remove())
		}
		if len(r.Failures) > failures { // nobody knows how it left the cluster; the next section gets another
			if err := bed.Remove(); err != nil {
				return err
			}
			bed = nil
		}
	}
	if bed == nil {
		return nil
	}
	return bed.Remove()
}

// section runs one section. It returns an error only if the whole run was stopped.
func (r *Report) section(ctx context.Context, name string, measure func() error) error {
	r.Say("%s", name)
	err := measure()
	if ctx.Err() != nil {
		return fmt.Errorf("stopped in %s: %w", name, errors.Join(context.Cause(ctx), err))
	}
	if err != nil {
		r.Failures = append(r.Failures, fmt.Sprintf("%s: %v", name, err))
		r.Say("  failed: %v", err)
	}
	return nil
}

// finish shows and writes what was measured.
func (r *Report) finish(f flags) error {
	r.Took = time.Since(r.Began).Seconds()
	fmt.Printf("%s\n\n%s\n", r.Machine, r.Table())
	if err := r.writeJSON(f.json); err != nil {
		return err
	}
	r.Say("written to %s", f.json)
	if f.doc != "" {
		if err := r.writeDoc(f.doc); err != nil {
			return err
		}
	}
	if len(r.Failures) > 0 {
		return fmt.Errorf("not everything could be measured:\n%s", strings.Join(r.Failures, "\n"))
	}
	if missed := r.Missed(); f.strict && missed > 0 {
		return fmt.Errorf("%d targets are missed", missed)
	}
	return nil
}
