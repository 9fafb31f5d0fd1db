package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/ulid/v2"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/agent/journal"
	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/olddata"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/transfer"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable/durabletest"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/grpcserver"
)

// fakeRuntime runs the member of a test's etcd.
type fakeRuntime struct {
	etcd *etcdtest.Cluster // nil for a member that never runs

	mu    sync.Mutex
	conf  runtime.Member
	dead  error // what Alive says
	hangs bool  // whatever stops or starts
	fails error // what Inspect says
}

func (r *fakeRuntime) Name() string { return "fake" }

func (r *fakeRuntime) Inspect(context.Context) (runtime.Member, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conf, r.fails
}

func (r *fakeRuntime) set(change func(*fakeRuntime)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

// hang waits for ctx's end if the runtime hangs, and says what it waits for.
func (r *fakeRuntime) hang(ctx context.Context) error {
	r.mu.Lock()
	hangs := r.hangs
	r.mu.Unlock()
	if !hangs {
		return nil
	}
	<-ctx.Done()
	return fmt.Errorf("member/snap/db is held by etcd: %w", context.Cause(ctx))
}

func (r *fakeRuntime) Stop(ctx context.Context) error {
	if err := r.hang(ctx); err != nil {
		return err
	}
	if r.etcd != nil {
		r.etcd.Stop(0)
	}
	r.set(func(r *fakeRuntime) { r.conf.Running = false })
	return nil
}

func (r *fakeRuntime) ControlPlane() []string { return nil }

func (r *fakeRuntime) StopControlPlane(ctx context.Context) error { return r.hang(ctx) }

func (r *fakeRuntime) StartControlPlane(ctx context.Context) error { return r.hang(ctx) }

func (r *fakeRuntime) Start(ctx context.Context) error {
	if err := r.hang(ctx); err != nil {
		return err
	}
	if r.etcd != nil {
		r.etcd.Restart(0)
	}
	r.set(func(r *fakeRuntime) { r.conf.Running = true })
	return nil
}

func (r *fakeRuntime) Alive(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead
}

// fakeMember answers in place of etcd.
type fakeMember struct {
	Member
	snapshot func() (io.ReadCloser, string, error)
	verify   func() (*agentv1.Verified, error)
}

func (m *fakeMember) Status(context.Context) *requorumv1.Member { return &requorumv1.Member{} }

func (m *fakeMember) Snapshot(context.Context) (io.ReadCloser, string, error) { return m.snapshot() }

func (m *fakeMember) Verify(context.Context, *agentv1.Verify) (*agentv1.Verified, error) {
	return m.verify()
}

// testNode is a node whose tasks are given to it as a controller does.
type testNode struct {
	*Node
	t       *testing.T
	p       *process
	runtime *fakeRuntime
	member  Member // in place of the real one
	name    string
}

// nodeOf makes a node for a runtime.
func nodeOf(t *testing.T, name string, rt *fakeRuntime) *testNode {
	t.Helper()
	v, err := vault.Open(filepath.Join(t.TempDir(), "vault"), hclog.NewNullLogger())
	must(t, err)
	n := &testNode{t: t, runtime: rt, name: name}
	n.Node = &Node{Vault: OnDisk(v), Sealed: v, Runtime: rt, Grants: &transfer.Grants{}, Journal: obeying(t, file(t)), Log: hclog.NewNullLogger()}
	n.Old = &olddata.Reader{Runtime: rt, Log: hclog.NewNullLogger()}
	n.Fetcher = transfer.NewFetcher(v, n.dial, hclog.NewNullLogger(), transfer.Options{})
	n.Member = func(ctx context.Context) (Member, error) {
		if n.member != nil {
			return n.member, nil
		}
		conf, err := rt.Inspect(ctx)
		return member.New(member.Config{Endpoints: conf.ListenClientURLs}, hclog.NewNullLogger()), err
	}
	n.p = newProcess(t, n.Journal)
	n.p.Runner.handle = n.Do
	return n
}

// stopped is a runtime whose member has no data and does not run.
func stopped(t *testing.T) *fakeRuntime {
	return &fakeRuntime{conf: runtime.Member{
		Name: "m1", DataDir: filepath.Join(t.TempDir(), "etcd"), UID: os.Geteuid(), GID: os.Getegid(),
		ListenClientURLs: []string{"http://127.0.0.1:1"}, AdvertisePeerURLs: []string{"http://127.0.0.1:2"},
	}}
}

// serving is a runtime whose member serves a key.
func serving(t *testing.T) *fakeRuntime {
	t.Helper()
	c := etcdtest.Start(t, etcdtest.Options{})
	_, err := c.Client(t).Put(t.Context(), "k", "before")
	must(t, err)
	m := c.Member(0)
	return &fakeRuntime{etcd: c, conf: runtime.Member{
		Name: m.Name, DataDir: m.DataDir, UID: os.Geteuid(), GID: os.Getegid(), Running: true,
		ListenClientURLs: []string{m.ClientURL}, AdvertiseClientURLs: []string{m.ClientURL}, AdvertisePeerURLs: []string{m.PeerURL},
	}}
}

// newTask fills in what a controller does, around a spec.
func newTask(step string, task *agentv1.Task) *agentv1.Task {
	task.Id, task.OperationId, task.Step, task.Epoch, task.ControllerId = ulid.Make().String(), "op", step, epoch, controller
	return task
}

// ask gives the node a task and returns its last report.
func (n *testNode) ask(task *agentv1.Task) *agentv1.TaskReport {
	n.t.Helper()
	if task.GetId() == "" {
		task = newTask("step", task)
	}
	must(n.t, n.p.Deliver(task))
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	for {
		reports, err := n.p.Next(ctx)
		must(n.t, err)
		for _, r := range reports {
			if r.GetTaskId() == task.GetId() && r.GetState() != running {
				return r
			}
		}
	}
}

func (n *testNode) do(task *agentv1.Task) *agentv1.TaskResult {
	n.t.Helper()
	r := n.ask(task)
	if r.GetState() != done {
		n.t.Fatalf("%s: %v", Kind(task), r.GetError())
	}
	return r.GetResult()
}

func (n *testNode) refuses(task *agentv1.Task, code agentv1.TaskErrorCode, why string) {
	n.t.Helper()
	r := n.ask(task)
	if e := r.GetError(); r.GetState() != broken || e.GetCode() != code || !strings.Contains(e.GetMessage(), why) {
		n.t.Errorf("%s: %v, expected %v and %q", Kind(task), r, code, why)
	}
}

func save(name string) *agentv1.Task {
	return &agentv1.Task{Spec: &agentv1.Task_SaveCopy{SaveCopy: &agentv1.SaveCopy{Name: name}}}
}

func drop(name string, partial bool) *agentv1.Task {
	return &agentv1.Task{Spec: &agentv1.Task_DropCopy{DropCopy: &agentv1.DropCopy{Name: name, PartialOnly: partial}}}
}

func hash(m *requorumv1.Manifest) *agentv1.Task {
	return &agentv1.Task{Spec: &agentv1.Task_HashCopy{HashCopy: &agentv1.HashCopy{Manifest: m}}}
}

func fetchFrom(m *requorumv1.Manifest, sources ...*agentv1.Source) *agentv1.Task {
	return &agentv1.Task{Spec: &agentv1.Task_FetchCopy{FetchCopy: &agentv1.FetchCopy{Manifest: m, Sources: sources, Readers: []string{"reader"}}}}
}

// saved saves a snapshot, with its manifest, as the first steps of a save do.
func (n *testNode) saved(name string) *requorumv1.Manifest {
	n.t.Helper()
	facts := n.do(save(name)).GetCopy()
	if !facts.GetHasTrailer() || facts.GetEtcdVersion() == "" || facts.GetCreated() == nil {
		n.t.Errorf("%v", facts)
	}
	m := n.do(&agentv1.Task{Spec: &agentv1.Task_InspectCopy{InspectCopy: &agentv1.InspectCopy{Name: name}}}).GetManifest()
	m.FormatVersion, m.Name, m.Cluster, m.Node, m.Created = 1, name, "prod", n.name, facts.GetCreated()
	m.Size, m.Md5, m.Sha256, m.HasTrailer = facts.GetSize(), facts.GetMd5(), facts.GetSha256(), facts.GetHasTrailer()
	n.do(&agentv1.Task{Spec: &agentv1.Task_WriteManifest{WriteManifest: &agentv1.WriteManifest{Manifest: m}}})
	return m
}

func (n *testNode) expectCopy(m *requorumv1.Manifest, state requorumv1.CopyState) {
	n.t.Helper()
	if c := n.do(hash(m)).GetHashed(); c.GetState() != state {
		n.t.Errorf("%v, expected %v", c, state)
	}
}

// vaultFiles lists what is in the vault.
func (n *testNode) vaultFiles() []string {
	n.t.Helper()
	entries, err := os.ReadDir(n.Vault.Dir())
	must(n.t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func inspect() *agentv1.Task {
	return &agentv1.Task{Spec: &agentv1.Task_InspectNode{InspectNode: &agentv1.InspectNode{SnapshotSize: 1 << 20}}}
}

func TestInspectTellsWhatARestoreDependsOn(t *testing.T) {
	n := nodeOf(t, "etcd-1", serving(t))
	f := n.do(inspect()).GetNode()
	if !f.GetRunning() || !f.GetMember().GetServing() || !f.GetHasData() || f.GetProblem() != "" || f.GetDataNeededBytes() < 128<<20 ||
		f.GetDataFreeBytes() == 0 || f.GetVaultFreeBytes() == 0 || !f.GetSharedFileSystem() || len(f.GetQuarantinePaths()) != 1 || f.GetUid() != uint32(os.Geteuid()) {
		t.Errorf("%v", f)
	}
}

func TestInspectOfAMemberThatDoesNotRun(t *testing.T) {
	n := nodeOf(t, "etcd-1", serving(t))
	must(t, n.runtime.Stop(t.Context()))
	f := n.do(inspect()).GetNode()
	if f.GetRunning() || f.GetMember().GetServing() || f.GetMember().GetError() == "" || !f.GetHasData() || f.GetMember().GetDbSize() == 0 || f.GetMember().GetName() != "m1" {
		t.Errorf("not running: %v", f)
	}
	n.runtime.set(func(r *fakeRuntime) { r.conf.Wanted = true })
	if f = n.do(inspect()).GetNode(); !f.GetRunning() || f.GetMember().GetError() != "etcd does not run; its log on this node says why" {
		t.Errorf("between its end and the next start: %v", f)
	}
	n.runtime.set(func(r *fakeRuntime) { r.conf.Wanted = false })
	must(t, os.RemoveAll(n.runtime.conf.DataDir))
	if f = n.do(inspect()).GetNode(); f.GetHasData() || f.GetProblem() != "" || f.GetDataFreeBytes() == 0 {
		t.Errorf("data gone: %v", f)
	}
	n.runtime.set(func(r *fakeRuntime) { r.fails = errors.New("no unit file") })
	if f = n.do(inspect()).GetNode(); f.GetProblem() != "no unit file" {
		t.Errorf("not to be inspected: %v", f)
	}
}

func TestWALOnTheSameFileSystemNeedsSpaceToo(t *testing.T) {
	rt := stopped(t)
	n := nodeOf(t, "etcd-1", rt)
	inside := n.do(inspect()).GetNode()
	wal := filepath.Join(t.TempDir(), "wal")
	rt.set(func(r *fakeRuntime) { r.conf.WALDir = wal })
	if separate := n.do(inspect()).GetNode(); separate.GetDataNeededBytes() != inside.GetDataNeededBytes() || separate.GetWalNeededBytes() != 0 {
		t.Errorf("with a WAL directory of its own: %v, without: %v", separate, inside)
	}
	mountTmpfs(t, wal)
	alone := n.do(inspect()).GetNode()
	if sum := alone.GetDataNeededBytes() + alone.GetWalNeededBytes(); alone.GetWalNeededBytes() == 0 || sum != inside.GetDataNeededBytes() {
		t.Errorf("with a WAL on a file system of its own: %v, without: %v", alone, inside)
	}
	if free := alone.GetWalFreeBytes(); free == 0 || free > 16<<20 {
		t.Errorf("%d bytes free on a file system of 16 MiB", free)
	}
}

func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("requorum-test", dir, "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Skipf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestSaveInspectHashAndList(t *testing.T) {
	n := nodeOf(t, "etcd-1", serving(t))
	m := n.saved("s1")
	if m.GetRevision() == 0 || m.GetHashKv() == 0 {
		t.Errorf("%v", m)
	}
	n.expectCopy(m, requorumv1.CopyState_COPY_STATE_GOOD)
	n.refuses(save("s1"), agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, "already")
	if all := n.do(&agentv1.Task{Spec: &agentv1.Task_ListCopies{ListCopies: &agentv1.ListCopies{}}}).GetCopies().GetManifests(); len(all) != 1 || !proto.Equal(all[0], m) {
		t.Errorf("%v", all)
	}
	n.do(drop("s1", true))
	n.expectCopy(m, requorumv1.CopyState_COPY_STATE_GOOD)
	path, err := n.Vault.Path("s1")
	must(t, err)
	damage(t, path)
	n.expectCopy(m, requorumv1.CopyState_COPY_STATE_DIFFERENT)
	must(t, os.Remove(path))
	must(t, os.Mkdir(path, 0o700))
	n.expectCopy(m, requorumv1.CopyState_COPY_STATE_UNREADABLE)
	must(t, os.Remove(path))
	n.expectCopy(m, requorumv1.CopyState_COPY_STATE_MISSING)
	n.do(drop("s1", false))
	if left := n.vaultFiles(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// What was read of a copy does not take the memory that etcd needs: neither once it is inspected nor once it is staged.
func TestACopyDoesNotStayInThePageCache(t *testing.T) {
	rt := serving(t)
	n := nodeOf(t, "etcd-1", rt)
	m := n.saved("s1")
	path, err := n.Vault.Path("s1")
	must(t, err)
	isForgotten := func(after string) {
		if part := durabletest.Cached(t, path); part > 0.1 {
			t.Errorf("after it was %s, %.0f %% of the copy are in memory", after, 100*part)
		}
	}
	isForgotten("inspected")
	staged := n.do(stageTask(rt, m)).GetStaged()
	isForgotten("staged")
	if staged.GetHashKv() != m.GetHashKv() {
		t.Errorf("staged %v", staged)
	}
}

// damage changes a byte in the middle of a file.
func damage(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	data[len(data)/2] ^= 0xff
	must(t, os.WriteFile(path, data, 0o600))
}

func TestSaveAfterACrashBetweenFileAndJournal(t *testing.T) {
	n := nodeOf(t, "etcd-1", serving(t))
	n.do(save("s1"))
	n.do(save("s1")) // another ID stands for an answer that was not journaled
	must(t, os.WriteFile(filepath.Join(n.Vault.Dir(), "s1.json"), []byte("{damaged"), 0o600))
	n.refuses(save("s1"), agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, "already")
	if _, err := n.Vault.Path("s1"); err != nil {
		t.Errorf("a snapshot whose manifest cannot be read was removed: %v", err)
	}
}

func TestCutOffSnapshotStreamLeavesNothing(t *testing.T) {
	for name, stream := range map[string]io.Reader{
		"ends early": bytes.NewReader(make([]byte, 4096)),
		"breaks":     io.MultiReader(bytes.NewReader(make([]byte, 4096)), failingReader{}),
	} {
		t.Run(name, func(t *testing.T) {
			n := nodeOf(t, "etcd-1", stopped(t))
			n.member = &fakeMember{snapshot: func() (io.ReadCloser, string, error) { return io.NopCloser(stream), "3.6.0", nil }}
			n.refuses(save("s1"), agentv1.TaskErrorCode_TASK_ERROR_CODE_UNSPECIFIED, "stream")
			if left := n.vaultFiles(); len(left) != 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestImport(t *testing.T) {
	rt := serving(t)
	n := nodeOf(t, "etcd-1", rt)
	path := rt.etcd.SaveSnapshot(t, 0)
	task := func(skip bool) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_ImportCopy{ImportCopy: &agentv1.ImportCopy{Name: "i1", Path: path, SkipHashCheck: skip}}}
	}
	if facts := n.do(task(false)).GetCopy(); !facts.GetHasTrailer() {
		t.Errorf("%v", facts)
	}
	n.do(task(false)) // after a crash between file and journal
	damage(t, path)
	n.refuses(task(false), agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT, "damaged")
	n.do(task(true))
}

// dial calls a neighbour without TLS; the neighbour takes everybody for "reader".
func (n *testNode) dial(_ context.Context, s *agentv1.Source) (grpc.ClientConnInterface, io.Closer, error) {
	conn, err := grpc.NewClient(s.GetAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	return conn, conn, err
}

func (n *testNode) listen() *agentv1.Source {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(n.t, err)
	server := grpc.NewServer()
	n.Grants.Know("reader", "key")
	peer := func(context.Context) (transfer.Peer, error) { return reader, nil }
	agentv1.RegisterTransferServiceServer(server, transfer.NewServer(n.Vault.(vaultOnDisk).Vault, n.Grants, hclog.NewNullLogger(), transfer.WithPeer("prod", peer)))
	served := make(chan error, 1)
	go func() { served <- grpcserver.Serve(server, l) }()
	n.t.Cleanup(func() { server.Stop(); must(n.t, <-served) })
	return &agentv1.Source{Node: n.name, Address: l.Addr().String()}
}

func (n *testNode) mayRead(name string) bool {
	n.Grants.Know("reader", "key")
	return n.Grants.MayRead(n.t.Context(), reader, name) == nil
}

var reader = transfer.Peer{Cluster: "prod", Node: "reader", Key: "key"}

func TestFetchFromANeighbour(t *testing.T) {
	holder, taker := nodeOf(t, "etcd-1", serving(t)), nodeOf(t, "etcd-2", stopped(t))
	m := holder.saved("s1")
	serve := newTask("distribute", &agentv1.Task{Spec: &agentv1.Task_ServeCopy{ServeCopy: &agentv1.ServeCopy{Name: "s1", Readers: []string{"reader"}}}})
	must(t, holder.p.Deliver(serve))
	source := holder.listen()
	fetched := taker.do(newTask("distribute", fetchFrom(m, source))).GetFetched()
	if fetched.GetWireBytes() == 0 || len(fetched.GetNodes()) != 1 {
		t.Errorf("%v", fetched)
	}
	taker.expectCopyIn("distribute", m)
	if !taker.mayRead("s1") {
		t.Error("those behind in the chain may not read")
	}
	path, err := taker.Vault.Path("s1")
	must(t, err)
	damage(t, path)
	taker.do(newTask("distribute", fetchFrom(m, source))) // damaged, it is replaced
	taker.expectCopyIn("distribute", m)
	taker.do(newTask("agree", hash(m)))
	if taker.mayRead("s1") {
		t.Error("the grant outlives its step")
	}
	holder.p.Resume(nil) // the cancellation was lost
	holder.p.awaitEnd(t, serve.GetId())
	if holder.mayRead("s1") {
		t.Error("a serve that nobody wants goes on")
	}
}

// awaitEnd waits until a task that was cancelled has ended.
func (p *process) awaitEnd(t *testing.T, id string) {
	t.Helper()
	p.Runner.mu.Lock()
	e := p.known[id]
	p.Runner.mu.Unlock()
	if e == nil {
		return
	}
	select {
	case <-e.done:
	case <-time.After(soon):
		t.Fatalf("%s goes on", id)
	}
}

func (n *testNode) expectCopyIn(step string, m *requorumv1.Manifest) {
	n.t.Helper()
	if c := n.do(newTask(step, hash(m))).GetHashed(); c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
		n.t.Errorf("%v", c)
	}
}

func TestDropEndsTheGrantsOfAFailedStep(t *testing.T) {
	n := nodeOf(t, "etcd-1", serving(t))
	m := n.saved("s1")
	n.do(newTask("distribute", fetchFrom(m)))
	if !n.mayRead("s1") {
		t.Fatal("no grant")
	}
	n.do(newTask("distribute", drop("s1", true)))
	if n.mayRead("s1") {
		t.Error("the grant outlives the drop")
	}
}

func TestDropWaitsForTheFetchItCancels(t *testing.T) {
	n := nodeOf(t, "etcd-2", stopped(t))
	holder := nodeOf(t, "etcd-1", serving(t))
	m := holder.saved("s1")
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	must(t, err)
	defer silent.Close()
	must(t, n.p.Deliver(newTask("distribute", fetchFrom(m, &agentv1.Source{Node: "etcd-1", Address: silent.Addr().String()}))))
	n.do(newTask("distribute", drop("s1", false)))
	if left := n.vaultFiles(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestPush(t *testing.T) {
	n := nodeOf(t, "etcd-1", serving(t))
	m := n.saved("s1")
	sink := &pushSink{}
	n.Push = func(context.Context) (grpc.ClientStreamingClient[agentv1.PushCopyRequest, agentv1.PushCopyResponse], error) {
		return sink, nil
	}
	push := func() *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_PushCopy{PushCopy: &agentv1.PushCopy{Name: "s1", RelayId: "r"}}}
	}
	n.do(push())
	if int64(sink.data.Len()) != m.GetSize() || sink.relay != "r" || !sink.closed {
		t.Errorf("%d bytes of %d for %q, closed %v", sink.data.Len(), m.GetSize(), sink.relay, sink.closed)
	}
	sink.refuses = errors.New("the operator went away")
	n.refuses(push(), agentv1.TaskErrorCode_TASK_ERROR_CODE_UNSPECIFIED, "the operator went away")
}

type pushSink struct {
	grpc.ClientStreamingClient[agentv1.PushCopyRequest, agentv1.PushCopyResponse]
	data    bytes.Buffer
	relay   string
	closed  bool
	refuses error
}

func (s *pushSink) Send(r *agentv1.PushCopyRequest) error {
	if s.refuses != nil {
		return io.EOF
	}
	s.relay = r.GetRelayId()
	_, err := s.data.Write(r.GetData())
	return err
}

func (s *pushSink) CloseAndRecv() (*agentv1.PushCopyResponse, error) {
	s.closed = true
	return nil, s.refuses
}

// TestRestore follows one node through a restore, on a member that really starts on what was staged.
func TestRestore(t *testing.T) {
	rt := serving(t)
	n := nodeOf(t, "etcd-1", rt)
	n.SetClusterGeneration(5)
	m := n.saved("s1")
	_, err := rt.etcd.Client(t).Put(t.Context(), "k", "after")
	must(t, err)

	staged := n.do(stageTask(rt, m)).GetStaged()
	if staged.GetHashKv() != m.GetHashKv() {
		t.Errorf("staged HashKV %d, snapshot's %d", staged.GetHashKv(), m.GetHashKv())
	}
	swap := &agentv1.Task{Spec: &agentv1.Task_Swap{Swap: &agentv1.Swap{RestoreId: "r1"}}}
	n.refuses(proto.CloneOf(swap), agentv1.TaskErrorCode_TASK_ERROR_CODE_UNSPECIFIED, "in use")
	n.do(&agentv1.Task{Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{RestoreId: "r1"}}})
	old := n.do(swap).GetSwapped().GetQuarantinePaths()
	restored, err := n.Journal.Restored()
	must(t, err)
	if restored == nil || restored.RestoreID != "r1" || restored.ClusterGeneration != 5 {
		t.Errorf("noted %v", restored)
	}
	n.do(&agentv1.Task{Spec: &agentv1.Task_Start{Start: &agentv1.Start{RestoreId: "r1"}}})
	verified := n.do(verifyTask(rt, staged)).GetVerified()
	h := verified.GetHashKv()
	if h.GetHash() != staged.GetStartedHashKv() || h.GetCompactRevision() != staged.GetStartedCompactRevision() || verified.GetMember().GetRevision() != staged.GetRevision() {
		t.Errorf("started: %v at revision %d; staged: %v", h, verified.GetMember().GetRevision(), staged)
	}
	got, err := rt.etcd.Client(t).Get(t.Context(), "k")
	must(t, err)
	if string(got.Kvs[0].Value) != "before" {
		t.Errorf("k is %s", got.Kvs[0].Value)
	}
	n.opens(rt, staged)
	n.savesOld("r1")
	n.do(&agentv1.Task{Spec: &agentv1.Task_Open{Open: &agentv1.Open{RestoreId: "r1", PastPivot: true}}})
	n.refuses(&agentv1.Task{Spec: &agentv1.Task_SwapBack{SwapBack: &agentv1.SwapBack{RestoreId: "r1"}}}, agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, "has ended on this node")
	wrong := proto.CloneOf(staged)
	wrong.ClusterId = "1"
	n.refuses(verifyTask(rt, wrong), agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, "cluster ID")
	n.finishes(old)
	n.refusesWhatUndoes("r1")
}

// opens makes sure that writes are refused until they are let in.
func (n *testNode) opens(rt *fakeRuntime, staged *agentv1.Staged) {
	n.t.Helper()
	if _, err := rt.etcd.Client(n.t).Put(n.t.Context(), "early", "v"); !errors.Is(err, rpctypes.ErrCorrupt) {
		n.t.Errorf("a write before the cluster is open: %v", err)
	}
	lift := verifyTask(rt, staged)
	lift.GetVerify().LiftGate = true
	n.do(lift)
	_, err := rt.etcd.Client(n.t).Put(n.t.Context(), "late", "v")
	must(n.t, err)
}

// savesOld saves a snapshot of the data that the restore has put aside, and looks for the last write in it.
func (n *testNode) savesOld(id string) {
	n.t.Helper()
	old := n.do(&agentv1.Task{Spec: &agentv1.Task_InspectOld{InspectOld: &agentv1.InspectOld{RestoreId: id}}}).GetOld()
	if !old.GetReadable() || old.GetLastChange() == 0 || old.GetAppliedIndex() < old.GetLastChange() {
		n.t.Errorf("old data: %v", old)
	}
	facts := n.do(&agentv1.Task{Spec: &agentv1.Task_SaveOld{SaveOld: &agentv1.SaveOld{RestoreId: id, Name: "old", EtcdVersion: "3.7.3"}}}).GetCopy()
	m := n.do(&agentv1.Task{Spec: &agentv1.Task_InspectCopy{InspectCopy: &agentv1.InspectCopy{Name: "old"}}}).GetManifest()
	if !facts.GetHasTrailer() || facts.GetEtcdVersion() != "3.7.3" || m.GetAppliedIndex() != old.GetAppliedIndex() || m.GetRevision() < 3 {
		n.t.Errorf("saved %v, which holds %v", facts, m)
	}
}

// refusesWhatUndoes tries everything that a controller from an older copy would do to a restore that has ended.
func (n *testNode) refusesWhatUndoes(id string) {
	n.t.Helper()
	for _, task := range []*agentv1.Task{
		{Spec: &agentv1.Task_Stage{Stage: &agentv1.Stage{RestoreId: id, Learner: true}}},
		{Spec: &agentv1.Task_Unstage{Unstage: &agentv1.Unstage{RestoreId: id}}},
		{Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{RestoreId: id}}},
		{Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{RestoreId: id, ControlPlaneOnly: true}}},
		{Spec: &agentv1.Task_Swap{Swap: &agentv1.Swap{RestoreId: id}}},
		{Spec: &agentv1.Task_SwapBack{SwapBack: &agentv1.SwapBack{RestoreId: id}}},
		{Spec: &agentv1.Task_Start{Start: &agentv1.Start{RestoreId: id}}},
	} {
		n.refuses(task, agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, "restore "+id+" has ended on this node")
	}
	n.do(&agentv1.Task{Spec: &agentv1.Task_Open{Open: &agentv1.Open{RestoreId: id}}})
	n.do(&agentv1.Task{Spec: &agentv1.Task_Finish{Finish: &agentv1.Finish{RestoreId: id, Generation: 6}}})
	n.do(&agentv1.Task{Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{RestoreId: "another"}}})
}

func stageTask(rt *fakeRuntime, m *requorumv1.Manifest) *agentv1.Task {
	peer := rt.etcd.Member(0).PeerURL
	return &agentv1.Task{Spec: &agentv1.Task_Stage{Stage: &agentv1.Stage{
		RestoreId: "r1", Manifest: m, MemberName: "m1", PeerUrls: []string{peer}, InitialCluster: "m1=" + peer, ClusterToken: "fresh", BumpRevision: 1000,
	}}}
}

func verifyTask(rt *fakeRuntime, staged *agentv1.Staged) *agentv1.Task {
	return &agentv1.Task{Spec: &agentv1.Task_Verify{Verify: &agentv1.Verify{
		ClusterId: staged.GetClusterId(), MemberId: staged.GetMemberId(), Revision: staged.GetRevision(), HashRevision: staged.GetRevision(),
		Members: map[string]string{"m1": rt.etcd.Member(0).PeerURL}, Gate: staged.GetGate(),
	}}}
}

// finishes ends the restore r1, after which old data is kept until its time.
func (n *testNode) finishes(old []string) {
	t, expires := n.t, time.Now().Add(time.Hour)
	t.Helper()
	must(t, n.Journal.Update(func(s *journalv1.AgentRecord) error { s.Fenced = true; return nil }))
	n.do(&agentv1.Task{Spec: &agentv1.Task_Finish{Finish: &agentv1.Finish{RestoreId: "r1", Generation: 6, QuarantineExpires: timestamppb.New(expires)}}})
	state, err := n.Journal.State()
	must(t, err)
	if state.GetGeneration() != 6 || state.GetFenced() {
		t.Errorf("%v", state)
	}
	if restored, err := n.Journal.Restored(); err != nil || restored != nil {
		t.Errorf("%v, %v", restored, err)
	}
	scratch := n.runtime.etcd.Member(0).DataDir + ".staging-r1"
	must(t, os.MkdirAll(scratch, 0o700))
	must(t, n.RemoveScratch(t.Context()))
	if _, err := os.Stat(scratch); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a dead agent left is still there: %v", err)
	}
	must(t, n.RemoveExpired(t.Context(), expires.Add(-time.Minute)))
	if _, err := os.Stat(old[0]); err != nil {
		t.Errorf("removed before its time: %v", err)
	}
	must(t, n.RemoveExpired(t.Context(), expires.Add(time.Minute)))
	if _, err := os.Stat(old[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if all, err := n.Journal.Quarantines(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestOldFilesExpireWithTheOldData(t *testing.T) {
	n := nodeOf(t, "etcd-1", stopped(t))
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	n.Files = &files.Keeper{Sets: files.Sets{"pki": {key}}, Dir: t.TempDir(), Records: t.TempDir()}
	must(t, os.WriteFile(key, []byte("of the snapshot"), 0o600))
	b, err := n.Files.Pack(t.Context(), "a", []string{"pki"})
	must(t, err)
	must(t, os.WriteFile(key, []byte("later"), 0o600))
	must(t, n.Files.Restore(t.Context(), "r1", "a", b))
	expires := time.Now().Add(time.Hour)
	must(t, n.Journal.PutQuarantine(&journalv1.QuarantineRecord{RestoreId: "r1", Files: true, Expires: timestamppb.New(expires)}))
	old := filepath.Join(dir, ".requorum-quarantine-r1-key")
	must(t, n.RemoveExpired(t.Context(), expires.Add(-time.Minute)))
	if data, err := os.ReadFile(old); err != nil || string(data) != "later" {
		t.Errorf("%q, %v", data, err)
	}
	must(t, n.RemoveExpired(t.Context(), expires.Add(time.Minute)))
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if all, err := n.Journal.Quarantines(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestOnlyOurOldDataIsRemoved(t *testing.T) {
	n := nodeOf(t, "etcd-1", stopped(t))
	foreign := t.TempDir()
	past := timestamppb.New(time.Unix(1, 0))
	must(t, n.Journal.PutQuarantine(&journalv1.QuarantineRecord{RestoreId: "r1", Paths: []string{foreign}, Expires: past}))
	must(t, n.Journal.PutQuarantine(&journalv1.QuarantineRecord{RestoreId: "r2", Paths: []string{foreign}}))
	if err := n.RemoveExpired(t.Context(), time.Now()); err == nil || !strings.Contains(err.Error(), foreign) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
}

func TestSwapBackEndsTheNote(t *testing.T) {
	rt := serving(t)
	n := nodeOf(t, "etcd-1", rt)
	n.do(stageTask(rt, n.saved("s1")))
	n.do(&agentv1.Task{Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{}}})
	n.do(&agentv1.Task{Spec: &agentv1.Task_Swap{Swap: &agentv1.Swap{RestoreId: "r1"}}})
	n.do(&agentv1.Task{Spec: &agentv1.Task_SwapBack{SwapBack: &agentv1.SwapBack{RestoreId: "r1"}}})
	n.do(&agentv1.Task{Spec: &agentv1.Task_Unstage{Unstage: &agentv1.Unstage{RestoreId: "r1"}}})
	if restored, err := n.Journal.Restored(); err != nil || restored != nil {
		t.Errorf("%v, %v", restored, err)
	}
	n.do(&agentv1.Task{Spec: &agentv1.Task_Start{Start: &agentv1.Start{}}})
	siblings, err := filepath.Glob(rt.conf.DataDir + "*")
	must(t, err)
	if len(siblings) != 1 {
		t.Errorf("left %v", siblings)
	}
}

func TestVerify(t *testing.T) {
	notReady := &member.NotReadyError{Endpoint: "e", Reason: "it sees no leader"}
	task := func() *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Verify{Verify: &agentv1.Verify{}}}
	}
	t.Run("waits until the member is ready", func(t *testing.T) {
		n, tries := nodeOf(t, "etcd-1", stopped(t)), 0
		n.member = &fakeMember{verify: func() (*agentv1.Verified, error) {
			if tries++; tries < 3 {
				return nil, notReady
			}
			return &agentv1.Verified{}, nil
		}}
		n.do(task())
		if tries != 3 {
			t.Errorf("%d tries", tries)
		}
	})
	t.Run("fails at once when the process has died", func(t *testing.T) {
		rt := stopped(t)
		rt.dead = errors.New("etcd has ended; its last lines: panic")
		n := nodeOf(t, "etcd-1", rt)
		n.refuses(task(), agentv1.TaskErrorCode_TASK_ERROR_CODE_UNSPECIFIED, "panic")
	})
	t.Run("where there is no way back, takes a process that was started again", func(t *testing.T) {
		for _, spec := range []*agentv1.Verify{{LiftGate: true}, {AddLearners: map[string]string{"etcd-4": "http://d:2380"}}} {
			rt := stopped(t)
			rt.dead = errors.New("etcd has ended 1 times since it was started; its last lines: killed")
			n := nodeOf(t, "etcd-1", rt)
			n.member = &fakeMember{verify: func() (*agentv1.Verified, error) { return &agentv1.Verified{}, nil }}
			n.do(&agentv1.Task{Spec: &agentv1.Task_Verify{Verify: spec}})
		}
	})
	t.Run("gives up with the last reason", func(t *testing.T) {
		n := nodeOf(t, "etcd-1", stopped(t))
		n.StartWait = 200 * time.Millisecond
		n.member = &fakeMember{verify: func() (*agentv1.Verified, error) { return nil, notReady }}
		n.refuses(task(), agentv1.TaskErrorCode_TASK_ERROR_CODE_UNSPECIFIED, "took too long to serve: etcd at e is not ready yet: it sees no leader")
	})
}

func TestFinishingAgainEndsNoFence(t *testing.T) {
	n := nodeOf(t, "etcd-1", stopped(t))
	finish := func() {
		n.do(&agentv1.Task{Spec: &agentv1.Task_Finish{Finish: &agentv1.Finish{RestoreId: "r1", Generation: 6}}})
	}
	finish()
	must(t, n.Journal.Update(func(s *journalv1.AgentRecord) error { s.Fenced = true; return nil })) // it missed r2
	must(t, n.Journal.SetRestored(&journal.Restored{RestoreID: "r3"}))
	finish()
	state, err := n.Journal.State()
	must(t, err)
	restored, err := n.Journal.Restored()
	must(t, err)
	if state.GetGeneration() != 6 || !state.GetFenced() || restored == nil {
		t.Errorf("%v, noted %v", state, restored)
	}
}

func TestARuntimeThatHangsIsGivenUp(t *testing.T) {
	rt := stopped(t)
	rt.hangs = true
	n := nodeOf(t, "etcd-1", rt)
	n.StopWait, n.LaunchWait = 50*time.Millisecond, 50*time.Millisecond
	for late, task := range map[string]*agentv1.Task{
		"etcd did not stop in time":               {Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{}}},
		"the control plane did not stop in time":  {Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{ControlPlaneOnly: true}}},
		"etcd did not start in time":              {Spec: &agentv1.Task_Start{Start: &agentv1.Start{}}},
		"the control plane did not start in time": {Spec: &agentv1.Task_Open{Open: &agentv1.Open{}}},
	} {
		n.refuses(task, agentv1.TaskErrorCode_TASK_ERROR_CODE_UNSPECIFIED, "member/snap/db is held by etcd: "+late)
	}
}

func TestLearner(t *testing.T) {
	n := nodeOf(t, "etcd-1", stopped(t))
	n.do(&agentv1.Task{Spec: &agentv1.Task_Stage{Stage: &agentv1.Stage{RestoreId: "r1", Learner: true}}})
	n.refuses(&agentv1.Task{Spec: &agentv1.Task_Start{Start: &agentv1.Start{JoinCluster: "m1=http://127.0.0.1:2"}}},
		agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, "cannot start a member that joins")
}
