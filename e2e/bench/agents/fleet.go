package agents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/agent/enroll"
	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/internal/loopback"
	"github.com/requorum/requorum/internal/pki"
)

const (
	nodesPerCluster = 5
	enrolAtOnce     = 16
	patience        = 5 * time.Minute
	poll            = 20 * time.Millisecond
)

func nodeName(i int) string { return fmt.Sprintf("etcd-%d", i+1) }

// fleet is a controller and the agents that are connected to it.
type fleet struct {
	dir        string
	address    string
	controller *dev.Process
	agents     []*simulated
	there      atomic.Int64
	lost       atomic.Int64
	stop       context.CancelFunc
	running    sync.WaitGroup
}

// newFleet starts a controller, enrols so many agents, in clusters of five, and starts them.
func newFleet(ctx context.Context, binary, dir string, agents int) (*fleet, error) {
	f := &fleet{dir: dir, stop: func() {}}
	err := f.startController(binary)
	if err == nil {
		err = f.enrol(ctx, agents)
	}
	if err == nil {
		f.startAgents(ctx)
		err = f.gathered(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *fleet) close() error {
	f.stop()
	f.running.Wait()
	if f.controller == nil {
		return nil
	}
	return f.controller.Stop()
}

func (f *fleet) startController(binary string) error {
	ports, err := loopback.Ports(1)
	if err != nil {
		return err
	}
	f.address = fmt.Sprintf("127.0.0.1:%d", ports[0])
	cfg := controller.DefaultConfig()
	cfg.Listen, cfg.DataDir = f.address, filepath.Join(f.dir, "controller")
	data, err := yaml.Marshal(cfg)
	if err != nil {
		return err
	}
	file := filepath.Join(f.dir, "controller.yaml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	f.controller = &dev.Process{Name: "controller", Binary: binary, Dir: f.dir, Args: []string{"controller", "--config", file}}
	return f.controller.Start()
}

// enrol lets the agents in, each with a token of its cluster.
func (f *fleet) enrol(ctx context.Context, agents int) (err error) {
	conn, err := f.admin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	access := requorumv1.NewAccessServiceClient(conn)
	f.agents = make([]*simulated, agents)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(enrolAtOnce)
	for first := 0; first < agents; first += nodesPerCluster {
		resp, err := access.CreateToken(ctx, &requorumv1.CreateTokenRequest{
			Cluster: fmt.Sprintf("cluster-%03d", first/nodesPerCluster+1), Ttl: durationpb.New(time.Hour),
		})
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		for i := first; i < min(first+nodesPerCluster, agents); i++ {
			group.Go(func() (err error) {
				f.agents[i], err = f.enrolOne(ctx, i, resp.GetToken())
				return err
			})
		}
	}
	return group.Wait()
}

func (f *fleet) enrolOne(ctx context.Context, i int, token string) (*simulated, error) {
	name := nodeName(i % nodesPerCluster)
	creds, err := enroll.Ensure(ctx, enroll.Options{
		Dir: filepath.Join(f.dir, fmt.Sprintf("agent-%d", i)), ControllerAddress: f.address, Token: token, Node: name, Log: hclog.NewNullLogger(),
	})
	return &simulated{controller: f.address, name: name, creds: creds, there: &f.there, lost: &f.lost}, err
}

// admin connects to the controller as its first admin, once it serves.
func (f *fleet) admin(ctx context.Context) (conn *grpc.ClientConn, err error) {
	dir := filepath.Join(f.dir, "controller", "admin")
	err = f.until(ctx, "the controller to serve", func() bool {
		_, err := os.Stat(filepath.Join(dir, "requorum.yaml"))
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	creds, err := pki.LoadCredentials(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"), filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(f.address, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(creds, pki.ControllerIdentity()))),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
}

func (f *fleet) startAgents(ctx context.Context) {
	ctx, f.stop = context.WithCancel(ctx)
	for _, a := range f.agents {
		f.running.Go(func() { a.keepSession(ctx) })
	}
}

// gathered waits until every agent has a session.
func (f *fleet) gathered(ctx context.Context) error {
	return f.until(ctx, "every agent to have a session", func() bool { return f.there.Load() == int64(len(f.agents)) })
}

// until waits for a condition.
func (f *fleet) until(ctx context.Context, what string, ready func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s (%d of %d agents have one): %w", what, f.there.Load(), len(f.agents), context.Cause(ctx))
		case <-f.controller.Done():
			return fmt.Errorf("the controller has ended; its log is %s", f.controller.Log())
		case <-ticker.C:
		}
	}
	return nil
}
