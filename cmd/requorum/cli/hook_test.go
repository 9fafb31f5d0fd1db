package cli

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/config"
)

// fresh is a snapshot that is good enough for an upgrade.
func fresh(name string) *requorumv1.Snapshot {
	s := &requorumv1.Snapshot{
		Name: name, Cluster: "prod", State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY, Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE,
		Manifest: &requorumv1.Manifest{Name: name, Created: before(3 * time.Minute)},
	}
	for _, n := range prod().GetNodes() {
		s.Copies = append(s.Copies, &requorumv1.Copy{Node: n.GetName(), State: requorumv1.CopyState_COPY_STATE_GOOD})
	}
	return s
}

func TestWhichSnapshotsAreGoodEnoughForAnUpgrade(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*requorumv1.Snapshot)
		want   string
	}{
		"a fresh one":           {func(*requorumv1.Snapshot) {}, ""},
		"one on demand":         {func(s *requorumv1.Snapshot) { s.Kind = requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND }, ""},
		"being made":            {func(s *requorumv1.Snapshot) { s.State = requorumv1.SnapshotState_SNAPSHOT_STATE_CREATING }, "it is creating"},
		"too old":               {func(s *requorumv1.Snapshot) { s.Manifest.Created = before(10*time.Minute + time.Second) }, "it is older than 10m"},
		"not quite too old":     {func(s *requorumv1.Snapshot) { s.Manifest.Created = before(10 * time.Minute) }, ""},
		"a safety snapshot":     {func(s *requorumv1.Snapshot) { s.Kind = requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY }, "it is of the kind safety"},
		"one of a schedule":     {func(s *requorumv1.Snapshot) { s.Kind = requorumv1.SnapshotKind_SNAPSHOT_KIND_SCHEDULED }, "it is of the kind scheduled"},
		"one of a kind to come": {func(s *requorumv1.Snapshot) { s.Kind = 99 }, "it is of the kind 99"},
		"a copy is damaged": {
			func(s *requorumv1.Snapshot) { s.Copies[1].State = requorumv1.CopyState_COPY_STATE_DIFFERENT }, "its copy on etcd-2 is different",
		},
		"a node has no copy":     {func(s *requorumv1.Snapshot) { s.Copies = s.Copies[:2] }, "its copy on etcd-3 is missing"},
		"of another Kubernetes":  {func(s *requorumv1.Snapshot) { s.Manifest.Labels = map[string]string{labelKubernetes: "v1.30.0"} }, "it is of Kubernetes v1.30.0"},
		"of the same Kubernetes": {func(s *requorumv1.Snapshot) { s.Manifest.Labels = map[string]string{labelKubernetes: "v1.31.0"} }, ""},
		"its drill has failed": {func(s *requorumv1.Snapshot) {
			s.FailedVerification = &requorumv1.Verification{Time: before(time.Minute), Error: "broken"}
		}, "it could not be restored in a drill: broken"},
		"its drill failed before": {func(s *requorumv1.Snapshot) {
			s.FailedVerification, s.Verified = &requorumv1.Verification{Time: before(2 * time.Minute)}, &requorumv1.Verification{Time: before(time.Minute)}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := fresh("s")
			c.change(s)
			h := &preUpgrade{maxAge: config.Duration(defaultMaxAge), began: noon, kubernetes: "v1.31.0"}
			if got := h.lacks(s, prod().GetNodes()); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if got := h.choose([]*requorumv1.Snapshot{s, fresh("older")}, prod().GetNodes()).GetName(); (got == "s") != (c.want == "") {
				t.Errorf("%s was chosen", got)
			}
		})
	}
}

const hook = "hook pre-upgrade --cluster prod"

func TestHookUsesWhatIsThere(t *testing.T) {
	f := newFake(t)
	f.snapshots = append(f.snapshots, fresh("from-before"))
	r := f.command(t, strings.Fields(hook)...)
	if r.code != ExitDone || r.out != "from-before\n" {
		t.Errorf("exit %d, stdout %q\n%s", r.code, r.out, r.err)
	}
	want := &requorumv1.CheckSnapshotRequest{RequestId: requestID, Cluster: "prod", Name: "from-before"}
	if got := f.got(); len(got) != 1 || !proto.Equal(got[0], want) {
		t.Errorf("asked for %v", got)
	}
}

// The catalog has a young snapshot as good, and it is not: another one is taken.
func TestHookDoesNotBelieveTheCatalog(t *testing.T) {
	stored := func(name string) *requorumv1.Snapshot {
		s := fresh(name)
		s.Remotes = []*requorumv1.RemoteCopy{{Remote: "nfs", State: requorumv1.CopyState_COPY_STATE_GOOD, Object: &requorumv1.StoredObject{Key: name}}}
		return s
	}
	for name, c := range map[string]struct {
		line  string
		given func(*fake)
		says  string
	}{
		"a node has lost its copy": {"", func(f *fake) { f.op = failed(requorumv1.OperationState_OPERATION_STATE_REFUSED, "") }, "from-before is not used: "},
		"the remote has lost it":   {" --remote nfs", func(f *fake) { delete(f.held, "from-before") }, "from-before is not used: remote nfs does not hold it any more"},
		"it is another there": {" --remote nfs", func(f *fake) {
			f.held["from-before"].Stored.Size = 7
		}, "from-before is not used: remote nfs does not hold it any more"},
		"nobody can look": {" --remote nfs", func(f *fake) { f.unseen = []error{status.Error(codes.Unavailable, "no route")} }, "from-before is not used: remote nfs could not be looked into: no route"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.snapshots = []*requorumv1.Snapshot{stored("from-before")}
			f.held = map[string]*requorumv1.Manifest{}
			for _, n := range []string{"from-before", "taken"} {
				f.held[n] = &requorumv1.Manifest{Name: n, Stored: &requorumv1.StoredObject{Key: n}}
			}
			f.op.Snapshot = "from-before"
			c.given(f)
			f.changed = func(req proto.Message) error {
				if _, saves := req.(*requorumv1.SaveSnapshotRequest); saves {
					f.op = succeeded(requorumv1.OperationKind_OPERATION_KIND_SAVE)
					f.op.Snapshot = "taken"
					f.snapshots = append([]*requorumv1.Snapshot{stored("taken")}, f.snapshots...)
				}
				return nil
			}
			r := f.command(t, strings.Fields(hook+c.line)...)
			if r.code != ExitDone || r.out != "taken\n" || !strings.Contains(r.err, c.says) || len(f.got()) != 2 {
				t.Errorf("exit %d, stdout %q, %v\n%s", r.code, r.out, f.got(), r.err)
			}
		})
	}
}

func TestHookTakesASnapshotAndPrintsOnlyItsName(t *testing.T) {
	f := newFake(t)
	f.op = succeeded(requorumv1.OperationKind_OPERATION_KIND_SAVE)
	f.op.Snapshot = "taken"
	f.changed = func(proto.Message) error {
		f.snapshots = append([]*requorumv1.Snapshot{fresh("taken")}, f.snapshots...)
		return nil
	}
	r := f.command(t, strings.Fields(hook+" --kubernetes-version v1.31.0")...)
	if r.code != ExitDone || r.out != "taken\n" || !strings.Contains(r.err, "distribute: done") {
		t.Fatalf("exit %d, stdout %q\n%s", r.code, r.out, r.err)
	}
	want := &requorumv1.SaveSnapshotRequest{
		RequestId: requestID, Cluster: "prod", Kind: requorumv1.SnapshotKind_SNAPSHOT_KIND_PRE_UPGRADE,
		Labels: map[string]string{"pre-upgrade": "true", "etcd-version": "3.6.5", "kubernetes-version": "v1.31.0"},
	}
	if got := f.got(); len(got) != 1 || !proto.Equal(got[0], want) {
		t.Errorf("asked for %v", got)
	}
	again := f.command(t, append(strings.Fields(hook), "-o", "json")...)
	if again.code != ExitDone || !strings.Contains(again.out, `"name": "taken"`) || len(f.got()) != 2 {
		t.Errorf("exit %d, %d changes\n%s%s", again.code, len(f.got()), again.out, again.err)
	}
}

// A snapshot that took longer than --max-age is the one that was asked for all the same.
func TestHookDoesNotTakeSnapshotsForEver(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*requorumv1.Snapshot)
		code   int
	}{
		"slow":           {func(s *requorumv1.Snapshot) { s.Manifest.Created = before(time.Hour) }, ExitDone},
		"a node is late": {func(s *requorumv1.Snapshot) { s.Copies = s.Copies[:2] }, ExitRefused},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.op.Snapshot = "taken"
			f.changed = func(proto.Message) error {
				s := fresh("taken")
				c.change(s)
				f.snapshots = append([]*requorumv1.Snapshot{s}, f.snapshots...)
				return nil
			}
			r := f.command(t, strings.Fields(hook)...)
			if r.code != c.code || len(f.got()) != 1 || (r.out == "taken\n") != (c.code == ExitDone) {
				t.Errorf("exit %d, stdout %q, %d changes\n%s", r.code, r.out, len(f.got()), r.err)
			}
		})
	}
}

// Several nodes are upgraded at once: one hook is faster, and the others use its snapshot.
func TestHookWaitsForAnotherAndUsesItsSnapshot(t *testing.T) {
	f := newFake(t)
	busy, err := status.New(codes.FailedPrecondition, "operation is changing cluster prod").WithDetails(&errdetails.ErrorInfo{Reason: "BUSY"})
	if err != nil {
		t.Fatal(err)
	}
	f.op.Snapshot = "of-the-other"
	f.changed = func(proto.Message) error { // another hook was accepted just before
		f.clusters = []*requorumv1.Cluster{prod()}
		f.clusters[0].RunningOperation = opID
		return busy.Err()
	}
	f.watch = func(stream grpc.ServerStreamingServer[requorumv1.WatchOperationResponse]) error {
		f.mu.Lock()
		f.clusters = []*requorumv1.Cluster{prod()}
		f.snapshots = append([]*requorumv1.Snapshot{fresh("of-the-other")}, f.snapshots...)
		f.mu.Unlock()
		return stream.Send(whole(f.op))
	}
	r := f.command(t, strings.Fields(hook)...)
	if r.code != ExitDone || r.out != "of-the-other\n" || len(f.got()) != 1 {
		t.Errorf("exit %d, stdout %q, %d changes\n%s", r.code, r.out, len(f.got()), r.err)
	}
}

func TestHookVerifies(t *testing.T) {
	f := newFake(t)
	f.op = succeeded(requorumv1.OperationKind_OPERATION_KIND_VERIFY)
	f.snapshots = []*requorumv1.Snapshot{fresh("from-before")}
	f.changed = func(req proto.Message) error {
		if _, checks := req.(*requorumv1.CheckSnapshotRequest); checks {
			return nil
		}
		f.snapshots = []*requorumv1.Snapshot{fresh("from-before")}
		f.snapshots[0].Verified = &requorumv1.Verification{Time: before(0), Node: "etcd-2"}
		return nil
	}
	for range 2 {
		if r := f.command(t, strings.Fields(hook+" --verify")...); r.code != ExitDone || r.out != "from-before\n" {
			t.Fatalf("exit %d, stdout %q\n%s", r.code, r.out, r.err)
		}
	}
	want := &requorumv1.VerifySnapshotRequest{RequestId: requestID, Cluster: "prod", Name: "from-before"}
	if got := f.got(); len(got) != 3 || !proto.Equal(got[1], want) { // each time the nodes are asked first
		t.Errorf("asked for %v", got)
	}
}

func TestHookRequiresARemoteCopy(t *testing.T) {
	stored := func(name, remote string) *requorumv1.Snapshot {
		s := fresh(name)
		s.Remotes = []*requorumv1.RemoteCopy{{Remote: remote, State: requorumv1.CopyState_COPY_STATE_GOOD}}
		return s
	}
	for line, only := range map[string]bool{" --require-remote": true, " --remote nfs": false, " --require-remote --remote nfs": false} {
		t.Run(line, func(t *testing.T) {
			f := newFake(t)
			if only {
				f.remotes = f.remotes[1:]
			}
			f.op = succeeded(requorumv1.OperationKind_OPERATION_KIND_SAVE)
			f.op.Snapshot = "taken"
			f.snapshots = []*requorumv1.Snapshot{fresh("on-the-nodes"), stored("elsewhere", "off-site")}
			f.held = map[string]*requorumv1.Manifest{"taken": {Name: "taken"}}
			f.changed = func(req proto.Message) error {
				if save, saves := req.(*requorumv1.SaveSnapshotRequest); saves {
					f.snapshots = append([]*requorumv1.Snapshot{stored("taken", save.GetRemote())}, f.snapshots...)
				}
				return nil
			}
			for range 2 { // the second time it is there
				if r := f.command(t, strings.Fields(hook+line)...); r.code != ExitDone || r.out != "taken\n" {
					t.Fatalf("exit %d, stdout %q\n%s", r.code, r.out, r.err)
				}
			}
			if got := f.got(); len(got) != 2 || got[0].(*requorumv1.SaveSnapshotRequest).GetRemote() != "nfs" {
				t.Errorf("asked for %v", got)
			}
		})
	}
}

func TestHookFails(t *testing.T) {
	outcome := func(state requorumv1.OperationState, attention string) func(*fake) {
		return func(f *fake) { f.op = failed(state, attention) }
	}
	for name, c := range map[string]struct {
		line  string
		given func(*fake)
		code  int
	}{
		"no remote":          {hook + " --require-remote", func(f *fake) { f.remotes = nil }, ExitRefused},
		"which remote":       {hook + " --require-remote", nil, ExitUsage},
		"the snapshot fails": {hook, outcome(requorumv1.OperationState_OPERATION_STATE_REVERTED, ""), ExitReverted},
		"a node is away":     {hook, outcome(requorumv1.OperationState_OPERATION_STATE_REFUSED, ""), ExitRefused},
		"not allowed":        {hook, func(f *fake) { f.refuse = status.Error(codes.PermissionDenied, "vera is a viewer") }, ExitRefused},
		"no such cluster":    {"hook pre-upgrade --cluster nope", nil, ExitRefused},
		"another one needs a person": {hook, func(f *fake) {
			f.clusters[0].RunningOperation = opID
			f.op = failed(requorumv1.OperationState_OPERATION_STATE_REVERTING, "bring etcd-2 back")
		}, ExitNeedsAttention},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if c.given != nil {
				c.given(f)
			}
			r := f.command(t, strings.Fields(c.line)...)
			if r.code != c.code || r.out != "" || r.err == "" {
				t.Errorf("exit %d, want %d; stdout %q\n%s", r.code, c.code, r.out, r.err)
			}
		})
	}
}
