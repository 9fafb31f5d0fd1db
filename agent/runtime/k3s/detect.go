package k3s

import (
	"context"
	"errors"
	"fmt"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

// Detector looks for units that run a k3s server with etcd.
type Detector struct{}

var _ detect.Detector = Detector{}

// Kind returns "k3s".
func (Detector) Kind() string { return Kind }

// Detect looks at every service that is loaded or has "k3s" in its name. One counts that runs k3s as a server which keeps
// etcd.
func (Detector) Detect(ctx context.Context) (detect.Found, error) {
	return Detect(ctx, k3s.Name, func(unit string) (runtime.Runtime, error) { return New(Options{Unit: unit}) })
}

// Detect looks for units whose program's name begins with the one of a distribution, and describes each by the runtime that
// open returns for it.
func Detect(ctx context.Context, distribution string, open func(unit string) (runtime.Runtime, error)) (detect.Found, error) {
	found, err := systemd.Find(ctx, distribution, func(ctx context.Context, unit string, found *detect.Found) error {
		r, err := open(unit)
		if err != nil {
			return err
		}
		return describe(ctx, r, unit, found)
	})
	if len(found.Candidates) > 0 {
		found.Looked = append(found.Looked, fmt.Sprintf("this runtime was tested with a stand-in for %[1]s only, never with %[1]s itself; %[1]s server --cluster-reset is not used", distribution))
	}
	return found, err
}

// describe adds a unit that runs the distribution.
func describe(ctx context.Context, r runtime.Runtime, unit string, found *detect.Found) (err error) {
	c := detect.Candidate{Place: unit, Config: map[string]any{"unit": unit}}
	c.Member, err = r.Inspect(ctx)
	switch {
	case errors.Is(err, ErrNotServer), errors.Is(err, ErrNoEtcd):
		found.Looked = append(found.Looked, fmt.Sprintf("%s is passed over: %v", unit, err))
		return nil
	case err != nil:
		c.Missing = []string{err.Error()}
	default:
		c.Missing = detect.MissingForData(c.Member)
	}
	found.Candidates = append(found.Candidates, c)
	return nil
}
