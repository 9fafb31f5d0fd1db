package snapshot

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	succeeded = requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
	refused   = requorumv1.OperationState_OPERATION_STATE_REFUSED
	reverted  = requorumv1.OperationState_OPERATION_STATE_REVERTED
)

// fleet stands for the nodes a, b and c of a healthy cluster, whose leader is on a.
type fleet struct {
	mu      sync.Mutex
	facts   map[string]*agentv1.NodeFacts
	offline map[string]bool
	hashes  map[string]*agentv1.HashKVResult
	vaults  map[string]map[string]*requorumv1.Manifest // by node and name; nil as long as there is no manifest
	found   map[string]requorumv1.CopyState            // what a node finds in its copy, if not what there is
	asked   []string                                   // "kind node", in order
	answer  func(node string, t *agentv1.Task) (*agentv1.TaskResult, error)

	cannotServe map[string]error // why a node does not serve its copy
	hangs       map[string]bool  // nodes that neither serve nor say so
}

func newFleet() *fleet {
	f := &fleet{
		facts: map[string]*agentv1.NodeFacts{}, offline: map[string]bool{}, hashes: map[string]*agentv1.HashKVResult{},
		vaults: map[string]map[string]*requorumv1.Manifest{}, found: map[string]requorumv1.CopyState{},
	}
	for i, node := range []string{"a", "b", "c"} {
		f.facts[node] = &agentv1.NodeFacts{VaultFreeBytes: 1 << 30, Member: &requorumv1.Member{
			Id: "id-" + node, Name: "m-" + node, Leader: "id-a", ClusterId: "cafe", Serving: true,
			Revision: int64(100 - i), RaftAppliedIndex: uint64(200 - i), DbSize: 1 << 20,
			Members: []*requorumv1.ListedMember{{Id: "id-a"}, {Id: "id-b"}, {Id: "id-c"}},
		}}
		f.hashes[node] = &agentv1.HashKVResult{Hash: 42, Revision: 98, CompactRevision: 7}
		f.vaults[node] = map[string]*requorumv1.Manifest{}
	}
	return f
}

func (f *fleet) member(node string) *requorumv1.Member { return f.facts[node].GetMember() }

func (f *fleet) Gather(context.Context, string, []string) {}

func (f *fleet) AskNode(ctx context.Context, cluster, node string, t *agentv1.Task) (*agentv1.TaskResult, error) {
	return f.Do(ctx, cluster, node, t, func(*agentv1.TaskReport) {})
}

func (f *fleet) Info(key dispatch.Key) dispatch.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	return dispatch.Info{Member: f.facts[key.Node].GetMember(), Connected: f.facts[key.Node] != nil && !f.offline[key.Node], TransferAddress: key.Node + ":1", Seen: time.Now().Add(-time.Minute)}
}

func (f *fleet) Do(ctx context.Context, _, node string, t *agentv1.Task, report func(*agentv1.TaskReport)) (*agentv1.TaskResult, error) {
	if _, serving := t.GetSpec().(*agentv1.Task_ServeCopy); serving {
		return nil, f.serve(ctx, node, report)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, strings.TrimPrefix(fmt.Sprintf("%T ", t.GetSpec()), "*agentv1.Task_")+node)
	if f.answer != nil {
		if result, err := f.answer(node, t); result != nil || err != nil {
			return result, err
		}
	}
	return f.do(node, t), nil
}

// serve serves until ctx ends, on a node that can.
func (f *fleet) serve(ctx context.Context, node string, report func(*agentv1.TaskReport)) error {
	if err := f.cannotServe[node]; err != nil {
		return err
	}
	if !f.hangs[node] {
		report(&agentv1.TaskReport{Ticks: 1})
	}
	<-ctx.Done()
	return ctx.Err()
}

// do is what a healthy node does. The caller holds mu.
func (f *fleet) do(node string, t *agentv1.Task) *agentv1.TaskResult {
	vault := f.vaults[node]
	switch spec := t.GetSpec().(type) {
	case *agentv1.Task_InspectNode:
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Node{Node: f.facts[node]}}
	case *agentv1.Task_HashKv:
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_HashKv{HashKv: f.hashes[node]}}
	case *agentv1.Task_SaveCopy:
		vault[spec.SaveCopy.GetName()] = nil
		return copied()
	case *agentv1.Task_ImportCopy:
		vault[spec.ImportCopy.GetName()] = nil
		return copied()
	case *agentv1.Task_InspectCopy:
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Manifest{Manifest: &requorumv1.Manifest{Revision: 98, Keys: 5, HashKv: 42}}}
	case *agentv1.Task_WriteManifest:
		vault[spec.WriteManifest.GetManifest().GetName()] = spec.WriteManifest.GetManifest()
	case *agentv1.Task_FetchCopy:
		vault[spec.FetchCopy.GetManifest().GetName()] = spec.FetchCopy.GetManifest()
	case *agentv1.Task_HashCopy:
		return f.hash(node, spec.HashCopy.GetManifest())
	case *agentv1.Task_DropCopy:
		if !spec.DropCopy.GetPartialOnly() {
			delete(vault, spec.DropCopy.GetName())
		}
	case *agentv1.Task_ListCopies:
		list := &agentv1.CopyList{Manifests: slices.DeleteFunc(slices.Collect(maps.Values(vault)), func(m *requorumv1.Manifest) bool { return m == nil })}
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copies{Copies: list}}
	}
	return &agentv1.TaskResult{}
}

func copied() *agentv1.TaskResult {
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: &agentv1.CopyFacts{Size: 100, Md5: "md5", Sha256: "sha", HasTrailer: true, EtcdVersion: "3.6.5"}}}
}

func (f *fleet) hash(node string, m *requorumv1.Manifest) *agentv1.TaskResult {
	state := requorumv1.CopyState_COPY_STATE_MISSING
	if _, there := f.vaults[node][m.GetName()]; there {
		state = requorumv1.CopyState_COPY_STATE_GOOD
	}
	if forced, ok := f.found[node]; ok {
		state = forced
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Hashed{Hashed: &requorumv1.Copy{State: state, Sha256: "sha"}}}
}

// holding lists the nodes that keep a file under that name.
func (f *fleet) holding(name string) string {
	var nodes []string
	for node, vault := range f.vaults {
		if _, there := vault[name]; there {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return strings.Join(nodes, " ")
}

// count counts the tasks of a kind.
func (f *fleet) count(kind string) int {
	n := 0
	for _, a := range f.asked {
		if strings.HasPrefix(a, kind+" ") {
			n++
		}
	}
	return n
}

// desk is where operations are started: an engine with the jobs of this package on a fleet.
type desk struct {
	*testing.T
	*Jobs
	fleet *fleet
}

// atDesk runs a test with cluster prod of nodes a, b and c.
func atDesk(t *testing.T, test func(*desk)) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	synctest.Test(t, func(t *testing.T) {
		d := &desk{T: t, fleet: newFleet(), Jobs: &Jobs{Catalog: catalog.New(db), Log: hclog.NewNullLogger()}}
		d.Fleet = d.fleet
		d.Engine = operation.NewEngine(db, d.fleet, 1, d.Builders(), hclog.NewNullLogger())
		d.enrol()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- d.Engine.Run(ctx) }()
		synctest.Wait()
		test(d)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func (d *desk) enrol() {
	d.Helper()
	err := d.Catalog.Write(func(tx store.Tx) error {
		for _, node := range []string{"a", "b", "c"} {
			if err := store.Save(tx, store.Nodes, "prod/"+node, &journalv1.NodeRecord{Cluster: "prod", Name: node}); err != nil {
				return err
			}
		}
		return catalog.UpdateCluster(tx, "prod", func(*journalv1.ClusterRecord) {})
	})
	if err != nil {
		d.Fatal(err)
	}
}

// ended returns an operation once it has ended.
func (d *desk) ended(op *requorumv1.Operation, err error) *requorumv1.Operation {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
	if err := d.Engine.Watch(d.Context(), op.GetId(), func(now *requorumv1.Operation) error { op = now; return nil }); err != nil {
		d.Fatal(err)
	}
	return op
}

// saved saves a snapshot with that name.
func (d *desk) saved(req *requorumv1.SaveSnapshotRequest) *requorumv1.Operation {
	d.Helper()
	req.Cluster = "prod"
	if req.GetName() == "" {
		req.Name = "s"
	}
	return d.ended(d.Save(req, "alice"))
}

func (d *desk) expect(op *requorumv1.Operation, state requorumv1.OperationState, failure string) {
	d.Helper()
	f := op.GetFailure()
	told := strings.Join([]string{f.GetNode(), f.GetMessage(), f.GetAdvice()}, "|")
	if op.GetState() != state || failure != "" && !strings.Contains(told, failure) || failure == "" && f != nil {
		d.Errorf("state %v, failure %q; want %v, %q", op.GetState(), told, state, failure)
	}
}

func (d *desk) entry(name string) *requorumv1.Snapshot {
	d.Helper()
	s, err := d.Catalog.Snapshot("prod", name)
	if err != nil {
		d.Fatal(err)
	}
	return s
}

// ready puts a READY snapshot into the catalog, with good copies on those nodes.
func (d *desk) ready(name string, nodes ...string) {
	d.Helper()
	m := &requorumv1.Manifest{Name: name, Cluster: "prod", Size: 100, Sha256: "sha", Created: timestamppb.Now()}
	s := &requorumv1.Snapshot{Name: name, Cluster: "prod", State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Manifest: m, Created: timestamppb.Now()}
	for _, node := range nodes {
		d.fleet.vaults[node][name] = m
		s.Copies = append(s.Copies, &requorumv1.Copy{Node: node, State: requorumv1.CopyState_COPY_STATE_GOOD})
	}
	if err := d.Catalog.Write(func(tx store.Tx) error { return catalog.Put(tx, s) }); err != nil {
		d.Fatal(err)
	}
}
