//go:build faultinject

package simulated_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/fault"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

var (
	showLog = flag.Bool("simulated.log", false, "show the logs of runs that fail")
	only    = flag.String("simulated.only", "", "run only the cells whose \"point fault\" this regular expression matches")
)

// scenario is an operation that ends well, or badly on purpose.
type scenario struct {
	name   string
	start  func(k *controller) (*requorumv1.Operation, error)
	fails  string         // point at which it is made to fail, so that it is put back
	before func(w *world) // what is lost before, with the world's lock held; may be nil
	remote bool           // it needs the object store
	claims *regexp.Regexp // points that are tested in it although another scenario passes them first; may be nil
}

const request = "request-1"

// fetching are the steps that a restore does otherwise where no node has a copy.
var fetching = regexp.MustCompile("^controller/(restore|distribute)/(preflight|locate|fetch|distribute|agree)/|^agent/(download|list-remote|compare-files)")

// nearRemote are points at which an operation is about to use the object store, or just has.
var nearRemote = regexp.MustCompile("^controller/[a-z]+/(fetch|upload|remove-remote|find|import)/|^controller/save/(check|record)/|^controller/import/check/|^agent/(upload|download|drop-remote|list-remote)")

// undoing are those of them that only what is put back passes, or otherwise.
var undoing = regexp.MustCompile("/undo-|^agent/drop-remote/")

// scenarios are in the order in which they are asked for points: each point is tested in the first that passes it.
var scenarios = []scenario{
	{name: "restore", start: startRestore, before: holes},
	{name: "restore from the remote", start: startRestore, before: lostByAll, remote: true, claims: fetching},
	{name: "restore reverted", start: startRestore, before: holes, fails: "controller/restore/verify/before-outcome"},
	{name: "restore from the remote reverted", start: startRestore, before: lostByAll, fails: "controller/restore/verify/before-outcome", remote: true, claims: fetching},
	{name: "restore given up early", start: startRestore, fails: "controller/restore/stop/before-intent"},
	{name: "save", start: startSave, remote: true},
	{name: "save reverted", start: startSave, fails: "controller/save/record/before-outcome", remote: true},
	{name: "save with a remote that may fail", start: startSaveAnyway, remote: true},
	{name: "upload", start: startUpload, remote: true},
	{name: "upload reverted", start: startUpload, fails: "controller/upload/record/before-outcome", remote: true},
	{name: "import", start: startImport},
	{name: "import reverted", start: startImport, fails: "controller/import/record/before-outcome"},
	{name: "import from the remote", start: startImportFrom, before: lostByAll, remote: true},
	{name: "distribute", start: startDistribute, before: holes},
	{name: "distribute reverted", start: startDistribute, before: holes, fails: "controller/distribute/record/before-outcome"},
	{name: "distribute from the remote", start: startDistribute, before: lostByAll, remote: true, claims: fetching},
	{name: "repair", start: startRepair, before: lostByRemote, remote: true, claims: regexp.MustCompile("^controller/distribute/upload/")},
	{name: "check", start: startCheck},
	{name: "verify", start: startVerify},
	{name: "verify reverted", start: startVerify, fails: "controller/verify/record/before-outcome"},
	{name: "rehearse", start: startRehearse, before: holes},
	{name: "rehearse from the remote", start: startRehearse, before: lostByAll, remote: true, claims: regexp.MustCompile("^controller/rehearse/(preflight|fetch)/")},
	{name: "rehearse reverted", start: startRehearse, before: holes, fails: "controller/rehearse/unstage/before-outcome"},
	{name: "delete", start: startDelete, remote: true},
	{name: "delete in the remote alone", start: startDeleteRemote, remote: true},
	{name: "rebuild", start: startRebuild, remote: true},
}

// holes takes the snapshot away from all nodes but the first.
func holes(w *world) { w.lose(w.nodes[1:]) }

// lostByAll takes the snapshot away from all nodes, with its files.
func lostByAll(w *world) {
	w.lose(w.nodes)
	for _, n := range w.nodes {
		n.loseFiles()
	}
}

func (w *world) lose(nodes []*node) {
	for _, n := range nodes {
		delete(n.disk.copies, goodName)
		delete(n.disk.manifests, goodName)
	}
}

// lostByRemote empties the bucket, which somebody has noticed, and takes the snapshot away from a node.
func lostByRemote(w *world) {
	w.lose(w.nodes[2:])
	clear(w.bucket.objects)
	w.must(w.controller.catalog.Update(clusterName, goodName, func(s *requorumv1.Snapshot) {
		s.GetRemotes()[0].State = requorumv1.CopyState_COPY_STATE_MISSING
	}))
}

func startRestore(k *controller) (*requorumv1.Operation, error) {
	spec := &requorumv1.RestoreSpec{Cluster: clusterName, Snapshot: goodName, Quarantine: durationpb.New(72 * time.Hour), Files: requorumv1.FilesMode_FILES_MODE_RESTORE}
	return k.restores.Start(context.Background(), &requorumv1.StartRestoreRequest{RequestId: request, Spec: spec}, "test")
}

func startSave(k *controller) (*requorumv1.Operation, error) { return k.saveFresh(false) }

func startSaveAnyway(k *controller) (*requorumv1.Operation, error) { return k.saveFresh(true) }

func (k *controller) saveFresh(remoteMayFail bool) (*requorumv1.Operation, error) {
	return k.snapshots.Save(&requorumv1.SaveSnapshotRequest{
		Cluster: clusterName, Name: "fresh", RequestId: request, Remote: remoteName, AllowRemoteFailure: remoteMayFail, Files: []string{fileSet},
	}, "test")
}

func startUpload(k *controller) (*requorumv1.Operation, error) {
	return k.snapshots.Upload(&requorumv1.UploadSnapshotRequest{Cluster: clusterName, Name: elderName, Remote: remoteName, RequestId: request}, "test")
}

// startImportFrom takes in what the catalog has forgotten.
func startImportFrom(k *controller) (*requorumv1.Operation, error) {
	err := k.catalog.Write(func(tx store.Tx) error { return catalog.Remove(tx, clusterName, goodName) })
	if err != nil {
		return nil, err
	}
	return k.snapshots.Import(context.Background(), &requorumv1.ImportSnapshotRequest{Cluster: clusterName, From: remoteName + ":" + goodName, RequestId: request}, "test")
}

func startRepair(k *controller) (*requorumv1.Operation, error) {
	return k.snapshots.Repair(clusterName, goodName, request, "test", "")
}

func startDeleteRemote(k *controller) (*requorumv1.Operation, error) {
	return k.snapshots.Delete(&requorumv1.DeleteSnapshotRequest{RequestId: request, Cluster: clusterName, Name: goodName, OnlyRemote: remoteName}, "test")
}

func startImport(k *controller) (*requorumv1.Operation, error) {
	return k.snapshots.Import(context.Background(), &requorumv1.ImportSnapshotRequest{Cluster: clusterName, Name: "imported", Node: "n2", Path: "/" + importFile, RequestId: request}, "test")
}

func startDistribute(k *controller) (*requorumv1.Operation, error) {
	return k.snapshots.Distribute(clusterName, goodName, request, "test", "")
}

func startCheck(k *controller) (*requorumv1.Operation, error) {
	return k.snapshots.Check(clusterName, goodName, request, "test")
}

func startVerify(k *controller) (*requorumv1.Operation, error) {
	return k.snapshots.Verify(&requorumv1.VerifySnapshotRequest{Cluster: clusterName, Name: goodName, RequestId: request}, "test")
}

func startRehearse(k *controller) (*requorumv1.Operation, error) {
	return k.restores.Rehearse(context.Background(), &requorumv1.RehearseRestoreRequest{RequestId: request, Spec: &requorumv1.RestoreSpec{Cluster: clusterName, Snapshot: goodName}}, "test")
}

func startDelete(k *controller) (*requorumv1.Operation, error) {
	return k.snapshots.Delete(&requorumv1.DeleteSnapshotRequest{RequestId: request, Cluster: clusterName, Name: goodName}, "test")
}

// startRebuild loses the catalog first.
func startRebuild(k *controller) (*requorumv1.Operation, error) {
	snaps, err := k.catalog.Snapshots(clusterName)
	if err != nil {
		return nil, err
	}
	err = k.catalog.Write(func(tx store.Tx) error {
		for _, s := range snaps {
			if err := catalog.Remove(tx, clusterName, s.GetName()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return k.snapshots.Rebuild(clusterName, []string{remoteName}, request, "test")
}

// neverPassed are points that no operation passes, and why.
var neverPassed = map[string]string{
	"agent/push-copy/":                    "an operator's export, which is no operation",
	"agent/follow-copy/report":            "it is cancelled once what it follows is saved; nobody waits for its answer",
	"agent/serve-copy/after":              "it ends by being cancelled, never by itself",
	"agent/serve-copy/report":             "the same: nobody waits for its answer",
	"controller/check/record/middle":      "the step asks no node",
	"controller/delete/check/middle":      "the step asks no node",
	"controller/delete/forget/middle":     "the step asks no node",
	"controller/distribute/record/middle": "the step asks no node",
	"controller/import/record/middle":     "the step asks no node",
	"controller/rebuild/enter/middle":     "the step asks no node",
	"controller/save/record/middle":       "the step asks no node",
	"controller/upload/record/middle":     "the step asks no node",
	"controller/verify/record/middle":     "the step asks no node",
	"controller/restore/learners/middle":  "the simulated cluster has no learner, so the step asks no node",
}

// result is how a run ended.
type result struct {
	state  string
	passed map[string]int
	fired  int
	wrongs []string
	log    string
	took   time.Duration
}

// play runs a scenario with faults, restarts everything, and judges what is left.
func play(t *testing.T, s scenario, armed ...*arming) (r result) {
	dir, err := os.MkdirTemp(fastDir(), "requorum-simulated-") //nolint:usetesting // in memory, if there is a place for that
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		defer w.end()
		if s.fails != "" {
			armed = append(armed, &arming{point: s.fails, nth: 1, fault: trouble{kind: "error"}})
		}
		w.mu.Lock()
		w.armed = armed
		if s.before != nil {
			s.before(w)
		}
		w.passed = map[string]int{}
		w.mu.Unlock()
		op, err := s.start(w.controller)
		if w.fired == 0 {
			w.must(err)
		}
		if r.state = "REFUSED"; err == nil { // an import looks into the remote before there is an operation
			r.state = w.carryOut(op.GetId())
		}
		r.passed, r.fired, r.wrongs, r.log, r.took = w.passed, w.fired, w.wrongs, w.lines.String(), time.Since(w.began)
	})
	return r
}

// fastDir is a directory in memory, if there is one.
func fastDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// carryOut waits for an operation's end, with everything restarted, and judges.
func (w *world) carryOut(id string) string {
	const soon, late = 15 * time.Minute, time.Hour
	over := func() bool { op := w.operation(id); return op != nil && terminal(op) }
	for end := time.Now().Add(soon); time.Now().Before(end) && !over(); {
		w.must(wait(w.t.Context(), time.Second))
	}
	w.restartAll()
	if !w.await("the operation has ended", late, over) {
		return w.operation(id).GetState().String()
	}
	w.await("every agent has a session", time.Minute, w.connected)
	w.must(wait(w.t.Context(), 5*time.Second)) // until the last answers were taken
	op := w.operation(id)
	w.judge(op)
	return strings.TrimPrefix(op.GetState().String(), "OPERATION_STATE_")
}

// operation asks the controller, if there is one.
func (w *world) operation(id string) *requorumv1.Operation {
	w.mu.Lock()
	k := w.controller
	w.mu.Unlock()
	if k == nil {
		return nil
	}
	op, err := k.engine.Get(id)
	if gone := new(operation.NotFoundError); errors.As(err, &gone) {
		w.t.Fatal(err)
	}
	return op
}

func terminal(op *requorumv1.Operation) bool {
	switch op.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_RUNNING, requorumv1.OperationState_OPERATION_STATE_REVERTING, requorumv1.OperationState_OPERATION_STATE_UNSPECIFIED:
		return false
	}
	return true
}

func (r result) check(t *testing.T) {
	t.Helper()
	for _, wrong := range r.wrongs {
		t.Error(wrong)
	}
	if t.Failed() {
		t.Log("ended ", r.state)
		t.Log(r.log)
	}
}

// TestMatrix makes every fault happen at every fault point.
func TestMatrix(t *testing.T) {
	where := passages(t)
	wanted := regexp.MustCompile(*only)
	table := &matrix{cells: map[string]map[string]int{}}
	t.Run("cells", func(t *testing.T) {
		for _, point := range fault.Names() {
			for _, c := range cells(point, where[point]) {
				if !wanted.MatchString(point + " " + c.fault.String()) {
					continue
				}
				t.Run(point+"/"+c.fault.String()+"/"+c.scenario.name, func(t *testing.T) {
					t.Parallel()
					r := play(t, c.scenario, &arming{point: point, nth: 1, fault: c.fault})
					if r.fired == 0 {
						t.Error("the point was not passed")
					}
					r.check(t)
					table.add(point, c.fault.String(), outcome(t, r))
				})
			}
		}
	})
	table.write(t)
}

// cell is what happens at a point, in which scenario.
type cell struct {
	scenario scenario
	fault    trouble
}

// cells are the faults that a point meets, in the first of the scenarios that pass it; what happens to the object
// store is met in each of them that needs it.
func cells(point string, passing []scenario) (all []cell) {
	for i, s := range passing {
		if i == 0 {
			for _, f := range faults {
				all = append(all, cell{s, f})
			}
		}
		if s.remote && nearRemote.MatchString(point) && (s.fails == "" || undoing.MatchString(point)) {
			for _, f := range remoteFaults {
				all = append(all, cell{s, f})
			}
		}
	}
	return all
}

func outcome(t *testing.T, r result) string {
	if t.Failed() {
		return "FAILED"
	}
	return r.state
}

// passages runs every scenario without faults, and tells which pass each point, the one in which it is tested first.
func passages(t *testing.T) map[string][]scenario {
	found := make([]map[string]int, len(scenarios))
	t.Run("without faults", func(t *testing.T) {
		for i, s := range scenarios {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				r := play(t, s)
				r.check(t)
				want := "SUCCEEDED"
				if s.fails != "" {
					want = "REVERTED"
				}
				if r.state != want {
					t.Errorf("it ended %s, want %s", r.state, want)
				}
				t.Logf("%v of simulated time", r.took)
				found[i] = r.passed
			})
		}
	})
	where := map[string][]scenario{}
	for i, s := range scenarios {
		for point := range found[i] {
			where[point] = append(where[point], s)
		}
	}
	for point, passing := range where {
		slices.SortStableFunc(passing, func(a, b scenario) int { return b.claim(point) - a.claim(point) })
	}
	for _, point := range fault.Names() {
		if len(where[point]) == 0 && !excused(point) {
			t.Errorf("no scenario passes the fault point %s: add one that does, or say in neverPassed why none can", point)
		}
	}
	return where
}

// claim is 1 for a point that is to be tested in the scenario, 0 for others.
func (s scenario) claim(point string) int {
	if s.claims != nil && s.claims.MatchString(point) {
		return 1
	}
	return 0
}

func excused(point string) bool {
	for prefix := range neverPassed {
		if strings.HasPrefix(point, prefix) || point == prefix {
			return true
		}
	}
	return false
}

// matrix is the table of points and faults.
type matrix struct {
	mu    sync.Mutex
	cells map[string]map[string]int // outcomes by "point<tab>fault"
}

func (m *matrix) add(point, f, outcome string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := point + "\t" + f
	if m.cells[key] == nil {
		m.cells[key] = map[string]int{}
	}
	m.cells[key][outcome]++
}

// write writes the table to the file that REQUORUM_MATRIX_OUT names, and its summary to the test's log.
func (m *matrix) write(t *testing.T) {
	t.Helper()
	totals, runs := map[string]int{}, 0
	var lines []string
	for key, outcomes := range m.cells {
		for outcome, n := range outcomes {
			totals[outcome] += n
			runs += n
			lines = append(lines, fmt.Sprintf("%s\t%d\t%s\n", key, n, outcome))
		}
	}
	t.Logf("%d runs: %v", runs, totals)
	path := os.Getenv("REQUORUM_MATRIX_OUT")
	if path == "" {
		return
	}
	slices.Sort(lines)
	if err := os.WriteFile(path, []byte("point\tfault\truns\toutcome\n"+strings.Join(lines, "")), 0o600); err != nil {
		t.Error(err)
	}
}
