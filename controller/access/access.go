// Package access lets nodes and operators in: it makes join tokens, signs certificates, revokes them,
// and decides on every call whether the caller may make it. What it knows of nodes is in the store's
// node records; a certificate is good only while its key is the one that the record names. It relies
// on TLS having verified the chain of the certificates that it is shown.
package access

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/pki"
)

// Options say how long things are good for. The zero value of each stands for its default.
type Options struct {
	NodeTTL     time.Duration    // of a node's certificate; 90 days. Agents renew at two thirds of it.
	OperatorTTL time.Duration    // of an operator's certificate, unless asked otherwise; 365 days
	TokenTTL    time.Duration    // of a join token, unless asked otherwise; 1 hour
	Now         func() time.Time // the clock; time.Now
	// KeysChanged is called after other keys than before are good for a node; nil for nobody. It must not block.
	KeysChanged func(cluster, node string)
	// Denied is called for calls of known callers who may not make them, as often as such are logged; nil for nobody.
	Denied func(ctx context.Context, method string, code codes.Code, reason string)
}

const (
	defaultNodeTTL     = 90 * 24 * time.Hour
	defaultOperatorTTL = 365 * 24 * time.Hour
	defaultTokenTTL    = time.Hour
)

// Access decides who gets in.
type Access struct {
	store     store.Store
	authority *pki.Authority
	log       hclog.Logger
	options   Options

	calls    calls
	sources  *sources
	failures *budgets // of sources that fail to enrol
	lines    *budgets // of sources that are refused, for the log
}

// New returns an Access that keeps its records in s and signs with authority.
func New(s store.Store, authority *pki.Authority, log hclog.Logger, o Options) *Access {
	if o.NodeTTL == 0 {
		o.NodeTTL = defaultNodeTTL
	}
	if o.OperatorTTL == 0 {
		o.OperatorTTL = defaultOperatorTTL
	}
	if o.TokenTTL == 0 {
		o.TokenTTL = defaultTokenTTL
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Denied == nil {
		o.Denied = func(context.Context, string, codes.Code, string) {}
	}
	if o.KeysChanged == nil {
		o.KeysChanged = func(string, string) {}
	}
	return &Access{
		store: s, authority: authority, log: log, options: o,
		sources: newSources(), failures: newBudgets(failedEnrolments, failedEnrolmentEvery, o.Now), lines: newBudgets(refusalLines, refusalLineEvery, o.Now),
	}
}

// caller names who makes a call, for the log.
func caller(ctx context.Context) string {
	id, _, err := pki.FromContext(ctx)
	if err != nil {
		return "nobody known"
	}
	return id.String()
}
