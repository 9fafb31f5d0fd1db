package k3s

import (
	"context"
	"errors"
	"fmt"

	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

// Detector looks for units that run a k3s server with etcd.
type Detector struct{}

var _ detect.Detector = Detector{}

// Kind returns "k3s".
func (Detector) Kind() string { return Kind }

// Detect looks at every service that is loaded or has "k3s" in its name. One counts that runs k3s as a server which keeps
// etcd. RKE2 is looked for only to say that nothing is done with it.
func (Detector) Detect(ctx context.Context) (detect.Found, error) {
	found, err := systemd.Find(ctx, "k3s", describe)
	if err != nil {
		return found, err
	}
	if len(found.Candidates) > 0 {
		found.Looked = append(found.Looked, "this runtime was tested with a stand-in for k3s only, never with k3s itself; k3s server --cluster-reset is not used")
	}
	_, err = systemd.Find(ctx, "rke2", func(_ context.Context, unit string, _ *detect.Found) error {
		found.Looked = append(found.Looked, unit+" runs RKE2, which this runtime is not for: its etcd is a static pod, not part of the unit")
		return nil
	})
	return found, err
}

// describe adds a unit that runs k3s.
func describe(ctx context.Context, unit string, found *detect.Found) error {
	r, err := New(Options{Unit: unit})
	if err != nil {
		return err
	}
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
