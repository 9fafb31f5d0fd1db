package transfer_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/agent/transfer"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/grpcserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	keepAlive = 50 * time.Millisecond
	patient   = 20 * time.Second       // a ProgressTimeout that is never reached
	impatient = 500 * time.Millisecond // one that is
)

// node is an agent's vault with its transfer service on loopback.
type node struct {
	name   string
	dir    string
	vault  *vault.Vault
	grants *transfer.Grants
	server *transfer.Server
	grpc   *grpc.Server
	addr   string
	wrap   grpc.StreamClientInterceptor // stands between this node and those it fetches from
	rounds int                          // how often it tries all sources; 0 for the default
}

// caller reads the identity that dial puts in place of a certificate.
func caller(ctx context.Context) (transfer.Peer, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md.Get("node")) != 1 {
		return transfer.Peer{}, errors.New("no certificate")
	}
	node := md.Get("node")[0]
	key := keyOf(node)
	if other := md.Get("key"); len(other) == 1 {
		key = other[0]
	}
	return transfer.Peer{Cluster: md.Get("cluster")[0], Node: node, Key: key}, nil
}

// keyOf is the key by which a node is known at first.
func keyOf(node string) string { return "key of " + node }

// allow lets nodes read that are known by their keys.
func (n *node) allow(name string, nodes ...string) (release func()) {
	for _, node := range nodes {
		n.grants.Know(node, keyOf(node))
	}
	return n.grants.Allow(name, nodes...)
}

func start(t *testing.T, name string) *node {
	t.Helper()
	n := &node{name: name, dir: t.TempDir(), grants: &transfer.Grants{}}
	n.openVault(t)
	n.server = transfer.NewServer(n.vault, n.grants, hclog.NewNullLogger(), transfer.WithPeer("prod", caller), transfer.WithKeepAlive(keepAlive))
	n.serve(t, n.server)
	return n
}

func (n *node) openVault(t *testing.T) {
	t.Helper()
	v, err := vault.Open(n.dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	n.vault = v
}

func (n *node) serve(t *testing.T, service agentv1.TransferServiceServer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.grpc, n.addr = grpc.NewServer(transfer.ServerCodec()), l.Addr().String()
	agentv1.RegisterTransferServiceServer(n.grpc, service)
	served := make(chan error, 1)
	go func() { served <- grpcserver.Serve(n.grpc, l) }()
	t.Cleanup(func() {
		n.grpc.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func (n *node) source() *agentv1.Source { return &agentv1.Source{Node: n.name, Address: n.addr} }

func (n *node) dial(_ context.Context, s *agentv1.Source) (grpc.ClientConnInterface, io.Closer, error) {
	identify := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return next(metadata.AppendToOutgoingContext(ctx, "cluster", "prod", "node", n.name), desc, cc, method, opts...)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithChainStreamInterceptor(identify)}
	if n.wrap != nil {
		options = append(options, grpc.WithChainStreamInterceptor(n.wrap))
	}
	conn, err := grpc.NewClient(s.GetAddress(), options...)
	return conn, conn, err
}

// fetch fetches m from sources as an agent's task does.
func (n *node) fetch(ctx context.Context, m *requorumv1.Manifest, timeout time.Duration, progress func(done, total int64), sources ...*node) (*agentv1.Fetched, error) {
	spec := &agentv1.FetchCopy{Manifest: m}
	for _, s := range sources {
		spec.Sources = append(spec.Sources, s.source())
	}
	f := transfer.NewFetcher(n.vault, n.dial, hclog.NewNullLogger(), transfer.Options{
		ProgressTimeout: timeout, MinPause: time.Millisecond, MaxPause: 20 * time.Millisecond, NoZstd: true, Rounds: n.rounds,
	})
	return f.Fetch(ctx, spec, progress)
}

func (n *node) hold(t *testing.T, name string, data []byte) *requorumv1.Manifest {
	t.Helper()
	m := describe(name, data)
	r, err := n.vault.Receive(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (n *node) expectGood(t *testing.T, m *requorumv1.Manifest) {
	t.Helper()
	if c := n.vault.Hash(t.Context(), m, nil); c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
		t.Errorf("%s: %v", n.name, c)
	}
	if _, err := n.vault.Manifest(m.GetName()); err != nil {
		t.Errorf("%s: %v", n.name, err)
	}
}

// expectSentOnce fails if n sent more than the file once.
func (n *node) expectSentOnce(t *testing.T, m *requorumv1.Manifest) {
	t.Helper()
	if sent := n.server.Sent(m.GetName()); float64(sent) > 1.02*float64(m.GetSize()) {
		t.Errorf("%s sent %d bytes of a file of %d", n.name, sent, m.GetSize())
	}
}

func random(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	return data
}

func describe(name string, data []byte) *requorumv1.Manifest {
	m, s := md5.Sum(data), sha256.Sum256(data)
	return &requorumv1.Manifest{
		FormatVersion: vault.FormatVersion, Name: name, Cluster: "prod", Node: "etcd-1",
		Size: int64(len(data)), Md5: hex.EncodeToString(m[:]), Sha256: hex.EncodeToString(s[:]),
	}
}

// cluster starts nodes etcd-1 to etcd-count, which may all read snapshot "s" from each other.
func cluster(t *testing.T, count int) []*node {
	t.Helper()
	var nodes []*node
	var all []string
	for i := range count {
		nodes = append(nodes, start(t, fmt.Sprintf("etcd-%d", i+1)))
		all = append(all, nodes[i].name)
	}
	for _, n := range nodes {
		n.allow("s", all...)
	}
	return nodes
}

// before returns the nodes before the i-th, nearest first: what the i-th of a chain fetches from.
func before(nodes []*node, i int) []*node {
	sources := slices.Clone(nodes[:i])
	slices.Reverse(sources)
	return sources
}

func TestChainSendsTheFileOnceFromEachNode(t *testing.T) {
	nodes, data := cluster(t, 5), random(24<<20+77)
	m := nodes[0].hold(t, "s", data)
	var group errgroup.Group
	for i := len(nodes) - 1; i > 0; i-- { // the last one asks first
		group.Go(func() error {
			fetched, err := nodes[i].fetch(t.Context(), m, patient, nil, before(nodes, i)...)
			if err == nil && (fetched.GetWireBytes() != m.GetSize() || !slices.Equal(fetched.GetNodes(), []string{nodes[i-1].name})) {
				t.Errorf("%s moved %v", nodes[i].name, fetched)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, n := range nodes {
		n.expectGood(t, m)
		if i < len(nodes)-1 {
			n.expectSentOnce(t, m)
		}
	}
}

func TestSuccessorsFinishWhenANodeInTheMiddleDies(t *testing.T) {
	for _, percent := range []int64{10, 50, 90} {
		t.Run(fmt.Sprintf("at %d percent", percent), func(t *testing.T) {
			nodes, data := cluster(t, 5), random(16<<20)
			m := nodes[0].hold(t, "s", data)
			dead, dying := nodes[2], t.Context()
			dying, die := context.WithCancel(dying)
			defer die()
			var group errgroup.Group
			for i := 1; i < len(nodes); i++ {
				group.Go(func() error {
					if nodes[i] != dead {
						_, err := nodes[i].fetch(t.Context(), m, patient, nil, before(nodes, i)...)
						return err
					}
					_, err := dead.fetch(dying, m, patient, func(done, total int64) {
						if done*100 >= total*percent && dying.Err() == nil {
							dead.grpc.Stop()
							die()
						}
					}, before(nodes, i)...)
					if !errors.Is(err, context.Canceled) {
						return fmt.Errorf("%s should have died: %w", dead.name, err)
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes {
				if n != dead {
					n.expectGood(t, m)
				}
			}
			nodes[0].expectSentOnce(t, m)
		})
	}
}

func TestErrorNamesTheSourceThatDied(t *testing.T) {
	nodes, data := cluster(t, 3), random(16<<20)
	m := nodes[0].hold(t, "s", data)
	var group errgroup.Group
	for i := 1; i < 3; i++ {
		group.Go(func() error {
			_, err := nodes[i].fetch(t.Context(), m, impatient, func(done, total int64) {
				if i == 1 && done*2 >= total {
					nodes[0].grpc.Stop()
				}
			}, before(nodes, i)...)
			var sources *transfer.SourcesError
			if !errors.As(err, &sources) || sources.Offset == 0 || sources.Offset == sources.Size || !strings.Contains(err.Error(), "etcd-1: ") {
				t.Errorf("%s: %v", nodes[i].name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestFetchGoesOnWhereItStoodWhenTheAgentRestarts(t *testing.T) {
	nodes, data := cluster(t, 2), random(16<<20)
	m := nodes[0].hold(t, "s", data)
	ctx, cancel := context.WithCancel(t.Context())
	var reached int64
	if _, err := nodes[1].fetch(ctx, m, patient, func(done, total int64) {
		if reached = done; done*2 >= total {
			cancel()
		}
	}, nodes[0]); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	nodes[1].openVault(t)
	fetched, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	if want := m.GetSize() - reached; fetched.GetWireBytes() != want {
		t.Errorf("fetched %d bytes, %d were missing", fetched.GetWireBytes(), want)
	}
	nodes[1].expectGood(t, m)
}

func TestFetchIsDoneWhenAGoodCopyIsThere(t *testing.T) {
	nodes, data := cluster(t, 2), random(1<<20)
	m := nodes[0].hold(t, "s", data)
	nodes[1].hold(t, "s", data)
	fetched, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0])
	if err != nil || fetched.GetWireBytes() != 0 {
		t.Errorf("%v, %v", fetched, err)
	}
}

func TestFetchReplacesADamagedCopy(t *testing.T) {
	nodes, data := cluster(t, 2), random(1<<20)
	m := nodes[0].hold(t, "s", data)
	nodes[1].hold(t, "s", data)
	nodes[1].damage(t)
	if _, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0]); err != nil {
		t.Fatal(err)
	}
	nodes[1].expectGood(t, m)
}

func TestFetchLeavesAnotherSnapshotOfTheNameAlone(t *testing.T) {
	nodes := cluster(t, 2)
	m := nodes[0].hold(t, "s", random(1<<20))
	other := nodes[1].hold(t, "s", random(1<<19))
	var conflict *vault.ConflictError
	if _, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0]); !errors.As(err, &conflict) {
		t.Errorf("%v", err)
	}
	nodes[1].expectGood(t, other)
}

// damage flips one bit in the middle of the node's file.
func (n *node) damage(t *testing.T) {
	t.Helper()
	path := filepath.Join(n.dir, "s.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0x04
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFetchSaysWhoseCopyIsDamaged(t *testing.T) {
	nodes, data := cluster(t, 2), random(2<<20)
	m := nodes[0].hold(t, "s", data)
	nodes[0].damage(t)
	_, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0])
	var wrong *transfer.WrongFileError
	var mismatch *vault.MismatchError
	if !errors.As(err, &wrong) || !errors.As(err, &mismatch) || !strings.Contains(err.Error(), "etcd-1") || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
	if left, _ := os.ReadDir(nodes[1].dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFetchTurnsToTheSaverWhenANeighboursCopyIsDamaged(t *testing.T) {
	nodes, data := cluster(t, 3), random(2<<20)
	m := nodes[0].hold(t, "s", data)
	nodes[1].hold(t, "s", data)
	nodes[1].damage(t)
	fetched, err := nodes[2].fetch(t.Context(), m, patient, nil, nodes[1], nodes[0])
	if err != nil || !slices.Equal(fetched.GetNodes(), []string{"etcd-1"}) || fetched.GetWireBytes() != 2*m.GetSize() {
		t.Errorf("%v, %v", fetched, err)
	}
	nodes[2].expectGood(t, m)
}

// corrupter flips a bit of one chunk on its way.
type corrupter struct {
	grpc.ClientStream
	left *atomic.Int32 // chunks until then
}

func (c corrupter) RecvMsg(m any) error {
	err := c.ClientStream.RecvMsg(m)
	if resp, ok := m.(*agentv1.FetchResponse); ok && err == nil && c.left.Add(-1) == 0 {
		resp.Data[len(resp.Data)/2] ^= 1
	}
	return err
}

func TestFetchDoesNotWriteAChunkThatWasDamagedOnItsWay(t *testing.T) {
	for sources, nodesWanted := range map[int][]string{1: {"etcd-1"}, 2: {"etcd-1", "etcd-2"}} {
		nodes, data := cluster(t, 3), random(4<<20)
		m := nodes[0].hold(t, "s", data)
		nodes[1].hold(t, "s", data)
		var left atomic.Int32
		left.Store(3)
		nodes[2].wrap = func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := next(ctx, desc, cc, method, opts...)
			return corrupter{stream, &left}, err
		}
		fetched, err := nodes[2].fetch(t.Context(), m, patient, nil, nodes[:sources]...)
		if err != nil || !slices.Equal(fetched.GetNodes(), nodesWanted) || fetched.GetWireBytes() != m.GetSize()+512<<10 {
			t.Errorf("%d sources: %v, %v", sources, fetched, err)
		}
		nodes[2].expectGood(t, m)
	}
}

// stuck is a source that sends some bytes and then none; it may go on saying that it lives.
type stuck struct {
	agentv1.UnimplementedTransferServiceServer
	chunks []*agentv1.FetchResponse
	alive  bool
}

func (s *stuck) Fetch(req *agentv1.FetchRequest, stream agentv1.TransferService_FetchServer) error {
	for _, c := range s.chunks {
		if c.GetOffset() >= req.GetOffset() {
			if err := stream.Send(c); err != nil {
				return err
			}
		}
	}
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-ticker.C:
		}
		if s.alive {
			if err := stream.Send(&agentv1.FetchResponse{}); err != nil {
				return err
			}
		}
	}
}

func TestFetchLeavesASourceThatBringsNothing(t *testing.T) {
	for what, alive := range map[string]bool{"silent": false, "starving": true} {
		t.Run(what, func(t *testing.T) {
			nodes, data := cluster(t, 2), random(1<<20)
			m := nodes[0].hold(t, "s", data)
			idle := &node{name: "etcd-9"}
			idle.serve(t, &stuck{alive: alive})
			nodes[1].rounds = 1000 // so that only asking the others helps in time
			fetched, err := nodes[1].fetch(t.Context(), m, impatient, nil, idle, nodes[0])
			if err != nil || !slices.Equal(fetched.GetNodes(), []string{"etcd-1"}) {
				t.Errorf("%v, %v", fetched, err)
			}
			nodes[1].expectGood(t, m)
		})
	}
}

func TestOnlyTheDirectSuccessorOfASilentNodeMoves(t *testing.T) {
	nodes, data := cluster(t, 5), random(4<<20)
	m := nodes[0].hold(t, "s", data)
	nodes[2] = &node{name: "etcd-3"}
	nodes[2].serve(t, &stuck{})
	want := [][]string{1: {"etcd-1"}, 3: {"etcd-2"}, 4: {"etcd-4"}}
	var group errgroup.Group
	for _, i := range []int{1, 3, 4} {
		group.Go(func() error {
			fetched, err := nodes[i].fetch(t.Context(), m, 4*impatient, nil, before(nodes, i)...)
			if !slices.Equal(fetched.GetNodes(), want[i]) {
				t.Errorf("%s fetched from %v, want %v", nodes[i].name, fetched.GetNodes(), want[i])
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	nodes[0].expectSentOnce(t, m)
}

func TestFetchGivesUpWhenAllSourcesOnlyWait(t *testing.T) {
	n, m := start(t, "etcd-1"), describe("s", random(1<<20))
	a, b := &node{name: "etcd-8"}, &node{name: "etcd-9"}
	a.serve(t, &stuck{alive: true})
	b.serve(t, &stuck{alive: true})
	_, err := n.fetch(t.Context(), m, 3*keepAlive, nil, a, b)
	var sources *transfer.SourcesError
	if !errors.As(err, &sources) || len(sources.Failures) != 2 {
		t.Errorf("%v", err)
	}
}

func TestSourceThatWaitsIsKeptWhileNobodyHasMore(t *testing.T) {
	nodes, data := cluster(t, 3), random(4<<20)
	m := describe("s", data)
	head, err := nodes[0].vault.Receive(m) // a node that receives, with long pauses
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *agentv1.Fetched, 1)
	go func() {
		fetched, err := nodes[1].fetch(t.Context(), m, impatient, nil, nodes[0], nodes[2])
		if err != nil {
			t.Error(err)
		}
		got <- fetched
	}()
	ticker := time.NewTicker(impatient * 3 / 2)
	defer ticker.Stop()
	for piece := range slices.Chunk(data, 2<<20) {
		<-ticker.C
		if _, err := head.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := head.Commit(); err != nil {
		t.Fatal(err)
	}
	if fetched := <-got; !slices.Equal(fetched.GetNodes(), []string{"etcd-1"}) {
		t.Errorf("%v", fetched)
	}
	nodes[1].expectGood(t, m)
	nodes[0].expectSentOnce(t, m)
}

func TestFetchWaitsForATaskThatHasNotBegun(t *testing.T) {
	nodes, data := cluster(t, 2), random(1<<20)
	m := describe("s", data)
	asked := make(chan struct{}, 100)
	nodes[1].wrap = func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		return next(ctx, desc, cc, method, opts...)
	}
	var group errgroup.Group
	group.Go(func() error {
		_, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0])
		return err
	})
	for range 3 {
		<-asked
	}
	nodes[0].hold(t, "s", data)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	nodes[1].expectGood(t, m)
}

func TestFetchReplacesAPartialOfAnotherFile(t *testing.T) {
	nodes, data := cluster(t, 2), random(2<<20)
	m := nodes[0].hold(t, "s", data)
	r, err := nodes[1].vault.Receive(describe("s", random(3<<20)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(random(1 << 20)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	fetched, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0])
	if err != nil || fetched.GetWireBytes() != m.GetSize() {
		t.Errorf("%v, %v", fetched, err)
	}
	nodes[1].expectGood(t, m)
}

func TestCompressedStreamArrives(t *testing.T) {
	nodes := cluster(t, 2)
	data := bytes.Repeat([]byte("/registry/pods/default/web-0 "), 1<<20)
	m := nodes[0].hold(t, "s", data)
	f := transfer.NewFetcher(nodes[1].vault, nodes[1].dial, hclog.NewNullLogger(), transfer.Options{})
	spec := &agentv1.FetchCopy{Manifest: m, Sources: []*agentv1.Source{nodes[0].source()}}
	fetched, err := f.Fetch(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	if wire := nodes[0].server.SentOnWire("s"); wire != fetched.GetWireBytes() || wire >= m.GetSize() {
		t.Errorf("sent %d, received %d, of %d: not one chunk was tried compressed", wire, fetched.GetWireBytes(), m.GetSize())
	}
	nodes[1].expectGood(t, m)
}

func TestServerRefuses(t *testing.T) {
	n, data := start(t, "etcd-1"), random(1000)
	m := n.hold(t, "s", data)
	n.hold(t, "secret", data)
	release := n.allow("s", "etcd-2")
	n.allow("none", "etcd-2")
	good := func() *agentv1.FetchRequest {
		return &agentv1.FetchRequest{Name: "s", Sha256: m.GetSha256(), Size: m.GetSize()}
	}
	for what, c := range map[string]struct {
		cluster, node string
		spoil         func(*agentv1.FetchRequest)
		want          codes.Code
	}{
		"nothing":         {"prod", "etcd-2", func(*agentv1.FetchRequest) {}, codes.OK},
		"the whole":       {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Offset = r.Size }, codes.OK},
		"other cluster":   {"test", "etcd-2", func(*agentv1.FetchRequest) {}, codes.PermissionDenied},
		"no certificate":  {"", "", func(*agentv1.FetchRequest) {}, codes.PermissionDenied},
		"other node":      {"prod", "etcd-3", func(*agentv1.FetchRequest) {}, codes.PermissionDenied},
		"not granted":     {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Name = "secret" }, codes.PermissionDenied},
		"outside":         {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Name = "../s" }, codes.InvalidArgument},
		"not there":       {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Name = "none" }, codes.NotFound},
		"other SHA-256":   {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Sha256 = strings.Repeat("0", 64) }, codes.FailedPrecondition},
		"other size":      {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Size++ }, codes.FailedPrecondition},
		"no size":         {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Size = 0 }, codes.InvalidArgument},
		"beyond":          {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Offset = r.Size + 1 }, codes.InvalidArgument},
		"negative offset": {"prod", "etcd-2", func(r *agentv1.FetchRequest) { r.Offset = -1 }, codes.InvalidArgument},
	} {
		req := good()
		c.spoil(req)
		if err := call(t, n, c.cluster, c.node, req); status.Code(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
	n.allow("s", "etcd-2")()
	if err := call(t, n, "prod", "etcd-2", good()); err != nil {
		t.Errorf("after one of two grants was released: %v", err)
	}
	release()
	release()
	if err := call(t, n, "prod", "etcd-2", good()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after both were released: %v", err)
	}
}

// call reads a stream to its end as cluster's node.
func call(t *testing.T, n *node, cluster, node string, req *agentv1.FetchRequest) error {
	t.Helper()
	conn, err := grpc.NewClient(n.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := t.Context()
	if node != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "cluster", cluster, "node", node)
	}
	stream, err := agentv1.NewTransferServiceClient(conn).Fetch(ctx, req)
	if err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Revoked certificates have not expired, so it is the key that counts.
func TestRevokedNodeIsRefusedAndItsStreamEnds(t *testing.T) {
	n, data := start(t, "etcd-1"), random(1000)
	m := describe("s", data)
	growing, err := n.vault.Receive(m)
	if err != nil {
		t.Fatal(err)
	}
	defer growing.Close()
	if _, err := growing.Write(data[:100]); err != nil {
		t.Fatal(err)
	}
	n.allow("s", "etcd-2")
	req := &agentv1.FetchRequest{Name: "s", Sha256: m.GetSha256(), Size: m.GetSize()}
	ended := make(chan error, 1)
	go func() { ended <- call(t, n, "prod", "etcd-2", req) }()
	for deadline := time.Now().Add(patient); n.server.Sent("s") == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing was sent while the key was good")
		}
		runtime.Gosched()
	}
	n.grants.Know("etcd-2", "another key")
	select {
	case err := <-ended:
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("the stream under way: %v", err)
		}
	case <-time.After(patient):
		t.Error("the stream under way goes on")
	}
	if err := call(t, n, "prod", "etcd-2", req); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a new stream: %v", err)
	}
	n.grants.KnowOnly(map[string][]string{"etcd-3": {"key"}})
	if err := n.grants.MayRead(t.Context(), transfer.Peer{Cluster: "prod", Node: "etcd-2", Key: "another key"}, "s"); err == nil {
		t.Error("a node that a new session does not tell of is known")
	}
	if readers := n.grants.Readers(); len(readers) != 1 || readers[0] != "etcd-2" {
		t.Errorf("the next session would ask for the keys of %v", readers)
	}
}

func TestServerWithoutPeerRefusesEverybody(t *testing.T) {
	n := start(t, "etcd-1")
	m := n.hold(t, "s", random(1000))
	n.allow("s", "etcd-2")
	blind := &node{name: "blind"}
	blind.serve(t, transfer.NewServer(n.vault, n.grants, hclog.NewNullLogger()))
	err := call(t, blind, "", "etcd-2", &agentv1.FetchRequest{Name: "s", Sha256: m.GetSha256(), Size: m.GetSize()})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v", err)
	}
}

// flaky is a source that breaks off after each chunk.
type flaky struct {
	agentv1.UnimplementedTransferServiceServer
	data []byte
}

func (f *flaky) Fetch(req *agentv1.FetchRequest, stream agentv1.TransferService_FetchServer) error {
	rest := f.data[req.GetOffset():]
	rest = rest[:min(len(rest), 100_000)]
	chunk := &agentv1.FetchResponse{Offset: req.GetOffset(), Data: rest, Crc32C: crc32.Checksum(rest, crc32.MakeTable(crc32.Castagnoli))}
	if err := stream.Send(chunk); err != nil {
		return err
	}
	return status.Error(codes.Unavailable, "shutting down")
}

func TestFetchGoesOnAsLongAsThereIsProgress(t *testing.T) {
	n, data := start(t, "etcd-2"), random(1<<20)
	source := &node{name: "etcd-1"}
	source.serve(t, &flaky{data: data})
	m := describe("s", data)
	if _, err := n.fetch(t.Context(), m, patient, nil, source); err != nil {
		t.Fatal(err)
	}
	n.expectGood(t, m)
}
