package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

// job are the flags of every command that starts an operation.
type job struct {
	cluster   string
	requestID string
	detach    bool
}

func (p *program) jobFlags(c *cobra.Command) *job {
	j := &job{}
	p.clusterFlag(c, &j.cluster)
	p.requestIDFlag(c, &j.requestID)
	c.Flags().BoolVar(&j.detach, "detach", false, "do not wait for the end of the operation")
	return j
}

func (p *program) clusterFlag(c *cobra.Command, cluster *string) {
	c.Flags().StringVar(cluster, "cluster", "", "`NAME` of the cluster; may be left out if the controller knows one only")
	complete(c, "cluster", p.completeClusters)
}

func (p *program) requestIDFlag(c *cobra.Command, id *string) {
	c.Flags().StringVar(id, "request-id", "", "`ID` that makes it safe to run the same command again (default: a new ULID)")
}

// request returns the request ID to use.
func (p *program) request(given string) string {
	if given != "" {
		return given
	}
	return p.newID()
}

// answer is one of the API's messages that carry an operation.
type answer func(*requorumv1.Operation) proto.Message

// carryOut follows the operation that was started, unless the operator does not want to wait, and
// prints how it ended. It returns an *OperationError if it did not succeed.
func (p *program) carryOut(ctx context.Context, c *client, op *requorumv1.Operation, j *job, as answer) error {
	if j.detach {
		if p.settings.format != output.Table {
			return output.Message(p.out, p.settings.format, as(op))
		}
		_, err := fmt.Fprintf(p.out, "%s: operation %s\n", live.Title(op), op.GetId())
		p.hint("follow it with: requorum operation watch %s", op.GetId())
		return err
	}
	op, err := p.follow(ctx, c, op.GetId(), p.view())
	if err != nil {
		return err
	}
	if p.settings.format != output.Table {
		if err := output.Message(p.out, p.settings.format, as(op)); err != nil {
			return err
		}
		return outcome(op)
	}
	return p.conclude(ctx, c, op)
}

// view shows progress on stdout, unless stdout is for a program.
func (p *program) view() live.View {
	if p.settings.format != output.Table {
		return live.NewLines(p.err, p.now)
	}
	if term, ok := p.terminal(); ok {
		return live.NewScreen(p.out, term, p.now)
	}
	return live.NewLines(p.out, p.now)
}

func (p *program) follow(ctx context.Context, c *client, id string, view live.View) (*requorumv1.Operation, error) {
	op, err := live.Follow(ctx, c, id, view, p.pace)
	switch {
	case err == nil:
		return op, nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		// Not context.Canceled, so that it is not reported as interrupted: nothing was.
		err = errors.New("detached: operation " + id + " goes on")
	case op == nil:
		return nil, err
	default:
		err = fmt.Errorf("operation %s may go on: %w", id, err)
	}
	return nil, advised(err, "watch it:  requorum operation watch "+id, "cancel it: requorum operation cancel "+id)
}

// outcome is nil for an operation that succeeded.
func outcome(op *requorumv1.Operation) error {
	if op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
		return nil
	}
	return &OperationError{Operation: op}
}

// conclude prints the result of an operation for people.
func (p *program) conclude(ctx context.Context, c *client, op *requorumv1.Operation) error {
	succeeded := outcome(op) == nil
	var err error
	if !succeeded && live.Ended(op) {
		_, err = fmt.Fprintln(p.out, output.Clean(live.Title(op)+": "+live.State(op.GetState())))
	}
	if err != nil {
		return errors.Join(outcome(op), err)
	}
	switch op.GetKind() {
	case requorumv1.OperationKind_OPERATION_KIND_RESTORE:
		err = writeRestored(p.out, op, succeeded)
	case requorumv1.OperationKind_OPERATION_KIND_REHEARSE:
		err = writeRehearsed(p.out, op, succeeded)
	case requorumv1.OperationKind_OPERATION_KIND_VERIFY:
		err = p.concludeVerify(ctx, c, op, succeeded)
	case requorumv1.OperationKind_OPERATION_KIND_DELETE:
		if succeeded {
			_, err = fmt.Fprintf(p.out, "Snapshot %s of %s is removed\n", op.GetSnapshot(), op.GetCluster())
		}
	case requorumv1.OperationKind_OPERATION_KIND_REBUILD:
		if succeeded {
			_, err = fmt.Fprintf(p.out, "The catalog of %s is rebuilt\n", op.GetCluster())
			p.hint("to see it: requorum snapshot ls")
		}
	case requorumv1.OperationKind_OPERATION_KIND_CHECK, requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE:
		// What was found on the nodes is the answer, whether it is good or not.
		err = p.concludeSnapshot(ctx, c, op, live.Ended(op))
	default:
		err = p.concludeSnapshot(ctx, c, op, succeeded)
	}
	if err == nil {
		err = writeWarnings(p.out, op)
	}
	return errors.Join(outcome(op), err)
}

// writeWarnings leaves out what was foretold of an operation that then changed nothing.
func writeWarnings(w io.Writer, op *requorumv1.Operation) error {
	switch op.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_REFUSED, requorumv1.OperationState_OPERATION_STATE_REVERTED:
		return nil
	}
	for _, warning := range op.GetWarnings() {
		if _, err := fmt.Fprintf(w, "  ! %s\n", output.Clean(output.Brief(warning))); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) concludeSnapshot(ctx context.Context, c *client, op *requorumv1.Operation, show bool) error {
	if !show {
		return nil
	}
	req := &requorumv1.GetSnapshotRequest{Cluster: op.GetCluster(), Name: op.GetSnapshot()}
	resp, err := ask(ctx, c.GetSnapshot, req, callLimit)
	if err != nil {
		if outcome(op) != nil {
			return nil // why the operation failed matters more
		}
		return fmt.Errorf("%s succeeded, but the snapshot cannot be shown: %w", live.Subject(op), err)
	}
	if outcome(op) != nil {
		return writeFound(p.out, resp.GetSnapshot())
	}
	return p.writeReady(resp.GetSnapshot(), tookOf(op))
}

// writeFound shows what is known of a snapshot's copies, whatever the catalog says of the snapshot.
func writeFound(w io.Writer, s *requorumv1.Snapshot) error {
	if len(s.GetCopies()) == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(w, "copies of %s:\n", output.Clean(s.GetName())); err != nil {
		return err
	}
	return writeCopies(w, s)
}

func tookOf(op *requorumv1.Operation) string {
	if op.GetEnded() == nil || op.GetCreated() == nil {
		return ""
	}
	return output.Took(op.GetEnded().AsTime().Sub(op.GetCreated().AsTime()))
}

func (p *program) writeReady(s *requorumv1.Snapshot, took string) error {
	m := s.GetManifest()
	line := fmt.Sprintf("Snapshot %s of %s is %s", s.GetName(), s.GetCluster(), snapshotState(s.GetState()))
	if m != nil {
		line += fmt.Sprintf(": %s, revision %s", output.Bytes(m.GetSize()), p.number(m.GetRevision()))
	}
	if took != "" {
		line += ", took " + took
	}
	if _, err := fmt.Fprintln(p.out, output.Clean(line)); err != nil {
		return err
	}
	return writeCopies(p.out, s)
}

func writeCopies(w io.Writer, s *requorumv1.Snapshot) error {
	list := output.NewList(2)
	for _, copied := range s.GetCopies() {
		sum := "MD5 " + copied.GetMd5()
		if copied.GetMd5() == "" {
			sum = ""
		}
		list.Row(copied.GetNode(), copyState(copied.GetState()), sum, strings.TrimSpace(copied.GetPath()+" "+copied.GetDetail()))
	}
	for _, copied := range s.GetRemotes() {
		list.Row(copied.GetRemote(), copyState(copied.GetState()), output.Bytes(copied.GetObject().GetSize())+" stored", strings.TrimSpace(copied.GetObject().GetKey()+" "+copied.GetDetail()))
	}
	_, err := list.WriteTo(w)
	return err
}

func writeRestored(w io.Writer, op *requorumv1.Operation, succeeded bool) error {
	var b strings.Builder
	if succeeded {
		fmt.Fprintf(&b, "%s is restored from %s", op.GetCluster(), op.GetSnapshot())
		if op.GetUnavailability() != nil {
			fmt.Fprintf(&b, "; it did not serve for %s", output.Took(op.GetUnavailability().AsDuration()))
		}
		b.WriteString("\n")
	}
	if op.GetSafetySnapshot() != "" {
		fmt.Fprintf(&b, "  the state before is kept in safety snapshot %s\n", op.GetSafetySnapshot())
	}
	for _, line := range oldData(op.GetQuarantines()) {
		fmt.Fprintf(&b, "  old data of %s\n", output.Clean(line))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeRehearsed shows how long each part took, and what the real restore would cost.
func writeRehearsed(w io.Writer, op *requorumv1.Operation, succeeded bool) error {
	if !succeeded {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s could be restored from %s; nothing was stopped, and what was staged is removed\n", output.Clean(op.GetCluster()), output.Clean(op.GetSnapshot()))
	before := time.Duration(0)
	list := output.NewList(2)
	for _, step := range op.GetSteps() {
		took := step.GetEnded().AsTime().Sub(step.GetStarted().AsTime())
		list.Row(step.GetName(), output.Took(took))
		if step.GetName() != "unstage" { // a restore does not
			before += took
		}
	}
	if _, err := list.WriteTo(&b); err != nil {
		return err
	}
	fmt.Fprintf(&b, "a restore would prepare for %s while etcd serves, save the present state, and then keep clients from writing for about %s\n",
		output.Took(before), output.Took(op.GetEstimatedUnavailability().AsDuration()))
	_, err := io.WriteString(w, b.String())
	return err
}

// concludeVerify says what was proved.
func (p *program) concludeVerify(ctx context.Context, c *client, op *requorumv1.Operation, succeeded bool) error {
	if !succeeded {
		return nil
	}
	resp, err := ask(ctx, c.GetSnapshot, &requorumv1.GetSnapshotRequest{Cluster: op.GetCluster(), Name: op.GetSnapshot()}, callLimit)
	if err != nil {
		return fmt.Errorf("%s succeeded, but the snapshot cannot be shown: %w", live.Subject(op), err)
	}
	s := resp.GetSnapshot()
	_, err = fmt.Fprintln(p.out, output.Clean(fmt.Sprintf("Snapshot %s of %s can be restored: %s did so and read all %s keys in %s", s.GetName(), s.GetCluster(),
		s.GetVerified().GetNode(), p.number(s.GetManifest().GetKeys()), output.Took(s.GetVerified().GetTook().AsDuration()))))
	return err
}

// oldData says where old data is, in one line for all nodes that keep it alike.
func oldData(quarantines []*requorumv1.Quarantine) []string {
	var places []string
	nodes := make(map[string][]string)
	for _, q := range quarantines {
		place := strings.Join(q.GetPaths(), " and ")
		if q.GetExpires() != nil {
			place += " until " + output.Time(q.GetExpires())
		}
		if nodes[place] == nil {
			places = append(places, place)
		}
		nodes[place] = append(nodes[place], q.GetNode())
	}
	for i, place := range places {
		places[i] = strings.Join(nodes[place], ", ") + " is in " + place
	}
	return append(places, oldFiles(quarantines)...)
}

// oldFiles tells of the files besides etcd's data that were replaced. There may be many; -o json lists them.
func oldFiles(quarantines []*requorumv1.Quarantine) []string {
	var lines []string
	for _, q := range quarantines {
		if len(q.GetFiles()) == 0 {
			continue
		}
		line := fmt.Sprintf("%s: files that the restore has replaced (%d), the first is %s", q.GetNode(), len(q.GetFiles()), q.GetFiles()[0])
		if q.GetExpires() != nil {
			line += " until " + output.Time(q.GetExpires())
		}
		lines = append(lines, line)
	}
	return lines
}

// hint writes to stderr what a person may want to type next; not for programs.
func (p *program) hint(format string, args ...any) {
	if p.settings.format == output.Table {
		// A hint that cannot be written is no loss.
		_, _ = fmt.Fprintf(p.err, format+"\n", args...)
	}
}
