//go:build faultinject

package simulated_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"google.golang.org/grpc"

	agentpkg "github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/agent/journal"
	"github.com/requorum/requorum/agent/task"
	"github.com/requorum/requorum/agent/transfer"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/fault"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/reconcile"
	"github.com/requorum/requorum/controller/restore"
	"github.com/requorum/requorum/controller/schedule"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
)

const (
	clusterName = "prod"
	size        = 3         // nodes of a cluster
	goodName    = "good"    // the snapshot that is there from the beginning
	elderName   = "elder"   // another one, so that the first may be deleted
	importFile  = "brought" // a file that somebody has put on every node
)

// world is one cluster with its nodes, its controller, its clients and what a test does to them.
type world struct {
	t     *testing.T
	dir   string // of the agents' journals
	log   hclog.Logger
	lines *bytes.Buffer
	files files
	began time.Time

	starting   sync.Mutex // held while it is seen what is dead, and started again
	mu         sync.Mutex
	nodes      []*node
	controller *controller // nil while it is dead
	route      func(*node) *controller
	bucket     *bucket
	memory     *memory
	kept       *memory // a copy of it that a test took
	ended      bool
	automatic  bool           // controllers keep schedules and look at copies by themselves
	passed     map[string]int // fault points, how often
	armed      []*arming
	fired      int
	wrongs     []string
	busy       sync.WaitGroup // what stops and starts processes

	first    *database            // the cluster's data when the operation began
	good     *database            // what the snapshot holds
	acked    map[string]*database // by etcd cluster: the last write that a client was told is safe
	noWrites bool
}

// node is a machine.
type node struct {
	w       *world
	name    string
	disk    *disk
	etcd    etcd
	powered bool
	cut     bool // off the network
	agent   *process
	journal *journal.Journal // as the agent has it open
	grants  *transfer.Grants
	conn    *conn

	hang         *bool // not nil: the next task hangs; true: forever
	lose, double int   // how many of the next tasks lose their answer, come in twice
}

// controller is a controller's process.
type controller struct {
	*process
	memory     *memory
	catalog    *catalog.Catalog
	dispatcher *dispatch.Dispatcher
	engine     *operation.Engine
	snapshots  *snapshot.Jobs
	restores   *restore.Jobs
	schedules  *schedule.Scheduler
	copies     *reconcile.Reconciler
	hooked     context.Context // in which its fault points tell the test
}

// newWorld makes a cluster that serves, with a snapshot and some later writes, and starts all of requorum.
func newWorld(t *testing.T, dir string) *world {
	w := &world{t: t, dir: dir, memory: newMemory(), bucket: newBucket(), passed: map[string]int{}, acked: map[string]*database{}, lines: &bytes.Buffer{}, began: time.Now()}
	w.log = hclog.NewNullLogger()
	if *showLog {
		w.log = hclog.New(&hclog.LoggerOptions{Output: w.lines, Level: hclog.Debug, TimeFn: time.Now, TimeFormat: "15:04:05.000"})
	}
	for i := range size {
		w.nodes = append(w.nodes, &node{w: w, name: fmt.Sprintf("n%d", i+1), disk: newDisk(), powered: true})
	}
	w.good = seed(w.nodes)
	w.first = w.good
	w.acked[w.good.cluster] = w.good
	w.seedRecords()
	w.startController()
	for _, n := range w.nodes {
		w.startAgent(n)
	}
	w.busy.Go(w.clients)
	w.await("every agent has a session", time.Minute, w.connected)
	return w
}

// seedRecords writes what enrolment and an earlier save have left.
func (w *world) seedRecords() {
	content := w.files.encode(w.good)
	w.writeFiles(filesThen)
	elder, good := w.seedSnapshot(elderName, content), w.seedSnapshot(goodName, content)
	for _, n := range w.nodes {
		b, err := n.keeper().Pack(context.Background(), goodName, []string{fileSet})
		w.must(err)
		b.Node = n.name
		good.Manifest.Bundles = append(good.Manifest.Bundles, b)
	}
	w.seedRemote(good, content)
	w.writeFiles(filesNow)
	err := opened{w.memory, newProcess("seed")}.Update(func(t store.Tx) error {
		for _, n := range w.nodes {
			n.disk.copies[importFile] = content
			rec := &journalv1.NodeRecord{Cluster: clusterName, Name: n.name, KeyFingerprint: keyOf(n.name), Enrolled: timestamppb.Now(), TransferAddress: n.name}
			if err := store.Save(t, store.Nodes, clusterName+"/"+n.name, rec); err != nil {
				return err
			}
		}
		if err := store.Save(t, store.Clusters, clusterName, &journalv1.ClusterRecord{Name: clusterName, Voters: size}); err != nil {
			return err
		}
		return errors.Join(catalog.Put(t, elder), catalog.Put(t, good))
	})
	w.must(err)
}

// seedSnapshot puts a copy on every node.
func (w *world) seedSnapshot(name string, content []byte) *requorumv1.Snapshot {
	m := manifestOf(name, "n1", content, w.good)
	snap := &requorumv1.Snapshot{
		Name: name, Cluster: clusterName, Kind: m.GetKind(), State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Created: m.GetCreated(), Manifest: m,
	}
	for _, n := range w.nodes {
		n.disk.copies[name], n.disk.manifests[name] = content, m
		snap.Copies = append(snap.Copies, &requorumv1.Copy{Node: n.name, State: requorumv1.CopyState_COPY_STATE_GOOD, Size: m.GetSize(), Md5: m.GetMd5(), Sha256: m.GetSha256()})
	}
	return snap
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// wrong notes what must never happen. The caller holds the lock.
func (w *world) wrong(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(w.wrongs, text) {
		w.wrongs = append(w.wrongs, text)
	}
}

func (w *world) node(name string) *node {
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// controllerOf returns the controller that a node's connections lead to. The caller holds the lock.
func (w *world) controllerOf(n *node) *controller {
	if w.route != nil {
		return w.route(n)
	}
	return w.controller
}

// startController starts a controller on the controller's disk.
func (w *world) startController() *controller {
	k := w.newController(w.memory)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.controller = k
	return k
}

// newController wires a controller as package controller does.
func (w *world) newController(m *memory) *controller {
	k := &controller{process: newProcess("controller"), memory: m}
	db := opened{m, k.process}
	epoch, err := nextEpoch(db)
	w.must(err)
	k.catalog = catalog.New(db)
	k.dispatcher = dispatch.New(epoch, ulid.Make().String(), k.catalog, dispatch.Options{}, w.log.Named("dispatch"))
	nodes, err := k.catalog.EveryNode()
	w.must(err)
	for _, n := range nodes {
		k.dispatcher.Recall(dispatch.Key{Cluster: n.GetCluster(), Node: n.GetName()}, n.GetTransferAddress(), n.GetRemoved())
	}
	k.snapshots = &snapshot.Jobs{Catalog: k.catalog, Fleet: k.dispatcher, Remotes: w.offsite(), Log: w.log.Named("snapshot")}
	k.restores = &restore.Jobs{Catalog: k.catalog, Fleet: k.dispatcher, Remotes: w.offsite(), Log: w.log.Named("restore")}
	builders := k.snapshots.Builders()
	maps.Copy(builders, k.restores.Builders())
	k.engine = operation.NewEngine(db, k.dispatcher, epoch, builders, w.log.Named("operation"))
	k.snapshots.Engine, k.restores.Engine = k.engine, k.engine
	k.schedules = &schedule.Scheduler{
		Store: db, Catalog: k.catalog, Engine: k.engine, Snapshots: k.snapshots, Fleet: k.dispatcher, Remotes: w.offsite(), Log: w.log.Named("schedule"),
	}
	k.copies = &reconcile.Reconciler{Catalog: k.catalog, Fleet: k.dispatcher, Engine: k.engine, Remotes: w.offsite(), Log: w.log.Named("reconcile")}
	k.hooked = fault.WithHook(k.ctx, func(ctx context.Context, point string) error { return w.at(ctx, k.process, nil, point) })
	if w.automatic {
		k.startSchedules(w)
	}
	k.wg.Go(func() {
		if err := k.engine.Run(k.hooked); err != nil && k.live() == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.wrong("the controller gave up: %v", err)
		}
	})
	return k
}

func nextEpoch(db store.Store) (uint64, error) {
	rec := new(journalv1.ControllerRecord)
	err := db.Update(func(t store.Tx) error {
		if err := store.Load(t, store.Controller, "self", rec); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		rec.Epoch, rec.FormatVersion = rec.GetEpoch()+1, 1
		return store.Save(t, store.Controller, "self", rec)
	})
	return rec.GetEpoch(), err
}

// startAgent starts the agent of a node.
func (w *world) startAgent(n *node) {
	p := newProcess("agent of " + n.name)
	j, err := journal.Open(filepath.Join(w.dir, n.name+".db"))
	w.must(err)
	m := &mounted{node: n, p: p, claimed: map[string]bool{}}
	w.must(driller{m}.Clean())
	grants := &transfer.Grants{}
	does := &task.Node{
		Vault: vaulted{m}, Disk: m, Old: old{m}, Drill: driller{m}, Fetcher: fetcher{m}, Runtime: &machine{n, p}, Grants: grants, Journal: j, Log: w.log.Named(n.name),
		Files: bundles{m, n.keeper()}, Remote: reached{n, p}.open,
		Member: func(context.Context) (task.Member, error) { return &seated{n, p}, nil },
	}
	w.mu.Lock()
	n.agent, n.grants, n.journal = p, grants, j
	w.mu.Unlock()
	context.AfterFunc(p.ctx, func() { _ = j.Close() }) // the process is dead: nobody is told
	ctx := fault.WithHook(p.ctx, func(ctx context.Context, point string) error { return w.at(ctx, p, n, point) })
	p.wg.Go(func() {
		err := agentpkg.Simulate(ctx, agentpkg.Simulated{
			Name: n.name, Journal: j, Node: does, Log: w.log.Named(n.name), Dial: func() grpc.ClientConnInterface { return n.dial(p) },
		})
		if p.live() == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.wrong("the agent of %s gave up: %v", n.name, err)
		}
	})
}

// kill ends a process as SIGKILL does: from now on nothing that it does has any effect.
func (w *world) kill(p *process) {
	if p == nil {
		return
	}
	w.mu.Lock()
	p.dead.Store(true)
	w.mu.Unlock()
	p.cancel(errDead)
}

// await waits for something that must come.
func (w *world) await(what string, patience time.Duration, is func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if is() {
			return true
		}
		w.must(wait(context.Background(), 200*time.Millisecond))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong("not within %s: %s", patience, what)
	return false
}

func (w *world) connected() bool {
	w.mu.Lock()
	k := w.controller
	w.mu.Unlock()
	if k == nil {
		return false
	}
	for _, n := range w.nodes {
		if !k.dispatcher.Info(n.key()).Connected {
			return false
		}
	}
	return true
}

// restartAll kills everything of requorum and starts it anew, with the network and the disks as they should be.
func (w *world) restartAll() {
	w.mu.Lock()
	w.armed = nil
	w.bucket.heal()
	k := w.controller
	var old []*process
	for _, n := range w.nodes {
		old = append(old, n.agent)
		n.hang, n.lose, n.double, n.cut, n.disk.full = nil, 0, 0, false, false
	}
	w.mu.Unlock()
	if k != nil {
		old = append(old, k.process)
	}
	for _, p := range old {
		w.kill(p)
		p.wg.Wait()
	}
	w.starting.Lock()
	defer w.starting.Unlock()
	w.mu.Lock()
	k = w.controller
	w.mu.Unlock()
	if k == nil || k.live() != nil {
		w.startController()
	}
	for _, n := range w.nodes {
		if n.agent.live() != nil {
			w.startAgent(n)
		}
	}
}

// end stops everything, so that no goroutine is left.
func (w *world) end() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.busy.Wait()
	k := w.controller
	if k != nil {
		w.kill(k.process)
		k.wg.Wait()
	}
	for _, n := range w.nodes {
		w.kill(n.agent)
		n.agent.wg.Wait()
	}
}

// clients write all the time: through the control plane, and past it.
func (w *world) clients() {
	for i := 0; ; i++ {
		if wait(context.Background(), 700*time.Millisecond) != nil || !w.write(i) {
			return
		}
	}
}

// write puts one key through one node, and notes what was acknowledged.
func (w *world) write(i int) (goOn bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	n := w.nodes[i%size]
	if w.noWrites || !n.booted() {
		return true
	}
	if n.disk.live.db.corrupt() {
		return true // etcd refuses it
	}
	db, err := n.propose(func(d *database) *database {
		return d.put(fmt.Sprintf("key-%d", i%5), fmt.Sprintf("write %d", i), int64(i%3))
	})
	if err != nil {
		return true
	}
	if before := w.acked[db.cluster]; before != nil && !db.follows(before) {
		w.wrong("cluster %s has lost acknowledged writes", db.cluster)
	}
	w.acked[db.cluster] = db
	return true
}

// follows tells whether d came of o.
func (d *database) follows(o *database) bool {
	for at := d; at != nil; at = at.before {
		if at == o {
			return true
		}
	}
	return false
}
