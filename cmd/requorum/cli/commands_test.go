package cli

import (
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Every command's answer, in every format, is in testdata; run with -update to write it anew.
func TestEveryCommandAnswersAsWritten(t *testing.T) {
	kind := func(k requorumv1.OperationKind) func(*fake) {
		return func(f *fake) { f.op = succeeded(k) }
	}
	restoring := func(f *fake) { f.op = restored() }
	for name, c := range map[string]struct {
		line  string
		given func(*fake)
	}{
		"cluster-ls":            {line: "cluster ls"},
		"cluster-status":        {line: "cluster status prod"},
		"cluster-remove-node":   {line: "cluster remove-node prod etcd-3"},
		"snapshot-save":         {line: "snapshot save --name pre-1.31 --label ticket=4711"},
		"snapshot-save-detach":  {line: "snapshot save --name pre-1.31 --detach"},
		"snapshot-ls":           {line: "snapshot ls"},
		"snapshot-show":         {line: "snapshot show pre-1.31"},
		"snapshot-show-failed":  {line: "snapshot show broken"},
		"snapshot-check":        {line: "snapshot check pre-1.31", given: kind(requorumv1.OperationKind_OPERATION_KIND_CHECK)},
		"snapshot-verify":       {line: "snapshot verify pre-1.31 --node etcd-2", given: kind(requorumv1.OperationKind_OPERATION_KIND_VERIFY)},
		"restore-drill":         {line: "restore --snapshot pre-1.31 --drill", given: func(f *fake) { f.op = rehearsed() }},
		"snapshot-distribute":   {line: "snapshot distribute pre-1.31", given: kind(requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE)},
		"snapshot-rm":           {line: "snapshot rm pre-1.31 --yes", given: kind(requorumv1.OperationKind_OPERATION_KIND_DELETE)},
		"snapshot-import":       {line: "snapshot import --node etcd-1 --path /backup/x.db --name pre-1.31", given: kind(requorumv1.OperationKind_OPERATION_KIND_IMPORT)},
		"snapshot-upload":       {line: "snapshot upload pre-1.31 --remote off-site", given: kind(requorumv1.OperationKind_OPERATION_KIND_UPLOAD)},
		"remote-ls":             {line: "remote ls"},
		"remote-snapshots":      {line: "remote snapshots off-site"},
		"restore-plan":          {line: "restore --snapshot pre-1.31 --plan"},
		"restore":               {line: "restore --snapshot pre-1.31 --yes", given: restoring},
		"restore-refused":       {line: "restore --snapshot pre-1.31 --yes", given: func(f *fake) { f.plan = refusedPlan() }},
		"operation-ls":          {line: "operation ls"},
		"operation-show":        {line: "operation show " + opID, given: restoring},
		"operation-show-failed": {line: "operation show " + opID, given: func(f *fake) { f.op = failed(requorumv1.OperationState_OPERATION_STATE_REVERTED, "") }},
		"operation-watch":       {line: "operation watch " + opID, given: restoring},
		"operation-cancel":      {line: "operation cancel " + opID},
		"token-create":          {line: "token create --cluster prod"},
		"access-ls":             {line: "access ls"},
		"access-revoke":         {line: "access revoke 2b"},
		"audit-ls":              {line: "audit ls --since 24h --by alice"},
	} {
		for _, format := range []string{"table", "json", "yaml"} {
			t.Run(name+"/"+format, func(t *testing.T) {
				f := newFake(t)
				if c.given != nil {
					c.given(f)
				}
				line, file := c.line, name
				if format != "table" {
					line, file = line+" -o "+format, file+"."+format
				}
				golden(t, f, file, line, f.command(t, strings.Fields(line)...))
			})
		}
	}
}

func TestEveryOutcomeHasItsExitCodeAndSaysWhatToDo(t *testing.T) {
	outcome := func(state requorumv1.OperationState, attention string) func(*fake) {
		return func(f *fake) { f.op = failed(state, attention) }
	}
	refuse := func(code codes.Code, message string) func(*fake) {
		return func(f *fake) { f.refuse = status.Error(code, message) }
	}
	for name, c := range map[string]struct {
		line  string
		given func(*fake)
		code  int
	}{
		"outcome-refused":             {"restore --snapshot pre-1.31 --yes", outcome(requorumv1.OperationState_OPERATION_STATE_REFUSED, ""), 3},
		"outcome-reverted":            {"restore --snapshot pre-1.31 --yes", outcome(requorumv1.OperationState_OPERATION_STATE_REVERTED, ""), 4},
		"outcome-abandoned":           {"restore --snapshot pre-1.31 --yes", func(f *fake) { f.op = abandoned() }, 5},
		"outcome-abandoned-watch":     {"operation watch " + opID, func(f *fake) { f.op = abandoned() }, 5},
		"outcome-abandoned-show":      {"operation show " + opID, func(f *fake) { f.op = abandoned() }, 0},
		"outcome-abandoned-ls":        {"operation ls", func(f *fake) { f.op = abandoned() }, 0},
		"outcome-log":                 {"snapshot save --name pre-1.31", withLogTail(requorumv1.OperationState_OPERATION_STATE_REVERTED, ""), 4},
		"outcome-log-show":            {"operation show " + opID, withLogTail(requorumv1.OperationState_OPERATION_STATE_REVERTED, ""), 0},
		"outcome-log-attention":       {"operation watch " + opID, withLogTail(requorumv1.OperationState_OPERATION_STATE_RUNNING, "start etcd on etcd-2; its last lines:\n"+logLines), 5},
		"outcome-save-reverted":       {"snapshot save --name pre-1.31", saveReverted, 4},
		"outcome-distribute-reverted": {"snapshot distribute pre-1.31", distributeReverted, 4},
		"outcome-attention":           {"restore --snapshot pre-1.31 --yes", outcome(requorumv1.OperationState_OPERATION_STATE_RUNNING, "start etcd on etcd-2 by hand"), 5},
		"outcome-attention-reverting": {"operation watch " + opID + " -o json", outcome(requorumv1.OperationState_OPERATION_STATE_REVERTING, "bring etcd-2 back"), 5},
		"outcome-reverted-json":       {"operation watch " + opID + " -o json", outcome(requorumv1.OperationState_OPERATION_STATE_REVERTED, ""), 4},
		"plan-refused":                {"restore --snapshot pre-1.31 --plan -o json", func(f *fake) { f.plan = refusedPlan() }, 3},
		"not-found":                   {"snapshot show nosuch", nil, 3},
		"operation-not-found":         {"operation watch nosuch", nil, 3},
		"name-taken":                  {"snapshot save --name pre-1.31", refuse(codes.AlreadyExists, "snapshot pre-1.31 of prod exists"), 3},
		"not-allowed":                 {"snapshot rm pre-1.31 --yes", refuse(codes.PermissionDenied, "alice has the role operator; admin is needed"), 3},
		"internal":                    {"snapshot save", refuse(codes.Internal, "write the journal: disk full"), 1},
		"details":                     {"snapshot save", func(f *fake) { f.refuse = withDetails(t) }, 3},
		"several-clusters":            {"snapshot save", func(f *fake) { f.clusters = append(f.clusters, &requorumv1.Cluster{Name: "test"}) }, 2},
		"no-cluster":                  {"snapshot save", func(f *fake) { f.clusters = nil }, 3},
		"nobody-to-ask":               {"restore --snapshot pre-1.31", nil, 2},
		"nobody-to-ask-rm":            {"snapshot rm pre-1.31", nil, 2},
		"terminal-escapes":            {"snapshot save", refuse(codes.Internal, "a\x1b[2Jb"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if c.given != nil {
				c.given(f)
			}
			r := f.command(t, strings.Fields(c.line)...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			golden(t, f, name, c.line, r)
		})
	}
}

func abandoned() *requorumv1.Operation {
	op := failed(requorumv1.OperationState_OPERATION_STATE_ABANDONED, "")
	op.Phase = requorumv1.Phase_PHASE_FAILED
	op.Failure = &requorumv1.Failure{Message: "the controller came back from an older copy of its data", Advice: "look at the nodes (requorum cluster status)"}
	op.Warnings = []string{"etcd-2 was slow"}
	return op
}

func saveReverted(f *fake) {
	f.op = failed(requorumv1.OperationState_OPERATION_STATE_REVERTED, "")
	f.op.Kind = requorumv1.OperationKind_OPERATION_KIND_SAVE
	f.op.Warnings = []string{"foretold, and not so any more"}
}

const logLines = `{"msg":"1"}` + "\n" + `{"msg":"2"}` + "\n" + `{"msg":"3"}` + "\n" + `{"msg":"4"}` + "\n" + `{"msg":"5"}` + "\n" + `{"msg":"6"}`

// withLogTail is an operation that failed on a node whose etcd left a log.
func withLogTail(state requorumv1.OperationState, attention string) func(*fake) {
	return func(f *fake) {
		f.op = failed(state, attention)
		f.op.Failure.Message = "etcd-2: etcd has ended; its last lines:\n" + logLines
		f.op.Steps = append(f.op.Steps, &requorumv1.Step{
			Name: "start", State: requorumv1.StepState_STEP_STATE_FAILED, Attempt: 1,
			Tasks: []*requorumv1.TaskProgress{{Step: "start", Node: "etcd-2", State: requorumv1.StepState_STEP_STATE_FAILED, Detail: f.op.Failure.Message}},
		})
		f.op.Warnings = []string{"etcd-2 was slow:\n" + logLines}
	}
}

func distributeReverted(f *fake) {
	saveReverted(f)
	f.op.Kind = requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE
}

func TestCancellingAnAbandonedOperationDoesNotClaimThatAllIsWell(t *testing.T) {
	var b strings.Builder
	if err := writeEnded(&b, abandoned()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(b.String(), "it has ended already (abandoned), and a person has to look at what it left\n") {
		t.Error(b.String())
	}
}

func withDetails(t *testing.T) error {
	t.Helper()
	st, err := status.New(codes.FailedPrecondition, "the member has the alarm CORRUPT").WithDetails(
		&errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Type: "alarm", Subject: "etcd-2", Description: "its data differs from the leader's"}}},
		&errdetails.ErrorInfo{Reason: "ALARM", Metadata: map[string]string{"node": "etcd-2", "advice": "replace the member, then run it again"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

func TestCallingItWronglyEndsWithTwoAndAHint(t *testing.T) {
	for line, want := range map[string]string{
		"":                                     "requorum: say which command",
		"snapshot":                             "requorum snapshot: say which command",
		"snap":                                 `requorum has no command "snap"; did you mean snapshot?`,
		"snapshot sav":                         `requorum snapshot has no command "sav"; did you mean save?`,
		"snapshot save --nam x":                "unknown flag: --nam",
		"snapshot show":                        "NAME is missing",
		"snapshot show a b":                    `unexpected argument "b"`,
		"cluster status a b":                   `unexpected argument "b"`,
		"cluster remove-node prod":             "NODE is missing",
		"restore":                              "--snapshot is missing",
		"restore --snapshot a --from b:c":      "not both",
		"snapshot upload a":                    "--remote is missing",
		"snapshot import --from a:b --path /c": "not both",
		"restore --snapshot a --plan --detach": "--plan and --detach do not go together",
		"restore --snapshot a --bump-revision 1 --no-bump": "--bump-revision and --no-bump do not go together",
		"restore --snapshot a --quarantine 72":             "write it with its unit",
		"snapshot import --node a":                         "--path is missing",
		"version -o xml":                                   "use table, json or yaml",
		"token create":                                     "--cluster is missing",
		"access create --name a --role b --out c":          `role "b" is unknown; use viewer, operator or admin`,
		"access create --name .a --role viewer --out c":    "begins with a dot",
		"cluster ls --log-level loud":                      "is unknown; use trace",
		"completion":                                       "requorum completion: say which command",
		"completion bash x":                                "unknown command",
		"help snap":                                        `requorum has no command "snap"; did you mean snapshot?`,
		"help snapshot sav":                                `requorum snapshot has no command "sav"; did you mean save?`,
		"snapshot save --remote=":                          "--remote is empty; give it a value, or leave it out",
		"restore --snapshot a --nodes=":                    "--nodes is empty; give it a value, or leave it out",
		"cluster status a --cluster b":                     "NAME and --cluster are both given; one is enough",
	} {
		t.Run(line, func(t *testing.T) {
			r := inTest().command(t.Context(), nil, strings.Fields(line)...)
			if r.code != ExitUsage || !strings.Contains(r.err, want) || !strings.Contains(r.err, "\n  see: requorum") || r.out != "" {
				t.Errorf("exit %d, stdout %q, stderr\n%s", r.code, r.out, r.err)
			}
		})
	}
}

func TestHelpIsThereForEveryCommand(t *testing.T) {
	var check func(path []string)
	root := inTest().root()
	check = func(path []string) {
		command, _, err := root.Find(path)
		if err != nil {
			t.Fatal(path, err)
		}
		for _, child := range command.Commands() {
			if child.Name() == "help" || child.IsAdditionalHelpTopicCommand() {
				continue
			}
			if child.Short == "" || child.Long == "" || child.Example == "" {
				t.Errorf("%s lacks Short, Long or Example", child.CommandPath())
			}
			for _, nonsense := range []string{"(default [])", "(default 0s)", "the same by"} {
				if strings.Contains(child.Flags().FlagUsages(), nonsense) {
					t.Errorf("%s: the help of a flag says %q", child.CommandPath(), nonsense)
				}
			}
			check(append(path[:len(path):len(path)], child.Name()))
		}
	}
	check(nil)
	for _, line := range []string{"--help", "help exit-codes", "restore --help"} {
		r := inTest().command(t.Context(), nil, strings.Fields(line)...)
		golden(t, nil, "help-"+strings.ReplaceAll(strings.Trim(line, "-"), " ", "-"), line, r)
	}
}

func TestHabitualNamesWork(t *testing.T) {
	f := newFake(t)
	for _, line := range []string{
		"etcd-snapshot ls", "snapshot list", "etcd-snapshot save --name x", "etcd-snapshot delete pre-1.31 --yes", "cluster list",
		"cluster status --cluster prod", "help snapshot save", "help",
	} {
		if r := f.command(t, strings.Fields(line)...); r.code != ExitDone {
			t.Errorf("%s: exit %d\n%s", line, r.code, r.err)
		}
	}
}
