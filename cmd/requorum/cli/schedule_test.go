package cli

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

func (f *fake) ApplySchedule(_ context.Context, req *requorumv1.ApplyScheduleRequest) (*requorumv1.ApplyScheduleResponse, error) {
	s := proto.CloneOf(req.GetSchedule())
	s.Status = &requorumv1.ScheduleStatus{Next: timestamppb.New(noon.Add(time.Hour))}
	return &requorumv1.ApplyScheduleResponse{Schedule: s, Outcome: requorumv1.ApplyOutcome_APPLY_OUTCOME_CREATED}, f.accept(req)
}

func (f *fake) ListSchedules(context.Context, *requorumv1.ListSchedulesRequest) (*requorumv1.ListSchedulesResponse, error) {
	return &requorumv1.ListSchedulesResponse{Schedules: []*requorumv1.Schedule{nightly(), weekly()}}, nil
}

func (f *fake) GetSchedule(_ context.Context, req *requorumv1.GetScheduleRequest) (*requorumv1.GetScheduleResponse, error) {
	if req.GetName() != "nightly" {
		return nil, status.Errorf(codes.NotFound, "there is no schedule %q; requorum schedule ls shows them", req.GetName())
	}
	return &requorumv1.GetScheduleResponse{Schedule: nightly()}, nil
}

func (f *fake) PauseSchedule(_ context.Context, req *requorumv1.PauseScheduleRequest) (*requorumv1.PauseScheduleResponse, error) {
	return &requorumv1.PauseScheduleResponse{Schedule: nightly()}, f.accept(req)
}

func (f *fake) ResumeSchedule(_ context.Context, req *requorumv1.ResumeScheduleRequest) (*requorumv1.ResumeScheduleResponse, error) {
	return &requorumv1.ResumeScheduleResponse{Schedule: nightly()}, f.accept(req)
}

func (f *fake) TriggerSchedule(_ context.Context, req *requorumv1.TriggerScheduleRequest) (*requorumv1.TriggerScheduleResponse, error) {
	return &requorumv1.TriggerScheduleResponse{Operation: f.op, Run: ranNightly()[0]}, f.accept(req)
}

func (f *fake) DeleteSchedule(_ context.Context, req *requorumv1.DeleteScheduleRequest) (*requorumv1.DeleteScheduleResponse, error) {
	return &requorumv1.DeleteScheduleResponse{}, f.accept(req)
}

func (f *fake) ListScheduleRuns(context.Context, *requorumv1.ListScheduleRunsRequest) (*requorumv1.ListScheduleRunsResponse, error) {
	return &requorumv1.ListScheduleRunsResponse{Runs: ranNightly()}, nil
}

func (f *fake) RepairSnapshot(_ context.Context, req *requorumv1.RepairSnapshotRequest) (*requorumv1.RepairSnapshotResponse, error) {
	return &requorumv1.RepairSnapshotResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) PlanRebuild(_ context.Context, req *requorumv1.PlanRebuildRequest) (*requorumv1.PlanRebuildResponse, error) {
	f.take(req)
	return &requorumv1.PlanRebuildResponse{
		Entries: []*requorumv1.RebuildEntry{
			{Manifest: manifest(), Nodes: []string{"etcd-1", "etcd-2"}, Remotes: req.GetFrom()}, {Manifest: manifest(), Remotes: req.GetFrom(), Known: true},
		},
		Notes: []string{"clash: the catalog has another snapshot of that name than remote off-site; the catalog's stays, and the remote's is left out"},
	}, nil
}

func (f *fake) RebuildCatalog(_ context.Context, req *requorumv1.RebuildCatalogRequest) (*requorumv1.RebuildCatalogResponse, error) {
	return &requorumv1.RebuildCatalogResponse{Operation: f.op}, f.accept(req)
}

func (f *fake) ListOrphans(context.Context, *requorumv1.ListOrphansRequest) (*requorumv1.ListOrphansResponse, error) {
	return &requorumv1.ListOrphansResponse{Orphans: []*requorumv1.Orphan{
		{Node: "etcd-1", Manifest: manifest()}, {Remote: "off-site", Key: "etcd/prod/pre-1.31-5f1c09aa.db.zst", Manifest: manifest()}, {Remote: "off-site", Key: "etcd/prod/half.db.zst"},
	}, Silent: []string{"etcd-3"}, Problems: []string{"remote nfs: the directory is not there"}}, nil
}

func (f *fake) PlanPrune(_ context.Context, req *requorumv1.PlanPruneRequest) (*requorumv1.PlanPruneResponse, error) {
	f.take(req)
	scheduled := requorumv1.SnapshotKind_SNAPSHOT_KIND_SCHEDULED
	return &requorumv1.PlanPruneResponse{Verdicts: []*requorumv1.PruneVerdict{
		{Name: "nightly-2", Schedule: "nightly", Kind: scheduled, Created: before(time.Hour), Size: 1 << 30, Reason: "last 1 of 1 of schedule nightly"},
		{Name: "nightly-1", Schedule: "nightly", Kind: scheduled, Created: before(25 * time.Hour), Size: 1 << 30, Remove: true, Reason: "schedule nightly keeps last 1", Removal: &requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: "nightly-1"}},
		{Name: "nightly-0", Schedule: "nightly", Kind: scheduled, Created: before(49 * time.Hour), Size: 1 << 29, Remove: true, Reason: "schedule nightly keeps last 1", Removal: &requorumv1.DeleteSnapshotRequest{Cluster: "prod", Name: "nightly-0"}},
	}}, nil
}

func nightly() *requorumv1.Schedule {
	return &requorumv1.Schedule{
		Name: "nightly", Cluster: "prod", Cron: "30 2 * * *", Timezone: "Europe/Berlin", Labels: map[string]string{"by": "schedule"}, Copies: 1,
		Stagger: durationpb.New(30 * time.Minute), LocalStorage: &requorumv1.Retention{Ttl: durationpb.New(60 * 24 * time.Hour), Daily: 7, Weekly: 4},
		Status: &requorumv1.ScheduleStatus{Applied: before(48 * time.Hour), AppliedBy: "admin alice", Next: timestamppb.New(noon.Add(13 * time.Hour)), Records: ranNightly(), Drill: ranNightly()[0].GetDrill()},
		Drill:  &requorumv1.Drill{Every: durationpb.New(7 * 24 * time.Hour)},
		Retry:  &requorumv1.Retry{Limit: proto.Uint32(0), After: durationpb.New(time.Minute)},
	}
}

func weekly() *requorumv1.Schedule {
	return &requorumv1.Schedule{Name: "weekly", Cluster: "prod", Every: durationpb.New(7 * 24 * time.Hour), Paused: true, Status: &requorumv1.ScheduleStatus{}}
}

func ranNightly() []*requorumv1.ScheduleRun {
	run := func(age time.Duration, result requorumv1.RunResult) *requorumv1.ScheduleRun {
		return &requorumv1.ScheduleRun{Id: "01JRUN", Schedule: "nightly", Cluster: "prod", Due: before(age), Began: before(age), Ended: before(age - time.Minute), Result: result, OperationId: opID}
	}
	good, bad, waited := run(11*time.Hour, requorumv1.RunResult_RUN_RESULT_SUCCEEDED), run(35*time.Hour, requorumv1.RunResult_RUN_RESULT_FAILED), run(59*time.Hour, requorumv1.RunResult_RUN_RESULT_DELAYED)
	good.Snapshot, good.TriggeredBy = "nightly-prod-1", "admin alice"
	good.Drill = &requorumv1.ScheduleDrill{
		Due: good.GetEnded(), Began: good.GetEnded(), Ended: good.GetEnded(), Snapshot: "nightly-prod-1", OperationId: opID,
		Result: requorumv1.RunResult_RUN_RESULT_FAILED, Reason: "reverted: etcd-2: HashKV differs",
	}
	bad.Reason, bad.Retry, bad.Again = "refused: etcd-2: its agent is not connected; start the agent", 1, before(34*time.Hour)
	waited.Began, waited.Ended, waited.OperationId, waited.Reason, waited.Missed = nil, nil, "", "waited for operation 01J (restore)", 2
	return []*requorumv1.ScheduleRun{good, bad, waited}
}

func TestScheduleCommandsAnswerAsWritten(t *testing.T) {
	file := write(t, "name: nightly\ncluster: prod\ncron: 30 2 * * *\nlocalStorage: {last: 5}\n---\nname: often\ncluster: prod\nevery: 15m\n")
	kind := func(k requorumv1.OperationKind) func(*fake) { return func(f *fake) { f.op = succeeded(k) } }
	for name, c := range map[string]struct {
		line  string
		given func(*fake)
	}{
		"schedule-apply":          {line: "schedule apply -f " + file},
		"schedule-get":            {line: "schedule get nightly"},
		"schedule-ls":             {line: "schedule ls"},
		"schedule-history":        {line: "schedule history nightly"},
		"schedule-pause":          {line: "schedule pause nightly"},
		"schedule-resume":         {line: "schedule resume nightly"},
		"schedule-trigger":        {line: "schedule trigger nightly"},
		"schedule-rm":             {line: "schedule rm nightly --yes"},
		"snapshot-prune-dry":      {line: "snapshot prune --dry-run"},
		"snapshot-prune":          {line: "snapshot prune --yes", given: kind(requorumv1.OperationKind_OPERATION_KIND_DELETE)},
		"snapshot-repair":         {line: "snapshot repair pre-1.31", given: kind(requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE)},
		"snapshot-orphans":        {line: "snapshot orphans"},
		"catalog-rebuild-plan":    {line: "catalog rebuild --from off-site --dry-run"},
		"catalog-rebuild":         {line: "catalog rebuild", given: kind(requorumv1.OperationKind_OPERATION_KIND_REBUILD)},
		"schedule-get-not-found":  {line: "schedule get nosuch"},
		"schedule-rm-nobody":      {line: "schedule rm nightly"},
		"schedule-history-all":    {line: "schedule history --cluster prod --limit 5"},
		"schedule-trigger-detach": {line: "schedule trigger nightly --detach"},
	} {
		formats := []string{"table", "json", "yaml"}
		if strings.Count(name, "-") > 1 {
			formats = formats[:1]
		}
		for _, format := range formats {
			t.Run(name+"/"+format, func(t *testing.T) {
				f := newFake(t)
				if c.given != nil {
					c.given(f)
				}
				line, goldenFile := c.line, name
				if format != "table" {
					line, goldenFile = line+" -o "+format, goldenFile+"."+format
				}
				golden(t, f, goldenFile, strings.ReplaceAll(line, file, "FILE"), f.command(t, strings.Fields(line)...))
			})
		}
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "schedule.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What get prints can be applied, and is the same schedule.
func TestWhatGetPrintsCanBeApplied(t *testing.T) {
	for _, format := range []string{"yaml", "json"} {
		f := newFake(t)
		got := f.command(t, "schedule", "get", "nightly", "-o", format)
		s := inTest()
		s.in = strings.NewReader(got.out)
		if r := s.command(t.Context(), f, "schedule", "apply", "-f", "-"); r.code != ExitDone {
			t.Fatalf("%s\n%s", got.out, r.err)
		}
		applied, ok := f.got()[0].(*requorumv1.ApplyScheduleRequest)
		want := nightly()
		want.Status = nil
		if !ok || !proto.Equal(applied.GetSchedule(), want) {
			t.Errorf("%s: applied %v, want %v", format, applied, want)
		}
	}
}

func TestADocumentThatIsWrongIsRefusedWithItsLine(t *testing.T) {
	f := newFake(t)
	const good = "name: a\ncluster: prod\ncron: 0 * * * *\n"
	for text, want := range map[string]string{
		good + "localstorage: {}\n":                     ":4: unknown key localstorage; did you mean localStorage?",
		good + "localStorage:\n  last: 1\n  dayly: 2\n": ":6: unknown key dayly; did you mean daily?",
		good + "---\n" + "name: b\ncluster: prod\n":     ":5: neither cron nor every is given",
		good + "every: 5m\n":                            ":4: every: cron and every do not go together: remove one of them",
		"name: a\ncluster: prod\ncron: 0 * * *\n":       `:3: cron: "0 * * *" cannot be used: it has 4 fields`,
		"name: a\ncluster: prod\nschedule: 0 * * *\n":   `:3: schedule: "0 * * *" cannot be used`,
		good + "schedule: 0 * * * *\n":                  ":4: schedule: it is another name for cron",
		good + "timezone: Berlin\n":                     ":4: timezone: there is no time zone",
		good + "copies: none\n":                         `:4: "none" is no number of copies; write all, one or a number`,
		good + "copies: 0\n":                            `:4: "0" is no number of copies`,
		good + "localStorage:\n  ttl: soon\n":           `:5: "soon" is not a length of time; write it as 30d`,
		good + "localStorage:\n  ttl: 0\n":              ":5: localStorage.ttl: 0s is too short",
		good + "localStorage:\n  last: -1\n":            ":5: cannot unmarshal !!int `-1` into uint32",
		good + "---\n" + good:                           "schedule a stands at",
		"cluster: prod\ncron: 0 * * * *\n":              ":1: name is missing: give the schedule one",
		"name: a/b\ncluster: prod\ncron: 0 * * * *\n":   `:1: name: schedule name "a/b"`,
		"":                            "holds no schedule",
		"- a\n":                       ":1: cannot unmarshal !!seq",
		"name: a\n\tcluster: b\n":     ":2: found a tab",
		good + "retry: {limit: 11}\n": ":4: retry.limit: 11 is more than 10",
		good + "retry: {after: 1m}\n": "",
		good + "paused: maybe\n":      ":4: cannot unmarshal !!str `maybe` into bool",
		good + "status: {records: [{fileName: x}]}\n":     "",
		good + "localStorage: {ttl: 604800, last: 5}\n":   "",
		good + "copies: 2\nstagger: 30m\nprefix: often\n": "",
	} {
		before := len(f.got())
		r := f.command(t, "schedule", "apply", "-f", write(t, text))
		if want == "" {
			if r.code != ExitDone {
				t.Errorf("%s\nis refused: %s", text, r.err)
			}
			continue
		}
		if r.code != ExitUsage || !strings.Contains(r.err, want) || len(f.got()) > before {
			t.Errorf("%s\nexit %d, %d calls, want %s\n%s", text, r.code, len(f.got())-before, want, r.err)
		}
	}
}

func TestPruneTakesTheRetentionFromItsFlags(t *testing.T) {
	f := newFake(t)
	f.op = succeeded(requorumv1.OperationKind_OPERATION_KIND_DELETE)
	f.command(t, "snapshot", "prune", "--schedule", "nightly", "--last", "1", "--ttl", "30d", "--dry-run")
	f.command(t, "snapshot", "prune", "--schedule", "nightly", "--yes")
	want := []*requorumv1.PlanPruneRequest{
		{Cluster: "prod", Schedule: "nightly", Retention: &requorumv1.Retention{Last: 1, Ttl: durationpb.New(30 * 24 * time.Hour)}},
		{Cluster: "prod", Schedule: "nightly"},
	}
	var plans []proto.Message
	var removed []string
	for _, req := range f.got() {
		switch req := req.(type) {
		case *requorumv1.PlanPruneRequest:
			plans = append(plans, req)
		case *requorumv1.DeleteSnapshotRequest:
			removed = append(removed, req.GetName())
		}
	}
	if len(plans) != 2 || !proto.Equal(plans[0], want[0]) || !proto.Equal(plans[1], want[1]) {
		t.Errorf("asked for %v", plans)
	}
	if strings.Join(removed, " ") != "nightly-0 nightly-1" {
		t.Errorf("removed %v, want the oldest first and nothing in the dry run", removed)
	}
	if r := f.command(t, "snapshot", "prune", "--last", "1"); r.code != ExitUsage || !strings.Contains(r.err, "--schedule") {
		t.Errorf("without a schedule: %d, %s", r.code, r.err)
	}
}

func TestPruneAsksFirst(t *testing.T) {
	f := newFake(t)
	if r := f.command(t, "snapshot", "prune"); r.code != ExitUsage || !strings.Contains(r.err, "--yes") {
		t.Errorf("nobody to ask: %d, %s", r.code, r.err)
	}
	r := inTest().onTerminal("n\n").command(t.Context(), f, "snapshot", "prune")
	if r.code != ExitError || !strings.Contains(r.err, "Remove 2 snapshots of prod? [y/N]") {
		t.Errorf("a no: %d, %s", r.code, r.err)
	}
	for _, req := range f.got() {
		if _, removal := req.(*requorumv1.DeleteSnapshotRequest); removal {
			t.Errorf("removed without being told to: %v", req)
		}
	}
}

// The controller's own removal may be under way, or may have come first.
func TestPruneWaitsForWhatTheControllerRemoves(t *testing.T) {
	f := newFake(t)
	f.op = succeeded(requorumv1.OperationKind_OPERATION_KIND_DELETE)
	busy, err := status.New(codes.FailedPrecondition, "operation is changing cluster prod").WithDetails(
		&errdetails.ErrorInfo{Reason: "BUSY", Domain: "requorum", Metadata: map[string]string{"operation": opID}})
	if err != nil {
		t.Fatal(err)
	}
	f.refusals = []error{busy.Err(), nil, status.Error(codes.NotFound, "cluster prod has no snapshot nightly-1")}
	if r := f.command(t, "snapshot", "prune", "--yes"); r.code != ExitDone {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	names := ""
	for _, req := range f.got() {
		if removal, ok := req.(*requorumv1.DeleteSnapshotRequest); ok {
			names += removal.GetName() + " "
		}
	}
	if names != "nightly-0 nightly-0 nightly-1 " {
		t.Errorf("asked to remove %s", names)
	}
}

func TestSaveTakesAnAgeAndANumberOfCopies(t *testing.T) {
	f := newFake(t)
	f.command(t, "snapshot", "save", "--name", "x", "--ttl", "2d", "--copies", "one")
	f.command(t, "snapshot", "save", "--name", "y")
	want := []proto.Message{
		&requorumv1.SaveSnapshotRequest{RequestId: requestID, Cluster: "prod", Name: "x", Ttl: durationpb.New(48 * time.Hour), Copies: 1},
		&requorumv1.SaveSnapshotRequest{RequestId: requestID, Cluster: "prod", Name: "y"},
	}
	for i, req := range f.got() {
		if !proto.Equal(req, want[i]) {
			t.Errorf("asked for %v, want %v", req, want[i])
		}
	}
	if r := f.command(t, "snapshot", "save", "--copies", "few"); r.code != ExitUsage || !strings.Contains(r.err, "write all, one or a number") {
		t.Errorf("%d %s", r.code, r.err)
	}
}

// The schedules that people are given to copy can be applied, and the first of each names every field.
func TestExampleSchedulesCanBeApplied(t *testing.T) {
	page, err := os.ReadFile("../../../docs/schedules.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```text\n")
	block, _, _ = strings.Cut(block, "```")
	example, err := os.ReadFile("../../../deploy/schedule.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var fields []string
	for _, at := range []reflect.Type{reflect.TypeFor[policy](), reflect.TypeFor[keeping]()} {
		for i := range at.NumField() {
			name, _, _ := strings.Cut(at.Field(i).Tag.Get("yaml"), ",")
			fields = append(fields, name)
		}
	}
	for name, text := range map[string]string{"docs/schedules.md": block, "deploy/schedule.yaml": string(example)} {
		if _, err := readPolicies("-", strings.NewReader(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, field := range fields {
			alternative := field == "every" || field == "schedule" || field == "status"
			if !alternative && !regexp.MustCompile(`(?m)^\s*`+field+`:`).MatchString(text) {
				t.Errorf("%s does not name %s", name, field)
			}
		}
	}
}
