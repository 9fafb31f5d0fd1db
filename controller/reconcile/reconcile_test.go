package reconcile

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is cluster prod with the nodes a and b, which both hold snapshot s.
type desk struct {
	*testing.T
	*Reconciler
	held    map[string][]*requorumv1.Manifest
	offline map[string]bool
	silent  map[string]bool
	remotes map[string]*agentv1.RemoteList // by node and remote; out of reach where there is none
	running string
	asked   func() // what happens while the nodes are asked
}

func (d *desk) Info(key dispatch.Key) dispatch.Info {
	return dispatch.Info{Connected: !d.offline[key.Node]}
}

func (d *desk) Running(string) string { return d.running }

func (d *desk) AskNode(_ context.Context, _, node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	if node == "a" && d.asked != nil {
		d.asked()
	}
	if d.silent[node] {
		return nil, errors.New("no answer")
	}
	if spec := task.GetListRemote(); spec != nil {
		return d.listRemote(node, spec)
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copies{Copies: &agentv1.CopyList{Manifests: d.held[node]}}}, nil
}

func atDesk(t *testing.T) *desk {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	m := &requorumv1.Manifest{Name: "s", Cluster: "prod", Sha256: "sha"}
	d := &desk{T: t, held: map[string][]*requorumv1.Manifest{"a": {m}, "b": {m}}, offline: map[string]bool{}, silent: map[string]bool{}}
	d.Reconciler = &Reconciler{Catalog: catalog.New(db), Fleet: d, Engine: d, Log: hclog.NewNullLogger()}
	err = d.Catalog.Write(func(tx store.Tx) error {
		return errors.Join(
			catalog.UpdateCluster(tx, "prod", func(*journalv1.ClusterRecord) {}),
			store.Save(tx, store.Nodes, "prod/a", &journalv1.NodeRecord{Cluster: "prod", Name: "a"}),
			store.Save(tx, store.Nodes, "prod/b", &journalv1.NodeRecord{Cluster: "prod", Name: "b"}),
			catalog.Put(tx, &requorumv1.Snapshot{Name: "s", Cluster: "prod", State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Manifest: m, Copies: []*requorumv1.Copy{
				{Node: "a", State: requorumv1.CopyState_COPY_STATE_GOOD, Md5: "md5"}, {Node: "b", State: requorumv1.CopyState_COPY_STATE_GOOD},
			}}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) look() {
	d.Helper()
	if err := d.Look(d.Context(), "prod"); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) expect(want string) {
	d.Helper()
	s, err := d.Catalog.Snapshot("prod", "s")
	if err != nil {
		d.Fatal(err)
	}
	var got []string
	for _, c := range s.GetCopies() {
		got = append(got, c.GetNode()+" "+strings.ToLower(strings.TrimPrefix(c.GetState().String(), "COPY_STATE_")))
	}
	if strings.Join(got, ", ") != want {
		d.Errorf("copies are %v, want %s", got, want)
	}
}

func TestACopyThatDisappearedIsNoticedAndOneThatIsBackToo(t *testing.T) {
	d := atDesk(t)
	d.look()
	d.expect("a good, b good")
	d.held["a"] = nil
	d.look()
	d.expect("a missing, b good")
	snapshots, err := d.Catalog.Snapshots("prod")
	if got := Lacking(snapshots); err != nil || got != "copies are missing or bad of s: requorum snapshot repair s" {
		t.Errorf("%q, %v", got, err)
	}
	d.held["a"] = d.held["b"]
	d.look()
	d.expect("a good, b good")
	if s, err := d.Catalog.Snapshot("prod", "s"); err != nil || s.GetCopies()[0].GetMd5() != "md5" || s.GetCopies()[0].GetDetail() != "" {
		t.Errorf("%v, %v", s, err)
	}
}

func TestACopyOfAnotherFileIsDifferent(t *testing.T) {
	d := atDesk(t)
	d.held["b"] = []*requorumv1.Manifest{{Name: "s", Cluster: "prod", Sha256: "other"}}
	d.look()
	d.expect("a good, b different")
}

func TestNodesThatDoNotAnswerAreNotJudged(t *testing.T) {
	d := atDesk(t)
	d.held["a"], d.held["b"] = nil, nil
	d.offline["a"], d.silent["b"] = true, true
	d.look()
	d.expect("a good, b good")
}

func TestWhileAnOperationChangesTheClusterNothingIsJudged(t *testing.T) {
	d := atDesk(t)
	d.held["a"] = nil
	d.running = "01J"
	d.look()
	d.expect("a good, b good")
	d.running, d.asked = "", func() { d.running = "01J" }
	d.look()
	d.expect("a good, b good")
}

// An operation that begins and ends while the nodes are asked knows better.
func TestWhatAnOperationHasNotedMeanwhileStays(t *testing.T) {
	d := atDesk(t)
	d.held["a"] = nil
	d.asked = func() {
		err := d.Catalog.Update("prod", "s", func(s *requorumv1.Snapshot) { s.Copies[0].Size = 7 })
		if err != nil {
			t.Error(err)
		}
	}
	d.look()
	d.expect("a good, b good")
	d.asked = func() {
		err := d.Catalog.Write(func(tx store.Tx) error { return catalog.Remove(tx, "prod", "s") })
		if err != nil {
			t.Error(err)
		}
	}
	d.look()
	if all, err := d.Catalog.Snapshots("prod"); err != nil || len(all) != 0 {
		t.Errorf("a removed snapshot is back: %v, %v", all, err)
	}
}

func TestOrphansAreListedAndStay(t *testing.T) {
	d := atDesk(t)
	d.held["b"] = append(d.held["b"], &requorumv1.Manifest{Name: "stray", Cluster: "prod"}, &requorumv1.Manifest{Name: "s1", Cluster: "prod"})
	d.silent["a"] = true
	resp, err := d.Orphans(t.Context(), "prod")
	var got []string
	for _, o := range resp.GetOrphans() {
		got = append(got, o.GetNode()+" "+o.GetManifest().GetName())
	}
	if err != nil || fmt.Sprint(got) != "[b s1 b stray]" || fmt.Sprint(resp.GetSilent()) != "[a]" {
		t.Errorf("orphans %v, silent %v, %v", got, resp.GetSilent(), err)
	}
	if _, err := d.Orphans(t.Context(), "nowhere"); !errors.As(err, new(*catalog.NotFoundError)) {
		t.Error(err)
	}
}

// pass lets time pass within a bubble.
func pass(long time.Duration) {
	<-time.After(long)
	synctest.Wait()
}

func TestClustersAreLookedAtAgainAndAgain(t *testing.T) {
	d := atDesk(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- d.Reconciler.Run(ctx) }()
		d.held["a"] = nil
		pass(DefaultEvery - time.Second)
		d.expect("a good, b good")
		pass(2 * time.Second)
		d.expect("a missing, b good")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestLackingNamesAFew(t *testing.T) {
	var all []*requorumv1.Snapshot
	for i := range 5 {
		all = append(all, &requorumv1.Snapshot{Name: fmt.Sprint(i), State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Copies: []*requorumv1.Copy{{State: requorumv1.CopyState_COPY_STATE_MISSING}}})
	}
	if got := Lacking(all); got != "copies are missing or bad of 0, 1, 2 and 2 more: requorum snapshot repair 0" {
		t.Error(got)
	}
	all[0].State = requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED
	if got := Lacking(all[:1]); got != "" {
		t.Error(got)
	}
}
