// Package runtime is the contract between the agent and the way in which etcd is run on its node: as a
// process of the agent's own, by the operator's commands, by systemd, as a static pod and so on. Every
// implementation passes the suite in runtimetest.
package runtime

import (
	"context"
	"slices"
)

// Member is the configuration of the node's etcd member, and whether it runs.
type Member struct {
	Name    string // etcd's --name
	DataDir string // absolute
	WALDir  string // absolute; empty when the write-ahead log is inside the data directory

	ListenClientURLs    []string
	AdvertiseClientURLs []string
	ListenPeerURLs      []string
	AdvertisePeerURLs   []string
	ListenOtherURLs     []string // for metrics and for client requests by HTTP only

	QuotaBytes int64 // quota-backend-bytes; 0 for etcd's default, negative for none

	// How etcd serves clients over TLS. A local client trusts TrustedCAFile, or the system's roots if
	// that is empty, and shows CertFile where ClientCertAuth asks for a certificate.
	ClientCertAuth bool   // clients must show a certificate
	ClientAutoTLS  bool   // etcd makes its own certificate
	TrustedCAFile  string // signs clients' certificates, as a rule the server's too
	CertFile       string // the server's certificate
	KeyFile        string // the server's key

	UID, GID int    // owner that the data must have
	Version  string // of the binary that Start runs; empty if unknown
	Running  bool   // an etcd process lives; it need not serve
	Wanted   bool   // etcd should run, whether it lives at the moment or not
}

// ListenURLs returns every URL that the member listens on.
func (m Member) ListenURLs() []string {
	return slices.Concat(m.ListenClientURLs, m.ListenPeerURLs, m.ListenOtherURLs)
}

// Runtime runs etcd on this node. Its methods are safe for concurrent use and judge by the node, not by
// what was called before: another Runtime value, say of the agent's next
// process, carries on where this one ended.
type Runtime interface {
	// Name is the kind of the runtime, such as "process".
	Name() string
	// Inspect tells what is configured and whether etcd runs.
	Inspect(ctx context.Context) (Member, error)
	// Stop stops etcd and returns nil once nothing holds the data directory and the ports. etcd stays
	// stopped, also over a restart of the agent and a reboot, until Start. Stopping what is stopped is
	// no error.
	Stop(ctx context.Context) error
	// Start starts etcd and returns when it was started, not when it is healthy. Starting what runs is
	// no error.
	Start(ctx context.Context) error
}

// ControlPlane is implemented by a Runtime that can stop what writes to etcd.
type ControlPlane interface {
	// ControlPlane names what StopControlPlane stops, in order; empty if there is nothing.
	ControlPlane() []string
	// StopControlPlane stops it; it stays stopped until StartControlPlane. Idempotent.
	StopControlPlane(ctx context.Context) error
	// StartControlPlane starts it. Idempotent.
	StartControlPlane(ctx context.Context) error
}

// LearnerStarter is implemented by a Runtime that can start a member which joins a cluster.
type LearnerStarter interface {
	// StartJoining starts etcd with an empty data directory as a member that was added to the cluster
	// initialCluster, given as name=url pairs joined by commas. Until the next Start or Stop every
	// start of etcd is one that joins.
	StartJoining(ctx context.Context, initialCluster string) error
}

// Liveness is implemented by a Runtime that can tell early that waiting for health is in vain.
type Liveness interface {
	// Alive returns nil while the etcd process that Start started lives, otherwise an error with its
	// last log lines.
	Alive(ctx context.Context) error
}
