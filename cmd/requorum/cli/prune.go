package cli

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

func (p *program) snapshotPrune() *cobra.Command {
	var (
		req    = &requorumv1.PlanPruneRequest{}
		dryRun bool
		yes    bool
	)
	command := &cobra.Command{
		Use:   "prune",
		Short: "Remove the snapshots whose retention is over",
		Long: `Remove the snapshots whose retention is over: those that their schedule keeps no
longer, and those whose own time is over. The controller does so by itself; this
shows why, with --dry-run, and does it now.

With --schedule, the flags for what is kept stand in place of what the schedule
says. The last good snapshot of a cluster is never removed. Needs the role admin.`,
		Example: "  requorum snapshot prune --dry-run\n  requorum snapshot prune --schedule nightly --last 3 --dry-run\n  requorum snapshot prune --yes",
		Args:    takes(),
	}
	flags := command.Flags()
	p.clusterFlag(command, &req.Cluster)
	flags.StringVar(&req.Schedule, "schedule", "", "look only at the snapshots of the schedule `NAME`")
	complete(command, "schedule", p.completeSchedules)
	kept := retentionFlags(command)
	flags.BoolVar(&dryRun, "dry-run", false, "show what would be removed, and why; remove nothing")
	flags.BoolVarP(&yes, "yes", "y", false, "do not ask")
	command.RunE = func(command *cobra.Command, _ []string) error {
		req.Retention = kept.given(command)
		if req.GetRetention() != nil && req.GetSchedule() == "" {
			return usagef("say which schedule's snapshots to keep so many of, with --schedule")
		}
		return p.with(command.Context(), func(ctx context.Context, c *client) (err error) {
			if req.Cluster, err = c.clusterOr(ctx, req.GetCluster()); err != nil {
				return err
			}
			plan, err := ask(ctx, c.PlanPrune, req, callLimit)
			if err != nil {
				return err
			}
			return p.prune(ctx, c, req.GetCluster(), plan, dryRun, yes)
		})
	}
	return command
}

// prune shows the verdicts and, unless it is only a show, removes what they remove.
func (p *program) prune(ctx context.Context, c *client, cluster string, plan *requorumv1.PlanPruneResponse, dryRun, yes bool) error {
	var goes []*requorumv1.PruneVerdict
	for _, v := range plan.GetVerdicts() {
		if v.GetRemove() {
			goes = append(goes, v)
		}
	}
	if err := p.writeVerdicts(plan); err != nil || dryRun || len(goes) == 0 {
		return err
	}
	if !yes {
		if err := p.confirm(ctx, fmt.Sprintf("Remove %s of %s?", snapshotCount(len(goes)), cluster)); err != nil {
			return err
		}
	}
	for i := range goes { // the oldest first
		if err := p.removeOne(ctx, c, goes[len(goes)-1-i].GetRemoval()); err != nil {
			return err
		}
	}
	return nil
}

func snapshotCount(n int) string {
	if n == 1 {
		return "one snapshot"
	}
	return fmt.Sprintf("%d snapshots", n)
}

func (p *program) writeVerdicts(plan *requorumv1.PlanPruneResponse) error {
	if p.settings.format != output.Table {
		return output.Message(p.out, p.settings.format, plan)
	}
	table, goes, size := output.NewTable("NAME", "KIND", "AGE", "SIZE", "WHERE", "VERDICT", "WHY"), 0, int64(0)
	for _, v := range plan.GetVerdicts() {
		verdict := "keep"
		if v.GetRemove() {
			verdict, goes = "remove", goes+1
			if v.GetRemote() == "" {
				size += v.GetSize()
			}
		}
		table.Row(v.GetName(), snapshotKind(v.GetKind()), output.Ago(v.GetCreated(), p.now()), output.Bytes(v.GetSize()), cmp.Or(v.GetRemote(), "nodes"), verdict, v.GetReason())
	}
	if _, err := table.WriteTo(p.out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.out, "%d of %d go, %s on each node that holds them\n", goes, len(plan.GetVerdicts()), output.Bytes(size))
	return err
}

// removeOne removes a snapshot by an operation. It waits for one that is changing the cluster, as the controller's own
// removal may be; what is gone already is no error.
func (p *program) removeOne(ctx context.Context, c *client, req *requorumv1.DeleteSnapshotRequest) error {
	req.RequestId = p.newID()
	for {
		resp, err := change(ctx, c, c.DeleteSnapshot, req)
		if status.Code(err) == codes.NotFound {
			return nil
		}
		if running := busyWith(err); running != "" {
			if _, err := p.follow(ctx, c, running, p.view()); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if p.settings.format != output.Table { // the plan was the answer
			op, err := p.follow(ctx, c, resp.GetOperation().GetId(), p.view())
			if err != nil {
				return err
			}
			return outcome(op)
		}
		return p.carryOut(ctx, c, resp.GetOperation(), &job{}, func(op *requorumv1.Operation) proto.Message {
			return &requorumv1.DeleteSnapshotResponse{Operation: op}
		})
	}
}

// busyWith returns the operation that refused a call by changing the cluster, empty if it was none.
func busyWith(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetReason() == "BUSY" {
			return info.GetMetadata()["operation"]
		}
	}
	return ""
}
