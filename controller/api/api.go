// Package api holds the gRPC handlers: they validate, call, and translate errors. Who may call what was
// decided before, by package access.
package api

import (
	"context"
	"errors"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/access"
	"github.com/requorum/requorum/controller/audit"
	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/reconcile"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/restore"
	"github.com/requorum/requorum/controller/schedule"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/internal/pki"
)

// Server implements every service of the controller on the pieces below it.
type Server struct {
	Access     *access.Access
	Catalog    *catalog.Catalog
	Dispatcher *dispatch.Dispatcher
	Engine     *operation.Engine
	Snapshots  *snapshot.Jobs
	Restores   *restore.Jobs
	Remotes    *remote.Remotes
	Schedules  *schedule.Scheduler
	Copies     *reconcile.Reconciler
	Audit      *audit.Log
	Log        hclog.Logger

	relays relays
}

// Register adds the services to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	requorumv1.RegisterClusterServiceServer(r, clusters{Server: s})
	requorumv1.RegisterSnapshotServiceServer(r, snapshots{Server: s})
	requorumv1.RegisterRestoreServiceServer(r, restores{Server: s})
	requorumv1.RegisterRemoteServiceServer(r, remotes{Server: s})
	requorumv1.RegisterScheduleServiceServer(r, schedules{Server: s})
	requorumv1.RegisterOperationServiceServer(r, operations{Server: s})
	requorumv1.RegisterAccessServiceServer(r, accesses{Server: s})
	requorumv1.RegisterAuditServiceServer(r, audits{Server: s})
	agentv1.RegisterEnrollServiceServer(r, enrolment{Server: s})
	agentv1.RegisterSessionServiceServer(r, sessions{Server: s})
}

// caller returns the name of who calls, as it is shown with what they did.
func caller(ctx context.Context) (string, error) {
	id, _, err := pki.FromContext(ctx)
	if err != nil {
		return "", err
	}
	return id.String(), nil
}

// callingNode returns the node that calls.
func callingNode(ctx context.Context) (dispatch.Key, error) {
	id, _, err := pki.FromContext(ctx)
	if err != nil {
		return dispatch.Key{}, err
	}
	if id.Kind != pki.Node {
		return dispatch.Key{}, errors.New("only nodes may call this")
	}
	return dispatch.Key{Cluster: id.Cluster, Node: id.Node}, nil
}
