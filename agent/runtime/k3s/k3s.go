package k3s

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

// Kind is the runtime's name.
const Kind = "k3s"

// DefaultUnit is the unit that k3s' installer makes for a server.
const DefaultUnit = "k3s.service"

// versionTimeout is how long the member may take to tell its version.
const versionTimeout = 2 * time.Second

// Options say which unit runs k3s.
type Options struct {
	Unit  string        // empty for DefaultUnit
	Grace time.Duration // after which k3s is killed, besides what its unit allows it; 0 for systemd.DefaultGrace
	Log   hclog.Logger  // may be nil
}

// Runtime runs etcd as part of a k3s server.
type Runtime struct {
	unit *systemd.Runtime
	log  hclog.Logger
}

var (
	_ runtime.Runtime  = (*Runtime)(nil)
	_ runtime.Liveness = (*Runtime)(nil)
)

// New returns a runtime for the unit in o. It does not look whether it is there.
func New(o Options) (*Runtime, error) {
	if o.Unit == "" {
		o.Unit = DefaultUnit
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	unit, err := systemd.New(systemd.Options{Unit: o.Unit, Grace: o.Grace, Log: o.Log, Embedded: k3s.Read})
	if err != nil {
		return nil, fmt.Errorf("k3s runtime: %w", err)
	}
	return &Runtime{unit: unit, log: o.Log}, nil
}

// Name returns "k3s".
func (r *Runtime) Name() string { return Kind }

// Inspect returns the member as k3s has configured it. Its version is what the member itself says, for k3s does not tell
// which etcd it contains; it is empty while the member does not serve.
func (r *Runtime) Inspect(ctx context.Context) (runtime.Member, error) {
	m, err := r.unit.Inspect(ctx)
	if err != nil || !m.Running {
		return m, err
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	m.Version = member.New(clientOf(m), r.log).Status(ctx).GetVersion()
	return m, nil
}

// clientOf returns how to reach a member on its own node.
func clientOf(m runtime.Member) member.Config {
	cfg := member.Config{Endpoints: m.ListenClientURLs, CAFile: m.TrustedCAFile, DialTimeout: versionTimeout, QuotaBytes: m.QuotaBytes}
	if m.ClientCertAuth {
		cfg.CertFile, cfg.KeyFile = m.CertFile, m.KeyFile // also a client's, since etcd's own gateway shows it
	}
	return cfg
}

// Stop stops k3s, with its control plane and kubelet, and keeps it stopped. Containers go on running.
func (r *Runtime) Stop(ctx context.Context) error { return r.unit.Stop(ctx) }

// Start starts k3s and returns once its process runs.
func (r *Runtime) Start(ctx context.Context) error { return r.unit.Start(ctx) }

// Alive returns nil while the k3s that Start started lives, otherwise an error with its last lines in the journal.
func (r *Runtime) Alive(ctx context.Context) error { return r.unit.Alive(ctx) }
