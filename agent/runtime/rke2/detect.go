package rke2

import (
	"context"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/k3s"
)

// Detector looks for units that run an RKE2 server with etcd.
type Detector struct{}

var _ detect.Detector = Detector{}

// Kind returns "rke2".
func (Detector) Kind() string { return Kind }

// Detect looks at every service that is loaded or has "rke2" in its name. One counts that runs RKE2 as a server which keeps
// etcd.
func (Detector) Detect(ctx context.Context) (detect.Found, error) {
	return k3s.Detect(ctx, distribution.Name, func(unit string) (runtime.Runtime, error) { return New(Options{Unit: unit}) })
}
