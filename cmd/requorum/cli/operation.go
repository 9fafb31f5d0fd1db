package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

func (p *program) operationCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use:   "operation",
		Short: "Show, follow and cancel operations",
		Long: `Show, follow and cancel operations: the journaled jobs that save, check and
restore. An operation goes on whether or not anybody watches it.`,
		Example: "  requorum operation ls\n  requorum operation watch 01JB2M3N4P5Q6R7S8T9V0W1X2Y",
	}, p.operationLs(), p.operationShow(), p.operationWatch(), p.operationCancel())
}

func (p *program) operationLs() *cobra.Command {
	req := &requorumv1.ListOperationsRequest{}
	command := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List operations, newest first",
		Long:    "List the operations of one cluster, or of all, newest first.",
		Example: "  requorum operation ls --cluster prod --limit 5",
		Args:    takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.ListOperations, req, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				table := output.NewTable("ID", "KIND", "CLUSTER", "SNAPSHOT", "STATE", "PHASE", "BEGUN", "BY")
				for _, op := range resp.GetOperations() {
					table.Row(op.GetId(), live.Kind(op.GetKind()), op.GetCluster(), op.GetSnapshot(), stateOf(op), live.Phase(op.GetPhase()),
						output.Ago(op.GetCreated(), p.now()), op.GetRequestedBy())
				}
				_, err = table.WriteTo(p.out)
				return err
			})
		},
	}
	p.clusterFlag(command, &req.Cluster)
	command.Flags().Lookup("cluster").Usage = "list only the operations of the cluster `NAME`"
	command.Flags().Int32Var(&req.Limit, "limit", 0, "list at most `N` (default 100)")
	return command
}

func stateOf(op *requorumv1.Operation) string {
	if op.GetAttention() != "" && !live.Ended(op) {
		return live.State(op.GetState()) + ", needs a person"
	}
	return live.State(op.GetState())
}

func (p *program) operationShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show ID",
		Short:             "Show an operation and its steps",
		Long:              "Show an operation and its steps. It ends with 0 however the operation stands.",
		Example:           "  requorum operation show 01JB2M3N4P5Q6R7S8T9V0W1X2Y",
		Args:              takes("ID"),
		ValidArgsFunction: firstArgument(p.completeOperations),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := ask(ctx, c.GetOperation, &requorumv1.GetOperationRequest{Id: args[0]}, callLimit)
				if err != nil {
					return err
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				return writeOperation(p.out, resp.GetOperation())
			})
		},
	}
}

func writeOperation(w io.Writer, op *requorumv1.Operation) error {
	fields := output.NewFields()
	fields.Add("Operation", "%s", op.GetId())
	fields.Add("What", "%s", live.Title(op))
	fields.Add("State", "%s", stateOf(op))
	fields.Add("Phase", "%s", live.Phase(op.GetPhase()))
	fields.Add("Attention", "%s", op.GetAttention())
	if op.GetFailure() != nil {
		fields.Add("Failure", "%s", (&OperationError{&requorumv1.Operation{
			Kind: op.GetKind(), Cluster: op.GetCluster(), Snapshot: op.GetSnapshot(), Failure: op.GetFailure(),
		}}).Error())
		_, logged := withLog(op.GetFailure().GetMessage())
		for _, line := range logged {
			fields.Add("Log", "%s", line)
		}
		fields.Add("Advice", "%s", op.GetFailure().GetAdvice())
	}
	fields.Add("Asked for by", "%s", op.GetRequestedBy())
	fields.Add("Request ID", "%s", op.GetRequestId())
	fields.Add("Begun", "%s", output.Time(op.GetCreated()))
	fields.Add("Ended", "%s", output.Time(op.GetEnded()))
	fields.Add("Took", "%s", tookOf(op))
	if op.GetUnavailability() != nil {
		fields.Add("Did not serve", "%s", output.Took(op.GetUnavailability().AsDuration()))
	}
	fields.Add("Safety snapshot", "%s", op.GetSafetySnapshot())
	for _, line := range oldData(op.GetQuarantines()) {
		fields.Add("Old data", "of %s", line)
	}
	for _, warning := range op.GetWarnings() {
		fields.Add("Warning", "%s", output.Brief(warning))
	}
	if _, err := fields.WriteTo(w); err != nil || len(op.GetSteps()) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	_, err := stepTable(op).WriteTo(w)
	return err
}

// blank is a cell that shows as nothing, not as a dash.
func blank(cell string) string {
	if cell == "" {
		return " "
	}
	return cell
}

func stepTable(op *requorumv1.Operation) *output.Rows {
	table := output.NewTable("STEP", "NODE", "STATE", "TOOK", "DETAIL")
	for _, step := range op.GetSteps() {
		took, detail := "", ""
		if step.GetStarted() != nil && step.GetEnded() != nil {
			took = output.Took(step.GetEnded().AsTime().Sub(step.GetStarted().AsTime()))
		}
		if step.GetAttempt() > 1 {
			detail = fmt.Sprintf("attempt %d", step.GetAttempt())
		}
		if step.GetPivot() {
			detail = strings.TrimSpace(detail + " no way back after this")
		}
		table.Row(step.GetName(), " ", live.StepState(step.GetState()), blank(took), blank(detail))
		for _, task := range step.GetTasks() {
			detail := output.Brief(task.GetDetail())
			if task.GetTotalBytes() > 0 && task.GetState() != requorumv1.StepState_STEP_STATE_DONE {
				detail = strings.TrimSpace(output.Of(task.GetDoneBytes(), task.GetTotalBytes()) + " " + detail)
			}
			table.Row(" ", task.GetNode(), live.StepState(task.GetState()), " ", blank(detail))
		}
	}
	return table
}

func (p *program) operationWatch() *cobra.Command {
	return &cobra.Command{
		Use:   "watch ID",
		Short: "Follow an operation to its end",
		Long: `Follow an operation to its end, and end with the exit code that tells how it
ended. Ctrl-C ends the watching, not the operation. With -o json every event is
one line.`,
		Example:           "  requorum operation watch 01JB2M3N4P5Q6R7S8T9V0W1X2Y",
		Args:              takes("ID"),
		ValidArgsFunction: firstArgument(p.completeOperations),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				if p.settings.format == output.Table {
					op, err := p.follow(ctx, c, args[0], p.view())
					if err != nil {
						return err
					}
					return p.conclude(ctx, c, op)
				}
				events := live.NewEvents(p.out, p.settings.format)
				op, err := p.follow(ctx, c, args[0], events)
				if err != nil {
					return err
				}
				return errors.Join(outcome(op), events.Err())
			})
		},
	}
}

// writeEnded answers that there is nothing left to cancel.
func writeEnded(w io.Writer, op *requorumv1.Operation) error {
	now := "everything is as it was before"
	if op.GetState() == requorumv1.OperationState_OPERATION_STATE_ABANDONED {
		now = "a person has to look at what it left"
	}
	_, err := fmt.Fprintf(w, "%s: it has ended already (%s), and %s\n", live.Title(op), live.State(op.GetState()), now)
	return err
}

func (p *program) operationCancel() *cobra.Command {
	var requestID string
	command := &cobra.Command{
		Use:   "cancel ID",
		Short: "Stop an operation and put everything back",
		Long: `Ask an operation to stop and put everything back. It is refused once the
operation has passed the step after which there is no way back.`,
		Example:           "  requorum operation cancel 01JB2M3N4P5Q6R7S8T9V0W1X2Y",
		Args:              takes("ID"),
		ValidArgsFunction: firstArgument(p.completeOperations),
		RunE: func(c *cobra.Command, args []string) error {
			return p.with(c.Context(), func(ctx context.Context, c *client) error {
				resp, err := change(ctx, c, c.CancelOperation, &requorumv1.CancelOperationRequest{RequestId: p.request(requestID), Id: args[0]})
				if err != nil {
					return err
				}
				op := resp.GetOperation()
				if op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
					return &RefusedError{Message: live.Title(op) + ": it has succeeded and cannot be cancelled any more"}
				}
				if p.settings.format != output.Table {
					return output.Message(p.out, p.settings.format, resp)
				}
				if live.Ended(op) {
					return writeEnded(p.out, op)
				}
				_, err = fmt.Fprintf(p.out, "%s: cancellation was asked for; everything is being put back\n", live.Title(op))
				p.hint("follow it with: requorum operation watch %s", args[0])
				return err
			})
		},
	}
	p.requestIDFlag(command, &requestID)
	return command
}
