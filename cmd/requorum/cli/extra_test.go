package cli

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

func TestCommandsOfOthersKeepTheirFlagsAndTheirExitCodes(t *testing.T) {
	serve := func(err error) *cobra.Command {
		c := &cobra.Command{Use: "agent", Short: "Run the agent", RunE: func(*cobra.Command, []string) error { return err }}
		c.Flags().String("config", "/etc/requorum/agent.yaml", "configuration of the agent")
		return c
	}
	for name, c := range map[string]struct {
		args []string
		err  error
		code int
	}{
		"done":         {[]string{"agent", "--config", "x"}, nil, ExitDone},
		"failed":       {[]string{"agent"}, errors.New("no disk"), ExitError},
		"called badly": {[]string{"agent"}, &UsageError{errors.New("--data-dir is missing")}, ExitUsage},
		"unknown flag": {[]string{"agent", "--nosuch"}, nil, ExitUsage},
		"empty flag":   {[]string{"agent", "--config="}, nil, ExitDone}, // which it judges itself
	} {
		s := inTest()
		if code := s.run(t.Context(), c.args, serve(c.err)); code != c.code {
			t.Errorf("%s: exit %d\n%s", name, code, s.err.String())
		}
	}
	s := inTest()
	if code := s.run(t.Context(), []string{"agent", "--help"}, serve(nil)); code != ExitDone || strings.Contains(s.out.String(), "Global Flags") || !strings.Contains(s.out.String(), "configuration of the agent") {
		t.Errorf("exit %d\n%s", code, s.out.String())
	}
	if s = inTest(); s.run(t.Context(), []string{"--help"}, serve(nil)) != ExitDone || !strings.Contains(s.out.String(), "Running requorum:\n  agent") {
		t.Error(s.out.String())
	}
}

func TestVersionIsPrinted(t *testing.T) {
	for line, want := range map[string]string{"version": "requorum v1.2.3 (go", "--version": "requorum v1.2.3\n", "version -o json": `"version": "v1.2.3"`, "version -o yaml": "version: v1.2.3"} {
		if r := inTest().command(t.Context(), nil, strings.Fields(line)...); r.code != ExitDone || !strings.Contains(r.out, want) {
			t.Errorf("%s: exit %d, %s", line, r.code, r.out)
		}
	}
}

func TestACheckThatFailsShowsWhatWasFoundOnEveryNode(t *testing.T) {
	f := newFake(t)
	f.op = failed(requorumv1.OperationState_OPERATION_STATE_REFUSED, "")
	f.op.Kind = requorumv1.OperationKind_OPERATION_KIND_CHECK
	f.op.Failure = &requorumv1.Failure{Step: "agree", Message: "etcd-3: missing", Advice: "requorum snapshot distribute pre-1.31"}
	golden(t, f, "snapshot-check-failed", "snapshot check pre-1.31", f.command(t, "snapshot", "check", "pre-1.31"))
}

func TestMembersAreDescribed(t *testing.T) {
	for want, m := range map[string]*requorumv1.Member{
		"unknown": nil, "down": {Id: "a"}, "learner": {Serving: true, Learner: true, Id: "a", Leader: "b"},
		"no leader": {Serving: true, Id: "a"}, "leader": {Serving: true, Id: "a", Leader: "a"}, "follower": {Serving: true, Id: "a", Leader: "b"},
	} {
		node := &requorumv1.Node{Connected: true, Member: m}
		if got := memberRole(node); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		node.Connected = false
		if got := memberRole(node); got != "unknown" {
			t.Errorf("not connected: got %s", got)
		}
	}
	node := &requorumv1.Node{Fenced: true, Problem: "missed a restore", Member: &requorumv1.Member{Id: "a", Error: "stopped", Alarms: []*requorumv1.Alarm{{MemberId: "a", Type: "NOSPACE"}, {MemberId: "b", Type: "CORRUPT"}}}}
	if got := notes(node); got != "fenced; missed a restore; alarm NOSPACE; stopped" {
		t.Error(got)
	}
}

func TestPlanNamesTheFullestNodeAndEveryDifferenceBetweenNodes(t *testing.T) {
	plan := goodPlan()
	plan.Checks = nil
	plan.Nodes[2].Stops = []string{"etcd"}
	plan.Nodes[0].QuarantinePaths = []string{"/data/old", "/wal/old"}
	var b strings.Builder
	if err := inTest().writePlan(&b, plan); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Stops: kube-apiserver, kube-controller-manager, kube-scheduler, etcd on etcd-1, etcd-2\n", "Stops: etcd on etcd-3, for about 4 s\n",
		"Old data stays at /data/old and /wal/old on etcd-1 for 72 h\n", "Old data stays at /var/lib/etcd.quarantine-01J on etcd-2, etcd-3 for 72 h\n",
		"Space: 4.6 GiB needed, 20 GiB free on the fullest (etcd-2)\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("lacks %q:\n%s", want, b.String())
		}
	}
}

func TestTextsBeginWithTheNodeTheyAreAbout(t *testing.T) {
	for text, want := range map[string]string{
		"its copy is missing (there is no file /vault/etcd-1/x.db)": "etcd-1: its copy is missing (there is no file /vault/etcd-1/x.db)",
		"etcd-1: its copy is missing":                               "etcd-1: its copy is missing",
		"etcd-1 does not answer":                                    "etcd-1 does not answer",
		"etcd-1's disk is full":                                     "etcd-1's disk is full",
		"etcd-10 is another":                                        "etcd-1: etcd-10 is another",
		"etcd-1.db is missing":                                      "etcd-1: etcd-1.db is missing",
		"etcd-1":                                                    "etcd-1",
	} {
		if got := onNode("etcd-1", text); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		check := &requorumv1.Check{Node: "etcd-1", State: requorumv1.CheckState_CHECK_STATE_WARNING, Message: text}
		if got := checkText(check, false); got != "! "+want {
			t.Errorf("got %s, want ! %s", got, want)
		}
	}
	if got := onNode("", "all is well"); got != "all is well" {
		t.Error(got)
	}
}

func TestASafetySnapshotOnOneNodeNamesTheNode(t *testing.T) {
	good := &requorumv1.Copy{Node: "etcd-2", State: requorumv1.CopyState_COPY_STATE_GOOD}
	missing := &requorumv1.Copy{Node: "etcd-3", State: requorumv1.CopyState_COPY_STATE_MISSING}
	safety, onDemand := requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY, requorumv1.SnapshotKind_SNAPSHOT_KIND_ON_DEMAND
	for want, s := range map[string]*requorumv1.Snapshot{
		"only on etcd-2": {Kind: safety, Copies: []*requorumv1.Copy{good}},
		"1 of 2 good":    {Kind: safety, Copies: []*requorumv1.Copy{good, missing}},
		"0 of 1 good":    {Kind: safety, Copies: []*requorumv1.Copy{missing}},
		"1 of 1 good":    {Kind: onDemand, Copies: []*requorumv1.Copy{good}},
	} {
		if got := copies(s); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestNumbersAreGroupedOnATerminalOnly(t *testing.T) {
	s := inTest()
	if got := s.number(4812004); got != "4812004" {
		t.Errorf("%q", got)
	}
	if got := s.onTerminal("").number(4812004); got != "4\u202f812\u202f004" {
		t.Errorf("%q", got)
	}
}

func TestLinesAreFoldedBetweenWords(t *testing.T) {
	if got := folded("Stops: kube-apiserver, etcd on etcd-1, etcd-2", 24); got != "Stops: kube-apiserver,\n    etcd on etcd-1,\n    etcd-2\n" {
		t.Errorf("%q", got)
	}
	if got := folded("a b", 0); got != "a b\n" {
		t.Errorf("%q", got)
	}
}
