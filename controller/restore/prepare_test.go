package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gib = 1 << 30

// room is a cluster prod of the nodes a, b and c, whose leader is on a, with a snapshot s that they all hold.
type room struct {
	*testing.T
	*Jobs
	facts    map[string]*agentv1.NodeFacts
	copies   map[string]requorumv1.CopyState
	offline  map[string]bool
	refuses  map[string]error
	manifest *requorumv1.Manifest
	entry    *requorumv1.Snapshot
	cluster  *journalv1.ClusterRecord
	enrolled []string
	seen     int64 // revision that members were last seen with
	more     []*requorumv1.Snapshot

	compared map[string]*agentv1.ComparedFiles // of a node's own bundle
	inRemote map[string]*agentv1.ComparedFiles // of its bundle in the remote nfs; nil if nobody has the key
	gone     string                            // a node whose vault lists no copy
	hashed   atomic.Int32                      // copies read
}

func newRoom(t *testing.T) *room {
	r := &room{
		T: t, facts: map[string]*agentv1.NodeFacts{}, copies: map[string]requorumv1.CopyState{}, offline: map[string]bool{}, refuses: map[string]error{},
		cluster: &journalv1.ClusterRecord{Name: "prod", Generation: 4}, enrolled: []string{"a", "b", "c"},
		manifest: &requorumv1.Manifest{
			Name: "s", Node: "b", Size: gib, Md5: "9f2c", Revision: 100, EtcdVersion: "3.6.5",
			Created: timestamppb.New(time.Now().Add(-time.Hour)), HasTrailer: true,
		},
	}
	r.entry = &requorumv1.Snapshot{Name: "s", Cluster: "prod", State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Manifest: r.manifest}
	for _, node := range []string{"a", "b", "c", "d", "e"} {
		r.facts[node] = factsOf(node)
		r.copies[node] = requorumv1.CopyState_COPY_STATE_GOOD
	}
	return r
}

func factsOf(node string) *agentv1.NodeFacts {
	return &agentv1.NodeFacts{
		Running: true, EtcdVersion: "3.6.7", DataFreeBytes: 20 * gib, VaultFreeBytes: 20 * gib, DataNeededBytes: 2 * gib,
		Stops: []string{"etcd"}, QuarantinePaths: []string{"/var/lib/etcd.quarantine-%s"},
		Member: &requorumv1.Member{
			Id: "id-" + node, Name: "m-" + node, Leader: "id-a", Serving: true, Revision: 150, DbSize: gib, QuotaBytes: 8 * gib,
			DataDir: "/var/lib/etcd", PeerUrls: []string{"https://" + node + ":2380"}, Members: listed("a", "b", "c"),
		},
	}
}

func listed(nodes ...string) []*requorumv1.ListedMember {
	var all []*requorumv1.ListedMember
	for _, n := range nodes {
		all = append(all, &requorumv1.ListedMember{Id: "id-" + n, Name: "m-" + n, PeerUrls: []string{"https://" + n + ":2380"}})
	}
	return all
}

// down makes every member stop serving.
func (r *room) down() {
	for _, f := range r.facts {
		m := f.GetMember()
		m.Id, m.Leader, m.Serving, m.Members, m.Revision = "", "", false, nil, 0
	}
}

// also adds another snapshot.
func (r *room) also(revision int64, kind requorumv1.SnapshotKind) {
	r.more = append(r.more, &requorumv1.Snapshot{Name: "other", Cluster: "prod", Kind: kind, Manifest: &requorumv1.Manifest{Revision: revision}})
}

func (r *room) Gather(context.Context, string, []string) {}

func (r *room) Info(key dispatch.Key) dispatch.Info {
	return dispatch.Info{Connected: !r.offline[key.Node], TransferAddress: key.Node + ":1", Member: &requorumv1.Member{Revision: r.seen}}
}

func (r *room) Reconnect(string, string) {}

func (r *room) AskNode(_ context.Context, _, node string, task *agentv1.Task) (*agentv1.TaskResult, error) {
	if err := r.refuses[node]; err != nil {
		return nil, err
	}
	if task.GetHashCopy() != nil {
		r.hashed.Add(1)
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Hashed{Hashed: &requorumv1.Copy{State: r.copies[node], Detail: "detail"}}}, nil
	}
	if task.GetCompareFiles() != nil {
		return r.compareFiles(node, task.GetCompareFiles())
	}
	if task.GetListCopies() != nil {
		list := &agentv1.CopyList{}
		if node != r.gone {
			list.Manifests = append(list.Manifests, r.manifest)
		}
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copies{Copies: list}}, nil
	}
	return &agentv1.TaskResult{Result: &agentv1.TaskResult_Node{Node: r.facts[node]}}, nil
}

// open makes the room's records, as they have been changed.
func (r *room) open() {
	r.Helper()
	db, err := bolt.Open(filepath.Join(r.TempDir(), "store.db"))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = db.Close() })
	err = db.Update(func(tx store.Tx) error {
		for _, node := range r.enrolled {
			if err := store.Save(tx, store.Nodes, "prod/"+node, &journalv1.NodeRecord{Cluster: "prod", Name: node}); err != nil {
				return err
			}
		}
		for _, s := range r.more {
			if err := catalog.Put(tx, s); err != nil {
				return err
			}
		}
		return errors.Join(store.Save(tx, store.Clusters, "prod", r.cluster), catalog.Put(tx, r.entry))
	})
	if err != nil {
		r.Fatal(err)
	}
	remotes, err := remote.New([]remote.Config{{Name: "nfs", Kind: "dir", Dir: remote.Dir{Path: "/mnt"}}})
	if err != nil {
		r.Fatal(err)
	}
	r.Jobs = &Jobs{Catalog: catalog.New(db), Fleet: r, Remotes: remotes, Log: hclog.NewNullLogger()}
	builders := map[requorumv1.OperationKind]operation.Builder{requorumv1.OperationKind_OPERATION_KIND_RESTORE: r.Builder}
	r.Engine = operation.NewEngine(db, nil, 1, builders, hclog.NewNullLogger())
}

func (r *room) plan(spec *requorumv1.RestoreSpec) *requorumv1.RestorePlan {
	r.Helper()
	r.open()
	spec.Cluster, spec.Snapshot = "prod", "s"
	plan, err := r.Plan(context.Background(), &requorumv1.PlanRestoreRequest{Spec: spec})
	if err != nil {
		r.Fatal(err)
	}
	return plan
}

// rows lists the checks of a state, as "name node: message; advice".
func rows(plan *requorumv1.RestorePlan, state requorumv1.CheckState) []string {
	var all []string
	for _, c := range plan.GetChecks() {
		if c.GetState() == state {
			all = append(all, fmt.Sprintf("%s %s: %s; %s", c.GetName(), c.GetNode(), c.GetMessage(), c.GetAdvice()))
		}
	}
	return all
}

func TestPlanOfAHealthyClusterPasses(t *testing.T) {
	r := newRoom(t)
	plan := r.plan(&requorumv1.RestoreSpec{})
	if plan.GetRefused() {
		t.Errorf("refused: %q", rows(plan, requorumv1.CheckState_CHECK_STATE_FAILED))
	}
	if w := rows(plan, requorumv1.CheckState_CHECK_STATE_WARNING); len(w) != 1 || !strings.Contains(w[0], "the cluster is at revision 150, the snapshot at 100") {
		t.Errorf("warnings %q", w)
	}
	for _, name := range []string{"snapshot", "connected", "nodes", "copies", "version"} {
		if !slices.ContainsFunc(rows(plan, requorumv1.CheckState_CHECK_STATE_PASSED), func(row string) bool { return strings.HasPrefix(row, name+" :") }) {
			t.Errorf("check %s did not pass: %v", name, plan.GetChecks())
		}
	}
	if plan.GetRevision() != 100+defaultBump || plan.GetEstimatedDowntime().AsDuration() != 3500*time.Millisecond {
		t.Errorf("revision %d, downtime %s", plan.GetRevision(), plan.GetEstimatedDowntime().AsDuration())
	}
	n := plan.GetNodes()[1]
	if len(plan.GetNodes()) != 3 || n.GetNode() != "b" || n.GetMember() != "m-b" || n.GetQuarantinePaths()[0] != "/var/lib/etcd.quarantine-<operation>" || n.GetNeededBytes() != 2*gib {
		t.Errorf("nodes %v", plan.GetNodes())
	}
}

func TestChecksRefuse(t *testing.T) {
	missing := func(r *room) {
		for n := range r.copies {
			r.copies[n] = requorumv1.CopyState_COPY_STATE_MISSING
		}
	}
	for name, c := range map[string]struct {
		wrong func(*room)
		spec  *requorumv1.RestoreSpec
		want  string // a failed check
	}{
		"a snapshot that is not READY": {wrong: func(r *room) { r.entry.State = requorumv1.SnapshotState_SNAPSHOT_STATE_CREATING }, want: "snapshot : s is CREATING, not READY; choose another one"},
		"a snapshot with CORRUPT": {
			wrong: func(r *room) { r.manifest.Alarms = []*requorumv1.Alarm{{Type: "CORRUPT", MemberId: "id-b"}} },
			want:  "alarms : the snapshot carries the alarm CORRUPT of member id-b; choose another snapshot",
		},
		"an agent that is away":      {wrong: func(r *room) { r.offline["b"] = true }, want: "connected b: its agent is not connected; start the agent; if the node is gone for good leave it out: --nodes a,c"},
		"a runtime with a problem":   {wrong: func(r *room) { r.facts["b"].Problem = "no such unit" }, want: "runtime b: no such unit; repair that"},
		"a member without a name":    {wrong: func(r *room) { r.facts["b"].Member.Name = "" }, want: "config b: the member's name is not known; give it in the agent's configuration"},
		"a member without peer URLs": {wrong: func(r *room) { r.down(); r.facts["b"].Member.PeerUrls = nil }, want: "config b: the member's peer URLs are not known"},
		"two members of one name":    {wrong: func(r *room) { r.facts["b"].Member.Name = "m-a" }, want: "config b: its member has the name m-a, as the one on a; give every member a name"},
		"two members of one URL": {
			wrong: func(r *room) { r.down(); r.facts["c"].Member.PeerUrls = []string{"https://b:2380"} },
			want:  "config c: its member has the peer URL https://b:2380, as the one on b; give every member URLs",
		},
		"a learner that cannot join again": {
			wrong: func(r *room) {
				for _, f := range r.facts {
					f.Member.Members[2].Learner = true
				}
			},
			want: "config c: its member is a learner, which its runtime cannot start anew; leave the node out (--nodes a,b)",
		},
		"no voter": {
			wrong: func(r *room) {
				for _, f := range r.facts {
					f.CanJoinLearner = true
					f.Member.Members[2].Learner = true
				}
			},
			spec: &requorumv1.RestoreSpec{Nodes: []string{"c"}}, want: "config : no node with a voting member takes part",
		},
		"no space for staging": {wrong: func(r *room) { r.facts["b"].DataFreeBytes = gib }, want: "space b: 1.0 GiB free beside /var/lib/etcd, 2.0 GiB needed; free space there"},
		"no space for a WAL on a file system of its own": {
			wrong: func(r *room) {
				r.facts["b"].Member.WalDir = "/wal/etcd"
				r.facts["b"].WalFreeBytes, r.facts["b"].WalNeededBytes = gib/2, gib
			},
			want: "space b: 512 MiB free beside /wal/etcd, 1.0 GiB needed; free space there",
		},
		"no space for a copy": {
			wrong: func(r *room) {
				r.facts["b"].VaultFreeBytes = gib
				r.copies["b"] = requorumv1.CopyState_COPY_STATE_MISSING
			},
			want: "space b: 1.0 GiB free where snapshots are kept, 2.1 GiB needed",
		},
		"a copy that leaves less free than its agent wants": {
			wrong: func(r *room) {
				r.facts["b"].VaultFreeBytes = 2*gib + snapshot.Headroom - 1
				r.copies["b"] = requorumv1.CopyState_COPY_STATE_MISSING
			},
			want: "space b: 2.1 GiB free where snapshots are kept, 2.1 GiB needed",
		},
		"no space for both on one file system": {
			wrong: func(r *room) { r.facts["b"].SharedFileSystem, r.facts["b"].DataFreeBytes = true, 2*gib },
			want:  "space b: 2.0 GiB free beside /var/lib/etcd, 3.1 GiB needed",
		},
		"a quota that is too small": {wrong: func(r *room) { r.facts["b"].Member.QuotaBytes = gib / 2 }, want: "quota b: the snapshot has 1.0 GiB, the member's quota is 512 MiB; raise quota-backend-bytes"},
		"the default quota":         {wrong: func(r *room) { r.facts["b"].Member.QuotaBytes = 0; r.manifest.Size = 3 * gib }, want: "quota b: the snapshot has 3.0 GiB, the member's quota is 2.0 GiB"},
		"no copy anywhere":          {wrong: missing, want: "copies b: its copy is missing (detail); no node holds a good copy: choose another snapshot, or import"},
		"no readable copy":          {wrong: missing, spec: &requorumv1.RestoreSpec{SkipHashCheck: true}, want: "copies : no node holds a readable copy"},
		"another minor version":     {wrong: func(r *room) { r.facts["b"].EtcdVersion = "3.5.21" }, want: "version b: its etcd is 3.5.21, the snapshot's is 3.6; install etcd 3.6 there; to restore across minor versions all the same: --allow-version-mismatch"},
		"nodes of two versions": {
			wrong: func(r *room) { r.manifest.EtcdVersion = ""; r.facts["c"].EtcdVersion = "3.5.21" },
			want:  "version c: its etcd is 3.5.21, that of other nodes is 3.6",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			c.wrong(r)
			spec := c.spec
			if spec == nil {
				spec = &requorumv1.RestoreSpec{}
			}
			plan := r.plan(spec)
			failed := rows(plan, requorumv1.CheckState_CHECK_STATE_FAILED)
			if !plan.GetRefused() || !slices.ContainsFunc(failed, func(row string) bool { return strings.HasPrefix(row, c.want) }) {
				t.Errorf("failed checks %q, want %q", failed, c.want)
			}
		})
	}
}

func TestChecksWarn(t *testing.T) {
	for name, c := range map[string]struct {
		wrong func(*room)
		spec  *requorumv1.RestoreSpec
		want  string
	}{
		"a snapshot of tomorrow":   {wrong: func(r *room) { r.manifest.Created = timestamppb.New(time.Now().Add(time.Hour)) }, want: "at a time to come"},
		"an old snapshot":          {wrong: func(r *room) { r.manifest.Created = timestamppb.New(time.Now().Add(-80 * time.Hour)) }, want: "older than 72 h"},
		"a snapshot with NOSPACE":  {wrong: func(r *room) { r.manifest.Alarms = []*requorumv1.Alarm{{Type: "NOSPACE"}} }, want: "cleared after the start"},
		"authentication":           {wrong: func(r *room) { r.manifest.AuthEnabled = true }, want: "the users and passwords of that day come back"},
		"a copy that is missing":   {wrong: func(r *room) { r.copies["b"] = requorumv1.CopyState_COPY_STATE_MISSING }, want: "copies b: its copy is missing (detail); it gets the file from a"},
		"an unknown version":       {wrong: func(r *room) { r.facts["b"].EtcdVersion = "" }, want: "version b: the version of its etcd is not known"},
		"another version, allowed": {wrong: func(r *room) { r.facts["b"].EtcdVersion = "3.5.21" }, spec: &requorumv1.RestoreSpec{AllowVersionMismatch: true}, want: "version b: its etcd is 3.5.21"},
		"nobody serves":            {wrong: (*room).down, want: "no member serves, so it cannot be told; the safety snapshot is taken of the old data once the restore is done"},
		"no bump":                  {wrong: func(*room) {}, spec: &requorumv1.RestoreSpec{NoBump: true}, want: "the revision goes back"},
		"no hashes":                {wrong: func(*room) {}, spec: &requorumv1.RestoreSpec{SkipHashCheck: true}, want: "a damaged file would be restored"},
		"a learner that can join again": {wrong: func(r *room) {
			for _, f := range r.facts {
				f.CanJoinLearner, f.Member.Members[2].Learner = true, true
			}
		}, want: "config c: its member is a learner; it joins the restored cluster again"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			c.wrong(r)
			spec := c.spec
			if spec == nil {
				spec = &requorumv1.RestoreSpec{}
			}
			plan := r.plan(spec)
			if f := rows(plan, requorumv1.CheckState_CHECK_STATE_FAILED); len(f) > 0 {
				t.Errorf("refused: %q", f)
			}
			warnings := rows(plan, requorumv1.CheckState_CHECK_STATE_WARNING)
			if !slices.ContainsFunc(warnings, func(row string) bool { return strings.Contains(row, c.want) }) {
				t.Errorf("warnings %q, want %q", warnings, c.want)
			}
		})
	}
}

// Those left out must not be able to go on as the old cluster.
func TestLeftOutMustNotFormAQuorumOfTheOldCluster(t *testing.T) {
	five := func(r *room) {
		r.enrolled = []string{"a", "b", "c", "d", "e"}
		for _, f := range r.facts {
			f.Member.Members = listed("a", "b", "c", "d", "e")
		}
	}
	three := func(*room) {}
	for name, c := range map[string]struct {
		room      func(*room)
		nodes     []string
		destroyed bool
		want      requorumv1.CheckState // of the check; unspecified if there is none
		says      string
	}{
		"nobody is left out":               {room: three, nodes: []string{"a", "b", "c"}},
		"one of three":                     {room: three, nodes: []string{"a", "b"}, want: requorumv1.CheckState_CHECK_STATE_WARNING, says: "1 of the old cluster's 3 voting members are left out: c"},
		"two of three":                     {room: three, nodes: []string{"a"}, want: requorumv1.CheckState_CHECK_STATE_FAILED, says: "2 of the old cluster's 3 voting members are left out: b, c; they could go on"},
		"two of three that are destroyed":  {room: three, nodes: []string{"a"}, destroyed: true, want: requorumv1.CheckState_CHECK_STATE_WARNING, says: "stated to be destroyed"},
		"two of five":                      {room: five, nodes: []string{"a", "b", "c"}, want: requorumv1.CheckState_CHECK_STATE_WARNING},
		"three of five":                    {room: five, nodes: []string{"a", "b"}, want: requorumv1.CheckState_CHECK_STATE_FAILED},
		"the cluster is down, two of five": {room: func(r *room) { five(r); r.down(); r.cluster.Voters = 5 }, nodes: []string{"a", "b", "c"}, want: requorumv1.CheckState_CHECK_STATE_WARNING},
		"the cluster is down, three of five": {
			room: func(r *room) { five(r); r.down(); r.cluster.Voters = 5 }, nodes: []string{"a", "b"}, want: requorumv1.CheckState_CHECK_STATE_FAILED,
		},
		"the cluster is down and was never seen": {room: func(r *room) { r.down() }, nodes: []string{"a"}, want: requorumv1.CheckState_CHECK_STATE_FAILED},
		"a member on no node": {
			room: func(r *room) {
				for _, f := range r.facts {
					f.Member.Members = listed("a", "b", "c", "x")
				}
			},
			nodes: []string{"a", "b", "c"}, want: requorumv1.CheckState_CHECK_STATE_WARNING, says: "members that are on no node of requorum",
		},
		"a learner does not count": {
			room: func(r *room) {
				for _, f := range r.facts {
					f.Member.Members[2].Learner = true
				}
			},
			nodes: []string{"a", "b"},
		},
		"new nodes make up for none of them": {
			room: func(r *room) {
				r.enrolled = []string{"a", "b", "c", "d", "e"}
				for _, n := range []string{"d", "e"} {
					m := r.facts[n].Member
					m.Id, m.Serving, m.Members = "", false, nil
				}
			},
			nodes: []string{"a", "d", "e"}, want: requorumv1.CheckState_CHECK_STATE_FAILED, says: "2 of the old cluster's 3 voting members are left out: b, c",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			c.room(r)
			plan := r.plan(&requorumv1.RestoreSpec{Nodes: c.nodes, LeftOutDestroyed: c.destroyed})
			var state requorumv1.CheckState
			var text string
			for _, check := range plan.GetChecks() {
				if check.GetName() == "left out" {
					state, text = check.GetState(), check.GetMessage()+"; "+check.GetAdvice()
				}
			}
			if state != c.want || !strings.Contains(text, c.says) {
				t.Errorf("%v: %q, want %v: %q; checks %v", state, text, c.want, c.says, plan.GetChecks())
			}
		})
	}
}

// Clients must never see the revision go back, however often the cluster was restored before.
func TestRevisionPassesAllThatClientsHaveSeen(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*room)
		spec   *requorumv1.RestoreSpec
		want   int64
	}{
		"by a billion where that is enough": {func(r *room) { r.seen = 7000 }, &requorumv1.RestoreSpec{}, 100 + defaultBump},
		"the cluster was restored before": {
			func(r *room) { r.facts["b"].Member.Revision = 2 * defaultBump }, &requorumv1.RestoreSpec{}, 3 * defaultBump,
		},
		"it was, and does not serve": {func(r *room) { r.down(); r.seen = 2 * defaultBump }, &requorumv1.RestoreSpec{}, 3 * defaultBump},
		"a newer snapshot knows of it": {
			func(r *room) { r.also(2*defaultBump, requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND) }, &requorumv1.RestoreSpec{}, 3 * defaultBump,
		},
		"an imported file may be foreign": {
			func(r *room) { r.also(2*defaultBump, requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED) }, &requorumv1.RestoreSpec{}, 100 + defaultBump,
		},
		"as asked for":                     {func(*room) {}, &requorumv1.RestoreSpec{BumpRevision: 51}, 151},
		"asked for, and not enough":        {func(*room) {}, &requorumv1.RestoreSpec{BumpRevision: 50}, 0},
		"asked for not to go up at all":    {func(*room) {}, &requorumv1.RestoreSpec{NoBump: true}, 100},
		"not at all, though it was higher": {func(r *room) { r.seen = 7000 }, &requorumv1.RestoreSpec{NoBump: true}, 100},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t)
			c.change(r)
			plan := r.plan(c.spec)
			if plan.GetRefused() != (c.want == 0) || c.want != 0 && plan.GetRevision() != c.want {
				t.Errorf("revision %d, refused %v, want %d; %q", plan.GetRevision(), plan.GetRefused(), c.want, rows(plan, requorumv1.CheckState_CHECK_STATE_FAILED))
			}
		})
	}
}

func TestMembershipIsThatOfToday(t *testing.T) {
	r := newRoom(t)
	for _, f := range r.facts {
		f.Member.Members[1].PeerUrls = []string{"https://moved:2380"} // the list knows better than the configuration
	}
	if urls := r.plan(&requorumv1.RestoreSpec{}).GetNodes()[1].GetPeerUrls(); !slices.Equal(urls, []string{"https://moved:2380"}) {
		t.Errorf("while it serves: %v", urls)
	}
	r = newRoom(t)
	r.down()
	r.manifest.Members = listed("x", "y", "z")
	if urls := r.plan(&requorumv1.RestoreSpec{}).GetNodes()[1].GetPeerUrls(); !slices.Equal(urls, []string{"https://b:2380"}) {
		t.Errorf("while it is down: %v", urls)
	}
}

func TestPlanFailsWithANode(t *testing.T) {
	r := newRoom(t)
	r.refuses["b"] = errors.New("b: cannot read its configuration")
	r.open()
	if _, err := r.Plan(context.Background(), &requorumv1.PlanRestoreRequest{Spec: &requorumv1.RestoreSpec{Cluster: "prod", Snapshot: "s"}}); !errors.Is(err, r.refuses["b"]) {
		t.Errorf("got %v", err)
	}
}

func TestResolve(t *testing.T) {
	r := newRoom(t)
	r.open()
	spec, _, err := r.Resolve(t.Context(), &requorumv1.RestoreSpec{Cluster: "prod", Snapshot: "latest", Nodes: []string{"c", "a", "c"}})
	if err != nil || spec.GetSnapshot() != "s" || !slices.Equal(spec.GetNodes(), []string{"a", "c"}) || spec.GetQuarantine().AsDuration() != 72*time.Hour {
		t.Errorf("%v, %v", spec, err)
	}
	spec, _, err = r.Resolve(t.Context(), &requorumv1.RestoreSpec{Cluster: "prod", Snapshot: "s", NoBump: true, Quarantine: durationpb.New(time.Hour)})
	if err != nil || spec.GetBumpRevision() != 0 || len(spec.GetNodes()) != 3 || spec.GetQuarantine().AsDuration() != time.Hour {
		t.Errorf("%v, %v", spec, err)
	}
	for want, spec := range map[string]*requorumv1.RestoreSpec{
		`there is no cluster "nope"`:          {Cluster: "nope", Snapshot: "s"},
		`cluster prod has no snapshot "nope"`: {Cluster: "prod", Snapshot: "nope"},
		`cluster prod has no node "x"`:        {Cluster: "prod", Snapshot: "s", Nodes: []string{"a", "x"}},
		"exclude each other":                  {Cluster: "prod", Snapshot: "s", NoBump: true, BumpRevision: 1},
		"too large":                           {Cluster: "prod", Snapshot: "s", BumpRevision: 1<<62 + 1},
		"quarantine is negative":              {Cluster: "prod", Snapshot: "s", Quarantine: durationpb.New(-time.Hour)},
	} {
		_, _, err := r.Resolve(t.Context(), spec)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if known := errors.As(err, new(*catalog.NotFoundError)) || errors.As(err, new(*snapshot.InvalidError)); !known {
			t.Errorf("%v is no error that a client can act on", err)
		}
	}
}

func TestEstimateGrowsWithTheSize(t *testing.T) {
	for size, want := range map[int64]time.Duration{0: 2500 * time.Millisecond, gib: 3500 * time.Millisecond, 4 * gib: 6500 * time.Millisecond} {
		if got := estimate(size); got != want {
			t.Errorf("%d bytes: %s, want %s", size, got, want)
		}
	}
}
