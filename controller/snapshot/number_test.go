package snapshot

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/names"
)

const (
	badCopy = requorumv1.CopyState_COPY_STATE_DIFFERENT
)

// The saver, b, keeps one, and the others are those with the most space.
func TestSaveOnANumberOfNodes(t *testing.T) {
	for copies, want := range map[uint32]string{0: "a b c", 1: "b", 2: "b c", 3: "a b c", 7: "a b c"} {
		atDesk(t, func(d *desk) {
			d.fleet.facts["c"].VaultFreeBytes = 2 << 30
			d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Copies: copies}), succeeded, "")
			s := d.entry("s")
			if got := d.fleet.holding("s"); got != want || len(s.GetCopies()) != len(strings.Fields(want)) || s.GetManifest().GetWantedCopies() != copies {
				t.Errorf("%d copies: held by %s, want %s; entry %v", copies, got, want, s)
			}
			d.expect(d.ended(d.Check("prod", "s", "", "alice")), succeeded, "")
			d.expect(d.ended(d.Repair("prod", "s", "", "alice", "")), succeeded, "")
			if got := d.fleet.holding("s"); got != want {
				t.Errorf("%d copies: after a repair with nothing to repair, held by %s", copies, got)
			}
		})
	}
}

// Only the nodes that are to hold the file need space for it.
func TestSpaceIsNeededWhereCopiesAre(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.fleet.facts["c"].VaultFreeBytes = 5
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Copies: 2}), succeeded, "")
		if got := d.fleet.holding("s"); got != "a b" {
			t.Errorf("held by %s", got)
		}
	})
}

func TestRepairGivesBackAsManyCopiesAsThereWere(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Copies: 2}), succeeded, "")
		lost := strings.Fields(d.fleet.holding("s"))[0]
		delete(d.fleet.vaults[lost], "s")
		d.expect(d.ended(d.Check("prod", "s", "", "alice")), refused, lost+" missing")
		d.expect(d.ended(d.Repair("prod", "s", "r", "alice", "")), succeeded, "")
		s := d.entry("s")
		if got := strings.Fields(d.fleet.holding("s")); len(got) != 2 || !slices.Equal(GoodOn(s.GetCopies()), got) || len(s.GetCopies()) != 2 {
			t.Errorf("held by %v, entry %v", got, s)
		}
		if _, err := d.Distribute("prod", "s", "r", "alice", ""); err == nil {
			t.Error("the request of a repair is taken for a distribution to all")
		}
	})
}

func TestRepairOfOneThatEveryNodeIsToHold(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.ready("s", "a")
		d.expect(d.ended(d.Repair("prod", "s", "", "alice", "")), succeeded, "")
		if got := d.fleet.holding("s"); got != "a b c" || len(GoodOn(d.entry("s").GetCopies())) != 3 {
			t.Errorf("held by %s", got)
		}
	})
	atDesk(t, func(d *desk) {
		d.ready("s", "a")
		d.fleet.found = map[string]requorumv1.CopyState{"a": badCopy}
		d.expect(d.ended(d.Repair("prod", "s", "", "alice", "")), refused, "no node holds a good copy")
	})
}

func TestSaveForAWhile(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Ttl: durationpb.New(time.Hour)}), succeeded, "")
		s := d.entry("s")
		if at := s.GetExpires().AsTime(); !at.Equal(s.GetCreated().AsTime().Add(time.Hour)) || !at.Equal(s.GetManifest().GetExpires().AsTime()) {
			t.Errorf("expires %v, created %v, manifest %v", at, s.GetCreated().AsTime(), s.GetManifest().GetExpires())
		}
		if _, err := d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Ttl: durationpb.New(-time.Hour)}, "alice"); !errors.As(err, new(*InvalidError)) {
			t.Errorf("a negative age: %v", err)
		}
	})
}

func TestSaveForASchedule(t *testing.T) {
	atDesk(t, func(d *desk) {
		refuse := errors.New("not any more")
		purpose := Purpose{Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_SCHEDULED, Prefix: "often", Schedule: "nightly", Begin: func(store.Tx, *requorumv1.Operation) error { return refuse }}
		if _, err := d.SaveFor(&requorumv1.SaveSnapshotRequest{Cluster: "prod"}, "schedule nightly", purpose); !errors.Is(err, refuse) {
			t.Errorf("refused as it begins: %v", err)
		}
		if all, err := d.Catalog.Snapshots("prod"); err != nil || len(all) != 0 {
			t.Errorf("what was refused has left %v, %v", all, err)
		}
		purpose.Begin = nil
		op := d.ended(d.SaveFor(&requorumv1.SaveSnapshotRequest{Cluster: "prod"}, "schedule nightly", purpose))
		d.expect(op, succeeded, "")
		s := d.entry(op.GetSnapshot())
		if !strings.HasPrefix(s.GetName(), "often-prod-") || s.GetSchedule() != "nightly" || s.GetManifest().GetSchedule() != "nightly" || s.GetManifest().GetKind() != purpose.Kind {
			t.Errorf("entry %v", s)
		}
	})
}

// lose makes the catalog forget its snapshots.
func (d *desk) lose(names ...string) {
	d.Helper()
	err := d.Catalog.Write(func(tx store.Tx) error {
		for _, name := range names {
			if err := catalog.Remove(tx, "prod", name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
}

func TestRebuildEntersWhatTheNodesHold(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.saved(&requorumv1.SaveSnapshotRequest{Name: "first", Labels: map[string]string{"why": "upgrade"}, Ttl: durationpb.New(time.Hour)})
		d.saved(&requorumv1.SaveSnapshotRequest{Name: "second", Copies: 1})
		d.saved(&requorumv1.SaveSnapshotRequest{Name: "known"})
		first, second, known := d.entry("first"), d.entry("second"), d.entry("known")
		d.lose("first", "second")
		d.fleet.vaults["c"]["foreign"] = &requorumv1.Manifest{Name: "foreign", Cluster: "test"}
		op := d.ended(d.Rebuild("prod", nil, "r", "alice"))
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), "\n"); w != `foreign is left out: its manifest says that it is of cluster "test"` {
			t.Errorf("warnings %s", w)
		}
		for _, want := range []*requorumv1.Snapshot{first, second, known} {
			got := d.entry(want.GetName())
			if !catalog.Good(got) || !slices.Equal(GoodOn(got.GetCopies()), GoodOn(want.GetCopies())) || got.GetManifest().GetSha256() != want.GetManifest().GetSha256() || got.GetKind() != want.GetKind() || !got.GetExpires().AsTime().Equal(want.GetExpires().AsTime()) {
				t.Errorf("entry %v, want %v", got, want)
			}
		}
		if got := d.entry("known"); got.GetOperationId() != known.GetOperationId() {
			t.Error("what the catalog knew was entered anew")
		}
		if again := d.ended(d.Rebuild("prod", nil, "r", "alice")); again.GetId() != op.GetId() {
			t.Error("the same request is another operation")
		}
		nothing := d.ended(d.Rebuild("prod", nil, "", "alice"))
		if nothing.GetState() != succeeded || !strings.Contains(strings.Join(nothing.GetWarnings(), "\n"), "nothing that the catalog does not know") {
			t.Errorf("again: %v", nothing)
		}
	})
}

// The nodes are asked all at once: each answers only when every one has been asked.
func TestRebuildAsksTheNodesAtOnce(t *testing.T) {
	atDesk(t, func(d *desk) {
		var asked sync.WaitGroup
		asked.Add(3)
		ask := askFunc(func(_ context.Context, _, node string, _ *agentv1.Task) (*agentv1.TaskResult, error) {
			asked.Done()
			asked.Wait()
			return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copies{Copies: &agentv1.CopyList{Manifests: []*requorumv1.Manifest{{Name: "s", Cluster: "prod", Node: node}}}}}, nil
		})
		s, err := d.survey(d.Context(), ask, "prod", []string{"a", "b", "c"}, nil)
		if err != nil || len(s.found) != 1 || !slices.Equal(s.found[0].GetNodes(), []string{"a", "b", "c"}) {
			t.Errorf("%v, %v", s, err)
		}
		refuses := askFunc(func(ctx context.Context, _, node string, _ *agentv1.Task) (*agentv1.TaskResult, error) {
			if node == "b" {
				return nil, errors.New("b is on fire")
			}
			<-ctx.Done() // the others are not waited for
			return nil, context.Cause(ctx)
		})
		if _, err := d.survey(d.Context(), refuses, "prod", []string{"a", "b", "c"}, nil); err == nil || err.Error() != "b is on fire" {
			t.Error(err)
		}
	})
}

type askFunc func(ctx context.Context, cluster, node string, task *agentv1.Task) (*agentv1.TaskResult, error)

func (f askFunc) AskNode(ctx context.Context, cluster, node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	return f(ctx, cluster, node, task)
}

func TestRebuildTellsGoodFromBad(t *testing.T) {
	atDesk(t, func(d *desk) {
		m := func(sha string) *requorumv1.Manifest {
			return &requorumv1.Manifest{Name: "s", Cluster: "prod", Sha256: sha, Created: timestamppb.Now()}
		}
		d.fleet.vaults["a"]["s"], d.fleet.vaults["b"]["s"], d.fleet.vaults["c"]["s"] = m("other"), m("sha"), m("sha")
		d.fleet.found = map[string]requorumv1.CopyState{"a": badCopy}
		d.fleet.offline["c"] = false
		op := d.ended(d.Rebuild("prod", nil, "", "alice"))
		d.expect(op, succeeded, "")
		s := d.entry("s")
		if s.GetManifest().GetSha256() != "sha" || !slices.Equal(GoodOn(s.GetCopies()), []string{"b", "c"}) || len(s.GetCopies()) != 3 {
			t.Errorf("entry %v", s)
		}
		if !strings.Contains(strings.Join(op.GetWarnings(), "\n"), "manifests differ") {
			t.Errorf("warnings %v", op.GetWarnings())
		}
	})
	atDesk(t, func(d *desk) {
		d.fleet.vaults["a"]["s"] = &requorumv1.Manifest{Name: "s", Cluster: "prod", Sha256: "sha"}
		d.fleet.found = map[string]requorumv1.CopyState{"a": badCopy}
		d.fleet.offline["c"] = true
		op := d.ended(d.Rebuild("prod", nil, "", "alice"))
		d.expect(op, succeeded, "")
		if w := strings.Join(op.GetWarnings(), "\n"); !strings.Contains(w, "c: its agent is not connected") || !strings.Contains(w, "s is left out: no node holds a good copy: a different") {
			t.Errorf("warnings %s", w)
		}
		if _, err := d.Catalog.Snapshot("prod", "s"); !errors.As(err, new(*catalog.NotFoundError)) {
			t.Errorf("a bad one was entered: %v", err)
		}
	})
	atDesk(t, func(d *desk) {
		d.fleet.offline = map[string]bool{"a": true, "b": true, "c": true}
		d.expect(d.ended(d.Rebuild("prod", nil, "", "alice")), refused, "no agent is connected")
	})
}

// However many are named at once, by whatever prefix a schedule may have, no two are alike and each is allowed.
func TestNewNamesAreUniqueUnderConcurrency(t *testing.T) {
	const workers, each = 16, 500
	made := make(chan []string, workers)
	for w := range workers {
		go func() {
			prefix := strings.Repeat("p", 1+w*4)
			if w%2 == 0 {
				prefix = "nightly"
			}
			var mine []string
			for range each {
				mine = append(mine, NewName(prefix, strings.Repeat("c", 1+w*8)))
			}
			made <- mine
		}()
	}
	seen := map[string]bool{}
	for range workers {
		for _, name := range <-made {
			if err := names.Check("snapshot", name); err != nil || seen[name] {
				t.Fatalf("%q: %v, seen %t", name, err, seen[name])
			}
			seen[name] = true
		}
	}
}

func TestANameThatIsTakenIsRefused(t *testing.T) {
	atDesk(t, func(d *desk) {
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Name: "mine"}), succeeded, "")
		if _, err := d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Name: "mine"}, "alice"); !errors.As(err, new(*catalog.ExistsError)) {
			t.Errorf("taken: %v", err)
		}
		d.expect(d.saved(&requorumv1.SaveSnapshotRequest{Name: "mine1"}), succeeded, "")
		for _, name := range []string{"a/b", "../a", "a:b", ".a", "a b", "latest", strings.Repeat("n", names.MaxLength+1)} {
			if _, err := d.Save(&requorumv1.SaveSnapshotRequest{Cluster: "prod", Name: name}, "alice"); err == nil {
				t.Errorf("%q is allowed", name)
			}
		}
	})
}
