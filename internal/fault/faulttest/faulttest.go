// Package faulttest arms fault points for processes under test and waits until they fire. It works in any build;
// the process that is to fail must be built with the tag faultinject and started with [Dir.Env].
package faulttest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/fault"
)

// poll is how often Wait looks.
const poll = 20 * time.Millisecond

// Dir is a directory of armed points. It must exist.
type Dir string

// Env is what a process that stands for node needs in its environment, as "KEY=value".
func (d Dir) Env(node string) []string {
	return []string{fault.DirEnv + "=" + string(d), fault.NodeEnv + "=" + node}
}

// Arm makes point do action on node, or in every process if node is empty. The action is written as package
// fault documents it, for instance "kill once" or "delay 200ms".
func (d Dir) Arm(point, node, action string) error {
	// Whole or not at all: a process may look at this very moment.
	if err := durable.WriteFile(d.path(point, node), []byte(action+"\n"), 0o644); err != nil {
		return fmt.Errorf("arm %s: %w", point, err)
	}
	return nil
}

// Disarm takes an armed point back, and lets those that hang in it go on. It leaves the trace. A point that is not
// armed, or was taken by "once", is fine.
func (d Dir) Disarm(point, node string) error {
	return remove(point, d.path(point, node))
}

// Forget removes the trace, so that Wait counts from nothing, and lets the process go on that took a "hang once".
func (d Dir) Forget(point, node string) error {
	return remove(point, d.path(point, node)+fault.FiredSuffix)
}

func remove(point, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disarm %s: %w", point, err)
	}
	return nil
}

// Wait returns as soon as the point has fired at least n times since its trace began, with everything that fired.
// On failure it says how far it came, with ctx's cause.
func (d Dir) Wait(ctx context.Context, point, node string, n int) ([]fault.Firing, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		firings, err := fault.ReadFirings(d.path(point, node) + fault.FiredSuffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(firings) >= n {
			return firings, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("fault point %s fired %d of %d times: %w", point, len(firings), n, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (d Dir) path(point, node string) string {
	return filepath.Join(string(d), fault.FileName(point, node))
}
