package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/config"
)

const restoreLong = `Restore every member of a cluster from one snapshot.

First every check runs and the plan is shown; nothing is changed. Then, once
you confirm, the restored data is prepared beside the live data while etcd
still serves. Only then etcd stops, the data is swapped by rename, and etcd
starts and is verified. Should anything fail before clients may write again,
the cluster is put back as it was.

With --plan it ends after the plan: with 0 if the restore would run, with 3 if
it would be refused. With --drill the restore is done on all nodes up to and
including the preparation of the data, which is then removed: nothing stops,
nothing is swapped. It says how long each part took.

With --files=list the plan lists the files that nodes added to the snapshot,
beside what lies there now. With --files=restore they are written back, too,
while etcd is stopped; what they replace stays beside them.`

type restoreFlags struct {
	*job
	spec       *requorumv1.RestoreSpec
	quarantine config.Duration
	plan, yes  bool
	identity   string // path of a key file
	drill      bool
	files      filesMode
}

func (p *program) restoreCommand() *cobra.Command {
	f := &restoreFlags{spec: &requorumv1.RestoreSpec{}}
	command := &cobra.Command{
		Use:     "restore {--snapshot NAME | --from REMOTE:NAME}",
		Short:   "Restore a whole cluster from a snapshot",
		Long:    restoreLong,
		Example: "  requorum restore --cluster prod --snapshot pre-1.31 --plan\n  requorum restore --cluster prod --snapshot latest --drill\n  requorum restore --cluster prod --snapshot latest --yes\n  requorum restore --cluster prod --from off-site:latest --identity key.txt",
		Args:    takes(),
	}
	f.job = p.jobFlags(command)
	flags := command.Flags()
	flags.StringVar(&f.spec.Snapshot, "snapshot", "", "`NAME` of the snapshot, or latest")
	fromFlag(flags, &f.spec.From)
	identityFlag(flags, &f.identity)
	flags.Var(&f.files, "files", "what becomes of the files that nodes added to the snapshot: none, list them in the plan, or restore them")
	complete(command, "files", cobra.FixedCompletions([]string{"none", "list", "restore"}, cobra.ShellCompDirectiveNoFileComp))
	flags.BoolVar(&f.plan, "plan", false, "show what would be done, and end")
	flags.BoolVar(&f.drill, "drill", false, "rehearse it: prepare the data on all nodes while etcd serves, and remove it again")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	flags.Uint64Var(&f.spec.BumpRevision, "bump-revision", 0, "add `N` to the snapshot's revision (default one billion, or more if clients may have seen higher ones)")
	flags.BoolVar(&f.spec.NoBump, "no-bump", false, "keep the snapshot's revision; watchers may miss that the data changed")
	flags.BoolVar(&f.spec.SkipHashCheck, "skip-hash-check", false, "accept a file whose trailing SHA-256 is missing or does not fit")
	flags.StringSliceVar(&f.spec.Nodes, "nodes", nil, "`NODES`, joined by commas, whose members form the restored cluster; those left out are fenced (default all)")
	flags.BoolVar(&f.spec.LeftOutDestroyed, "left-out-destroyed", false, "state that the nodes left out are destroyed for good")
	timeFlag(flags, &f.quarantine, "quarantine", "how long the old data is kept (default 72h)")
	flags.BoolVar(&f.spec.AllowVersionMismatch, "allow-version-mismatch", false, "restore although etcd is of another minor version than the snapshot")
	complete(command, "snapshot", p.completeSnapshotsAndLatest)
	complete(command, "nodes", p.completeNodeList)
	oneOf(command, "snapshot", "from")
	command.RunE = func(c *cobra.Command, _ []string) error {
		for _, pair := range [][2]string{{"bump-revision", "no-bump"}, {"plan", "detach"}, {"plan", "drill"}} {
			if c.Flags().Changed(pair[0]) && c.Flags().Changed(pair[1]) {
				return usagef("--%s and --%s do not go together", pair[0], pair[1])
			}
		}
		f.spec.Files = requorumv1.FilesMode(f.files)
		if c.Flags().Changed("quarantine") {
			f.spec.Quarantine = durationpb.New(f.quarantine.Std())
		}
		return p.with(c.Context(), func(ctx context.Context, c *client) error { return p.restore(ctx, c, f) })
	}
	return command
}

// filesMode says what becomes of the files that nodes added to a snapshot.
type filesMode requorumv1.FilesMode

var filesModes = map[string]requorumv1.FilesMode{
	"none": requorumv1.FilesMode_FILES_MODE_NONE, "list": requorumv1.FilesMode_FILES_MODE_LIST, "restore": requorumv1.FilesMode_FILES_MODE_RESTORE,
}

// Set makes *filesMode usable as a flag.
func (m *filesMode) Set(s string) error {
	mode, known := filesModes[s]
	if !known {
		return fmt.Errorf("%q is not none, list or restore", s)
	}
	*m = filesMode(mode)
	return nil
}

// String writes it as it is read.
func (m *filesMode) String() string {
	if *m == 0 {
		return "none"
	}
	return word(requorumv1.FilesMode(*m).String(), "FILES_MODE_")
}

// Type names the kind of value in a flag's help.
func (m *filesMode) Type() string { return "none|list|restore" }

// planRequest asks for the plan.
func (f *restoreFlags) planRequest(identity string) *requorumv1.PlanRestoreRequest {
	return &requorumv1.PlanRestoreRequest{Spec: f.spec, CopiesAsKnown: (f.yes || f.drill) && !f.plan, Identity: identity}
}

// restore shows the plan, asks, starts the operation and follows it.
func (p *program) restore(ctx context.Context, c *client, f *restoreFlags) error {
	identity, err := readIdentity(f.identity)
	if err != nil {
		return err
	}
	if f.spec.Cluster, err = c.clusterOr(ctx, f.cluster); err != nil {
		return err
	}
	if !f.plan && !f.yes && !f.drill && !p.asks() {
		return usagef("nobody can be asked to confirm the restore, as stdin is not a terminal; look at it with --plan, go ahead without being asked with --yes")
	}
	checked := p.checking()
	planned, err := ask(ctx, c.PlanRestore, f.planRequest(identity), planLimit)
	checked()
	if err != nil {
		return err
	}
	if err := p.showPlan(planned, f); err != nil || f.plan {
		return err
	}
	// What was confirmed is what is restored, even if a newer snapshot became the latest meanwhile.
	name := planned.GetPlan().GetSnapshot().GetName()
	switch {
	case f.spec.GetFrom() != "":
		f.spec.From = planned.GetPlan().GetSpec().GetFrom()
	case name != "":
		f.spec.Snapshot = name
	}
	if f.drill {
		return p.rehearse(ctx, c, f, identity)
	}
	if !f.yes {
		if err := p.confirm(ctx, fmt.Sprintf("Restore %s from %s?", f.spec.GetCluster(), name)); err != nil {
			return err
		}
	}
	started, err := change(ctx, c, c.StartRestore, &requorumv1.StartRestoreRequest{RequestId: p.request(f.requestID), Spec: f.spec, Identity: identity})
	if err != nil {
		return err
	}
	return p.carryOut(ctx, c, started.GetOperation(), f.job, func(op *requorumv1.Operation) proto.Message {
		return &requorumv1.StartRestoreResponse{Operation: op}
	})
}

// rehearse stops nothing, so that nobody has to be asked.
func (p *program) rehearse(ctx context.Context, c *client, f *restoreFlags, identity string) error {
	started, err := change(ctx, c, c.RehearseRestore, &requorumv1.RehearseRestoreRequest{RequestId: p.request(f.requestID), Spec: f.spec, Identity: identity})
	if err != nil {
		return err
	}
	return p.carryOut(ctx, c, started.GetOperation(), f.job, func(op *requorumv1.Operation) proto.Message {
		return &requorumv1.RehearseRestoreResponse{Operation: op}
	})
}

// checking tells a person before the terminal that the nodes are being asked; what it returns erases that.
func (p *program) checking() (done func()) {
	term, ok := p.notices()
	if !ok {
		return func() {}
	}
	dots := "…"
	if term.ASCII {
		dots = "..."
	}
	// A notice that cannot be written is no loss.
	_, _ = fmt.Fprint(p.err, "checking "+dots)
	return func() { _, _ = fmt.Fprint(p.err, "\r\x1b[K") }
}

// showPlan prints the plan, and refuses if the plan does. For a program the plan stands on stdout only
// where it is all the answer there will be.
func (p *program) showPlan(planned *requorumv1.PlanRestoreResponse, f *restoreFlags) error {
	plan := planned.GetPlan()
	var err error
	switch {
	case p.settings.format == output.Table:
		err = p.writePlan(p.out, plan)
	case f.plan || plan.GetRefused():
		err = output.Message(p.out, p.settings.format, planned)
	default:
		err = p.writePlan(p.err, plan)
	}
	if err != nil || !plan.GetRefused() {
		return err
	}
	return refusal(plan)
}

func refusal(plan *requorumv1.RestorePlan) error {
	cluster := plan.GetSpec().GetCluster()
	refused := &RefusedError{Message: "restore " + cluster + ": refused by the plan"}
	for _, check := range plan.GetChecks() {
		if check.GetState() != requorumv1.CheckState_CHECK_STATE_FAILED {
			continue
		}
		where := check.GetName()
		if check.GetNode() != "" {
			where += " on " + check.GetNode()
		}
		if len(refused.Hints) == 0 {
			refused.Message = fmt.Sprintf("restore %s: %s: %s", cluster, where, check.GetMessage())
			refused.Hints = []string{"nothing was stopped or changed"}
		} else {
			refused.Hints = append(refused.Hints, where+": "+check.GetMessage())
		}
		if check.GetAdvice() != "" {
			refused.Hints = append(refused.Hints, check.GetAdvice())
		}
	}
	return refused
}

// quarantineOf is how long the plan keeps old data.
func quarantineOf(spec *requorumv1.RestoreSpec) string {
	if spec.GetQuarantine() == nil {
		return ""
	}
	return " for " + output.Hours(spec.GetQuarantine().AsDuration().Round(time.Second))
}
