package distribution

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Options say what is distributed, and over which links.
type Options struct {
	Binary       string // requorum as it is released, an absolute path
	Dir          string // for everything; what is made in it is removed again
	Size         int64  // of the file, about, in bytes
	Receivers    int    // nodes that do not hold the file
	Compressible bool   // the file is text, not noise
	Links        Links
	Star         bool // measure the star too
}

// Result is what was measured.
type Result struct {
	FileBytes int64         `json:"file_bytes"`
	SentBytes int64         `json:"sent_bytes"`           // by the source's link during the whole command
	Step      time.Duration `json:"step_ns"`              // the step distribute: until every node has received, verified and flushed the file
	Command   time.Duration `json:"command_ns"`           // the whole command, which also reads every copy back from the disk, before and after
	Star      time.Duration `json:"star_ns,omitempty"`    // the same file as a star
	StarBytes int64         `json:"star_bytes,omitempty"` // sent by the source's link for the star
}

// SentRatio is what the source sends for each byte of the file.
func (r Result) SentRatio() float64 { return float64(r.SentBytes) / float64(r.FileBytes) }

// StepRatio is the step's part of the star's time.
func (r Result) StepRatio() float64 { return r.Step.Seconds() / r.Star.Seconds() }

// CommandRatio is the whole command's part of the star's time.
func (r Result) CommandRatio() float64 { return r.Command.Seconds() / r.Star.Seconds() }

// Measure makes a network, lets agents distribute a file in it, and removes everything.
func Measure(ctx context.Context, o Options) (_ *Result, err error) {
	dir, err := os.MkdirTemp(o.Dir, "distribution-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "file.db")
	if err := WriteFile(file, o.Size, o.Compressible); err != nil {
		return nil, fmt.Errorf("write the file: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	net, err := NewNetwork(ctx, o.Receivers+1, o.Links)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	result := &Result{FileBytes: info.Size()}
	if err := measureChain(ctx, net, o, dir, file, result); err != nil {
		return nil, err
	}
	if o.Star {
		err = measureStar(ctx, net, dir, file, result)
	}
	return result, err
}

func measureChain(ctx context.Context, net *Network, o Options, dir, file string, result *Result) (err error) {
	w, err := newWorld(ctx, net, o.Binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.take(ctx, file); err != nil {
		return err
	}
	for i := 1; i <= o.Receivers; i++ {
		if err := w.startAgent(i); err != nil {
			return err
		}
	}
	if err := w.connected(ctx); err != nil {
		return err
	}
	before, err := net.Sent(0)
	if err != nil {
		return err
	}
	began := time.Now()
	op, err := w.distribute(ctx)
	if err != nil {
		return err
	}
	result.Command = time.Since(began)
	after, err := net.Sent(0)
	if err != nil {
		return err
	}
	result.SentBytes = after - before
	result.Step, err = stepTime(op, "distribute")
	return err
}

func measureStar(ctx context.Context, net *Network, dir, file string, result *Result) error {
	before, err := net.Sent(0)
	if err != nil {
		return err
	}
	if result.Star, err = Star(ctx, net, file, dir); err != nil {
		return err
	}
	after, err := net.Sent(0)
	result.StarBytes = after - before
	return err
}

// stepTime returns how long a step of the operation took.
func stepTime(op *requorumv1.Operation, name string) (time.Duration, error) {
	for _, s := range op.GetSteps() {
		if s.GetName() == name && s.GetEnded() != nil {
			return s.GetEnded().AsTime().Sub(s.GetStarted().AsTime()), nil
		}
	}
	return 0, fmt.Errorf("operation %s has no step %s that has ended", op.GetId(), name)
}
