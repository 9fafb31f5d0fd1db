package controller

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
	"github.com/requorum/requorum/internal/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func freshConfig(t *testing.T) Config {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Listen, cfg.DataDir = "127.0.0.1:0", filepath.Join(t.TempDir(), "data")
	return cfg
}

// during runs a controller, and use while it serves.
func during(t *testing.T, cfg Config, use func(address string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	serving, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, cfg, hclog.NewNullLogger(), func(address string) { serving <- address })
	}()
	select {
	case err := <-ended:
		t.Fatalf("did not serve: %v", err)
	case address := <-serving:
		use(address)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// admin connects with the certificate that the controller wrote.
func admin(t *testing.T, cfg Config, address string) *grpc.ClientConn {
	t.Helper()
	file := func(name string) string { return filepath.Join(cfg.DataDir, "admin", name) }
	creds, err := pki.LoadCredentials(file("client.crt"), file("client.key"), file("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(creds, pki.ControllerIdentity()))))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (c Config) file(t *testing.T, name ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(append([]string{c.DataDir}, name...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// epoch returns what the store says of the last start.
func (c Config) epoch(t *testing.T) uint64 {
	t.Helper()
	rec := new(journalv1.ControllerRecord)
	c.inStore(t, func(tx store.Tx) error { return store.Load(tx, store.Controller, "self", rec) })
	return rec.GetEpoch()
}

func (c Config) inStore(t *testing.T, f func(store.Tx) error) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(c.DataDir, "requorum.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestControllerServesHealthReflectionAndItsServices(t *testing.T) {
	cfg := freshConfig(t)
	during(t, cfg, func(address string) {
		conn := admin(t, cfg, address)
		defer conn.Close()
		health, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || health.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health: %v, %v", health, err)
		}
		services := reflected(t, conn)
		for _, want := range []string{"requorum.v1.SnapshotService", "requorum.v1.RestoreService", "requorum.v1.OperationService", "requorum.v1.ClusterService", "requorum.v1.AccessService"} {
			if !strings.Contains(services, want) {
				t.Errorf("reflection does not show %s: %s", want, services)
			}
		}
		if _, err := requorumv1.NewClusterServiceClient(conn).ListClusters(t.Context(), &requorumv1.ListClustersRequest{}); err != nil {
			t.Error(err)
		}
		_, err = requorumv1.NewSnapshotServiceClient(conn).GetSnapshot(t.Context(), &requorumv1.GetSnapshotRequest{Cluster: "nope", Name: "latest"})
		if status.Code(err) != codes.NotFound {
			t.Errorf("an unknown cluster: %v", err)
		}
	})
}

func reflected(t *testing.T, conn *grpc.ClientConn) string {
	t.Helper()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetListServicesResponse().String()
}

func TestFirstAdminIsWrittenOnce(t *testing.T) {
	cfg := freshConfig(t)
	cfg.Advertise = []string{"controller.example"}
	during(t, cfg, func(address string) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		want := "controller: controller.example:" + port + "\nca: ca.crt\ncert: client.crt\nkey: client.key\n"
		if got := cfg.file(t, "admin", "requorum.yaml"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	before := cfg.file(t, "admin", "client.crt")
	info, err := os.Stat(filepath.Join(cfg.DataDir, "admin", "client.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	during(t, cfg, func(string) {})
	if cfg.file(t, "admin", "client.crt") != before {
		t.Error("the certificate was replaced")
	}
}

// A start that died before the last file was written begins again.
func TestHalfWrittenAdminIsWrittenAgain(t *testing.T) {
	cfg := freshConfig(t)
	during(t, cfg, func(string) {})
	if err := os.Remove(filepath.Join(cfg.DataDir, "admin", "requorum.yaml")); err != nil {
		t.Fatal(err)
	}
	during(t, cfg, func(address string) {
		conn := admin(t, cfg, address)
		defer conn.Close()
		if _, err := requorumv1.NewClusterServiceClient(conn).ListClusters(t.Context(), &requorumv1.ListClustersRequest{}); err != nil {
			t.Error(err)
		}
	})
}

func TestSecondStartKeepsTheCAAndRaisesTheEpoch(t *testing.T) {
	cfg := freshConfig(t)
	during(t, cfg, func(string) {})
	ca, first := cfg.file(t, "admin", "ca.crt"), cfg.epoch(t)
	during(t, cfg, func(address string) {
		conn := admin(t, cfg, address) // with the certificate of the first start
		defer conn.Close()
		if _, err := requorumv1.NewClusterServiceClient(conn).ListClusters(t.Context(), &requorumv1.ListClustersRequest{}); err != nil {
			t.Error(err)
		}
	})
	if cfg.file(t, "admin", "ca.crt") != ca || cfg.epoch(t) != first+1 {
		t.Errorf("epoch %d after %d", cfg.epoch(t), first)
	}
}

func TestEpochAtLeast(t *testing.T) {
	cfg := freshConfig(t)
	for _, c := range []struct{ atLeast, want uint64 }{{0, 1}, {10, 10}, {5, 11}, {0, 12}} {
		cfg.EpochAtLeast = c.atLeast
		during(t, cfg, func(string) {})
		if got := cfg.epoch(t); got != c.want {
			t.Errorf("at least %d: epoch %d, want %d", c.atLeast, got, c.want)
		}
	}
}

func TestSecondControllerOnTheSameDataIsRefused(t *testing.T) {
	cfg := freshConfig(t)
	during(t, cfg, func(string) {
		err := Run(t.Context(), cfg, hclog.NewNullLogger(), nil)
		if !errors.Is(err, bolt.ErrLocked) || !strings.Contains(err.Error(), "stop that controller") {
			t.Errorf("got %v", err)
		}
	})
	if got := cfg.epoch(t); got != 1 {
		t.Errorf("the one that was refused took epoch %d", got)
	}
}

func TestStartsThatCannotSucceedSayWhy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no data directory":  {func(c *Config) { c.DataDir = "" }, "data_dir is empty"},
		"half a CA":          {func(c *Config) { c.CA.Cert = "ca.crt" }, "ca needs both cert and key"},
		"a CA that is gone":  {func(c *Config) { c.CA = Authority{Cert: "/nope/ca.crt", Key: "/nope/ca.key"} }, "/nope/ca."},
		"a port that is not": {func(c *Config) { c.Listen = taken.Addr().String() }, "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := freshConfig(t)
			c.change(&cfg)
			if err := Run(t.Context(), cfg, hclog.NewNullLogger(), nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestDataOfANewerVersionIsRefused(t *testing.T) {
	cfg := freshConfig(t)
	during(t, cfg, func(string) {})
	cfg.inStore(t, func(tx store.Tx) error {
		return store.Save(tx, store.Controller, "self", &journalv1.ControllerRecord{FormatVersion: formatVersion + 1})
	})
	if err := Run(t.Context(), cfg, hclog.NewNullLogger(), nil); err == nil || !strings.Contains(err.Error(), "newer requorum") {
		t.Errorf("got %v", err)
	}
}

func TestControllerThatIsStoppedAtOnceEndsWithoutAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	if err := Run(ctx, freshConfig(t), hclog.NewNullLogger(), func(string) { cancel() }); err != nil {
		t.Error(err)
	}
}

// An operation that puts things back must know after a restart which nodes are gone for good.
func TestRemovedNodesAreRememberedOverARestart(t *testing.T) {
	cfg := freshConfig(t)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	id := "01J00000000000000000000000"
	cfg.inStore(t, func(tx store.Tx) error {
		op := &requorumv1.Operation{
			Id: id, Kind: requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE, Cluster: "prod", Snapshot: "s", Nodes: []string{"gone"},
			State: requorumv1.OperationState_OPERATION_STATE_REVERTING,
			Steps: []*requorumv1.Step{{Name: "locate"}, {Name: "fetch"}, {Name: "distribute"}, {Name: "agree"}, {Name: "files"}, {Name: "upload"}, {Name: "record"}},
		}
		return errors.Join(
			store.Save(tx, store.Nodes, "prod/gone", &journalv1.NodeRecord{Cluster: "prod", Name: "gone", Removed: true}),
			store.Save(tx, store.Operations, id, &journalv1.OperationRecord{Operation: op, Cursor: 2}),
		)
	})
	during(t, cfg, func(address string) {
		conn := admin(t, cfg, address)
		defer conn.Close()
		client := requorumv1.NewOperationServiceClient(conn)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			resp, err := client.WaitOperation(ctx, &requorumv1.WaitOperationRequest{Id: id, OrNeedsAttention: true})
			if status.Code(err) == codes.Unavailable && ctx.Err() == nil {
				continue // the journal is still being read
			}
			if err != nil || resp.GetOperation().GetState() != requorumv1.OperationState_OPERATION_STATE_REVERTED {
				t.Errorf("got %v, %v", resp, err)
			}
			return
		}
	})
}

func TestAddressForClients(t *testing.T) {
	for _, c := range []struct {
		listen    string
		advertise []string
		want      string
	}{
		{"10.0.0.5:7079", nil, "10.0.0.5:7079"},
		{"[::]:7079", nil, "localhost:7079"},
		{"0.0.0.0:7079", nil, "localhost:7079"},
		{"[::]:7079", []string{"controller.example", "10.0.0.5"}, "controller.example:7079"},
	} {
		if got := (Config{Advertise: c.advertise}).reachedAt(c.listen); got != c.want {
			t.Errorf("%s, %v: %s, want %s", c.listen, c.advertise, got, c.want)
		}
	}
}
