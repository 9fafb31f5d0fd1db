// Package agent runs the agent on an etcd node: it dials the controller, does the tasks that come, and
// serves snapshots to its neighbours.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/requorum/requorum/agent/drill"
	"github.com/requorum/requorum/agent/enroll"
	"github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/agent/journal"
	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/olddata"
	"github.com/requorum/requorum/agent/remote"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/task"
	"github.com/requorum/requorum/agent/transfer"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/grpcserver"
	"github.com/requorum/requorum/internal/pki"
)

const maxReads = 32 // calls under way on one connection of a neighbour

const (
	cleanEvery = time.Minute      // how often old data is looked at for removal
	renewWait  = 15 * time.Second // for the controller to look for keys
)

// supervisor is a runtime that keeps etcd running.
type supervisor interface {
	Run(ctx context.Context) error
}

// agent holds the pieces.
type agent struct {
	cfg     Config
	log     hclog.Logger
	creds   *pki.Credentials
	journal *journal.Journal
	runtime runtime.Runtime
	node    *task.Node
	runner  *task.Runner
	server  *transfer.Server
	drill   *drill.Driller
	fence   chan struct{} // wakes keepFenced
	dial    func() (conn clientConn, renewed <-chan struct{}, err error)

	listening net.Addr // of the transfer service; set before the first session

	mu   sync.Mutex
	conn clientConn                // of the session, nil without one
	seen *agentv1.HeartbeatRequest // what was last seen of the member, less the session
	etcd *connected                // the member as it was last configured, nil before
}

// clientConn is a connection to the controller.
type clientConn interface {
	grpc.ClientConnInterface
	io.Closer
}

// connected is the member with the configuration that it was made for.
type connected struct {
	cfg    member.Config
	member *member.Member
}

// Run runs an agent until ctx ends. etcd goes on running.
func Run(ctx context.Context, cfg Config, log hclog.Logger) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	if err := cfg.detectRuntime(ctx, detectors(), log); err != nil {
		return err
	}
	if err := durable.OwnDir(cfg.DataDir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	j, err := journal.Open(filepath.Join(cfg.DataDir, "agent.db"))
	if err != nil {
		return err
	}
	return errors.Join(run(ctx, cfg, j, log), j.Close())
}

func run(parent context.Context, cfg Config, j *journal.Journal, log hclog.Logger) error {
	rt, err := cfg.newRuntime(log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(parent)
	if s, ok := rt.(supervisor); ok {
		group.Go(func() error { return s.Run(ctx) }) // etcd does not wait for the controller
	}
	group.Go(func() error {
		creds, err := enroll.Ensure(ctx, enroll.Options{
			Dir: filepath.Join(cfg.DataDir, "credentials"), ControllerAddress: cfg.Controller, Token: cfg.Token, Node: cfg.Node, Log: log.Named("enroll"),
		})
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx) // of which the error is a consequence
		}
		if err != nil {
			return err
		}
		a, err := assemble(cfg, j, rt, creds, log)
		if err != nil {
			return err
		}
		return a.serve(ctx)
	})
	err = group.Wait()
	if parent.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(parent))) {
		return nil // asked to stop
	}
	return err
}

func assemble(cfg Config, j *journal.Journal, rt runtime.Runtime, creds *pki.Credentials, log hclog.Logger) (*agent, error) {
	v, err := vault.Open(cfg.Snapshots, log.Named("vault"))
	if err != nil {
		return nil, err
	}
	a := &agent{cfg: cfg, log: log, creds: creds, journal: j, runtime: rt, fence: make(chan struct{}, 1)}
	a.dial = a.dialController
	a.drill = &drill.Driller{Dir: cfg.drillDir(), StartWait: cfg.StartWait.Std(), Log: log.Named("drill")}
	grants := &transfer.Grants{}
	a.node = &task.Node{
		Vault: task.OnDisk(v), Sealed: v, Runtime: rt, Member: a.member, Grants: grants, Journal: j, Push: a.push,
		Remote: func(r *agentv1.Remote, activity func(), again func(error)) (remote.Store, error) {
			return remote.Open(r, a.renewRemote, activity, again)
		},
		Drill:      a.drill,
		Files:      &files.Keeper{Sets: cfg.Files, Dir: v.Dir(), Records: filepath.Join(cfg.DataDir, "files")},
		Kubernetes: task.Kubernetes(cfg.Kubernetes),
		Old:        &olddata.Reader{Runtime: rt, Log: log.Named("olddata")},
		Fetcher:    transfer.NewFetcher(v, a.dialNeighbour, log.Named("fetch"), transfer.Options{}),
		StartWait:  cfg.StartWait.Std(), StopWait: cfg.runtimeWait(), LaunchWait: cfg.runtimeWait(), Log: log.Named("task"),
	}
	a.server = transfer.NewServer(v, grants, log.Named("transfer"), transfer.WithPeer(creds.Identity().Cluster, peerNode))
	return a, nil
}

// serve runs everything that needs the node's credentials.
func (a *agent) serve(ctx context.Context) error {
	listener, err := grpcserver.Listen(ctx, a.cfg.Transfer.Listen, "transfer.listen")
	if err != nil {
		return fmt.Errorf("transfer: %w", err)
	}
	a.listening = listener.Addr()
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(pki.MutualTLS(a.creds))),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, MaxConnectionIdle: time.Minute}),
		grpc.MaxConcurrentStreams(maxReads),
		grpc.MaxHeaderListSize(32<<10),
		grpc.MaxRecvMsgSize(64<<10), // neighbours ask; they send nothing
		transfer.ServerCodec(),
	)
	agentv1.RegisterTransferServiceServer(server, a.server)
	a.log.Info("agent serves its neighbours", "address", listener.Addr())
	if err := errors.Join(a.node.RemoveScratch(ctx), a.drill.Clean()); err != nil {
		a.log.Error("what an earlier agent left cannot be removed", "error", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	a.runner = task.NewRunner(ctx, a.journal, a.node.Do, a.log.Named("task"))
	group.Go(func() error { return grpcserver.Serve(server, listener) })
	group.Go(func() error { <-ctx.Done(); server.Stop(); return nil })
	group.Go(func() error { return a.keepSession(ctx) })
	group.Go(func() error { return a.clean(ctx) })
	group.Go(func() error { return a.observe(ctx) })
	group.Go(func() error { return a.keepFenced(ctx) })
	group.Go(func() error {
		return enroll.KeepFresh(ctx, a.creds, enroll.Controller(a.cfg.Controller, a.creds), a.log.Named("enroll"))
	})
	err = group.Wait()
	a.runner.Wait()
	return err
}

// clean removes old data whose retention has ended.
func (a *agent) clean(ctx context.Context) error {
	ticker := time.NewTicker(cleanEvery)
	defer ticker.Stop()
	for {
		if err := a.node.RemoveExpired(ctx, time.Now()); err != nil && ctx.Err() == nil {
			a.log.Error("old data cannot be removed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// member returns the node's member as it is configured now. It stays the same, with its login, for as
// long as its configuration does.
func (a *agent) member(ctx context.Context) (task.Member, error) {
	conf, err := a.runtime.Inspect(ctx)
	if err != nil && len(a.cfg.Etcd.Endpoints) == 0 {
		return nil, err
	}
	cfg := a.cfg.Etcd.client(conf)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.etcd == nil || !reflect.DeepEqual(a.etcd.cfg, cfg) {
		a.etcd = &connected{cfg: cfg, member: member.New(cfg, a.log.Named("member"))}
	}
	return a.etcd.member, nil
}

func peerNode(ctx context.Context) (transfer.Peer, error) {
	id, cert, err := pki.FromContext(ctx)
	if err != nil {
		return transfer.Peer{}, err
	}
	return transfer.Peer{Cluster: id.Cluster, Node: id.Node, Key: pki.CertificateKey(cert)}, nil
}

var keepAlive = grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true})

// fixedWindow keeps gRPC from looking for a better window with each answer to a heartbeat, for which the controller
// would have to answer a ping.
const fixedWindow = 1 << 20

// dialNeighbour reaches the transfer service of a node of this cluster.
func (a *agent) dialNeighbour(_ context.Context, source *agentv1.Source) (grpc.ClientConnInterface, io.Closer, error) {
	expect := pki.NodeIdentity(a.creds.Identity().Cluster, source.GetNode())
	conn, err := grpc.NewClient(source.GetAddress(), grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(a.creds, expect))))
	return conn, conn, err
}

// push opens a stream that carries a file to the controller, on the session's connection.
func (a *agent) push(ctx context.Context) (grpc.ClientStreamingClient[agentv1.PushCopyRequest, agentv1.PushCopyResponse], error) {
	client, err := a.controller()
	if err != nil {
		return nil, err
	}
	return client.PushCopy(ctx)
}

// renewRemote asks the controller for the keys of a remote anew.
func (a *agent) renewRemote(ctx context.Context, name string) (*agentv1.Remote, error) {
	client, err := a.controller()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, renewWait)
	defer cancel()
	resp, err := client.RenewRemote(ctx, &agentv1.RenewRemoteRequest{Remote: name})
	return resp.GetRemote(), err
}

// controller returns a client on the session's connection.
func (a *agent) controller() (agentv1.SessionServiceClient, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn == nil {
		return nil, errors.New("there is no session with the controller")
	}
	return agentv1.NewSessionServiceClient(a.conn), nil
}
