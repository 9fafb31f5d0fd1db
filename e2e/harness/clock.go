package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/requorum/requorum/internal/fault"
)

// SetClock makes the wall clock of the controller or of a node's agent wrong by skew, as if somebody had turned it, and
// returns when the process goes by it. A process that is started later goes by it from the beginning.
func (c *Cluster) SetClock(name string, skew time.Duration) {
	c.t.Helper()
	c.must(c.Faults.Arm(fault.ClockName, name, skew.String()))
	p := c.Process(name)
	if !p.Running() {
		return
	}
	trace := filepath.Join(string(c.Faults), fault.FileName(fault.ClockName, name)+fault.FiredSuffix)
	c.must(c.until("the clock of "+name+" cannot be turned: build requorum with make build-faults", func(context.Context) error {
		turned, err := fault.ReadFirings(trace)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		turned = slices.DeleteFunc(turned, func(f fault.Firing) bool { return f.PID != p.PID() })
		now := time.Duration(0).String()
		if len(turned) > 0 {
			now = turned[len(turned)-1].Action
		}
		if now != skew.String() {
			return fmt.Errorf("it is wrong by %s, not by %s", now, skew)
		}
		return nil
	}))
}
