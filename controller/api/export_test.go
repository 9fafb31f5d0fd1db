package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// exported begins an export of s as an operator, and returns what the agent is told to push.
func (a *agent) exported(ctx context.Context) (requorumv1.SnapshotService_ExportSnapshotClient, *agentv1.Task) {
	a.Helper()
	synctest.Wait()
	stream, err := requorumv1.NewSnapshotServiceClient(a.conn).ExportSnapshot(ctx, &requorumv1.ExportSnapshotRequest{Cluster: "prod", Name: "latest"})
	if err != nil {
		a.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetManifest().GetName() != "s" {
		a.Fatalf("first message %v, %v", first, err)
	}
	return stream, a.next().GetTasks()[0]
}

// push sends parts as the answer to a task, and returns how the call ended.
func (a *agent) push(relay string, parts ...string) error {
	stream, err := a.client.PushCopy(a.ctx)
	if err != nil {
		a.Fatal(err)
	}
	for _, p := range parts {
		if err := stream.Send(&agentv1.PushCopyRequest{RelayId: relay, Data: []byte(p)}); err != nil {
			break // CloseAndRecv tells why
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

func done(t *agentv1.Task) *agentv1.TaskReport {
	return &agentv1.TaskReport{TaskId: t.GetId(), State: agentv1.TaskState_TASK_STATE_DONE}
}

// rest reads what is left of an export.
func rest(stream requorumv1.SnapshotService_ExportSnapshotClient) (string, error) {
	var b strings.Builder
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return b.String(), nil
		}
		if err != nil {
			return b.String(), err
		}
		b.Write(m.GetData())
	}
}

func TestExportRelaysTheFileInOrder(t *testing.T) {
	atDesk(t, nil, func(d *desk) {
		a := d.connect("a")
		stream, task := a.exported(d.Context())
		if task.GetPushCopy().GetName() != "s" {
			t.Errorf("task %v", task)
		}
		pushed := make(chan error, 1)
		go func() {
			pushed <- a.push(task.GetPushCopy().GetRelayId(), "01", "234", "", "56789")
			a.report(done(task))
		}()
		<-time.After(time.Hour) // the operator is slow
		if got, err := rest(stream); got != "0123456789" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if err := <-pushed; err != nil {
			t.Error(err)
		}
	})
}

func TestExportThatIsShortFails(t *testing.T) {
	atDesk(t, nil, func(d *desk) {
		a := d.connect("a")
		stream, task := a.exported(d.Context())
		if err := a.push(task.GetPushCopy().GetRelayId(), "0123"); err != nil {
			t.Error(err)
		}
		a.report(done(task))
		if got, err := rest(stream); got != "0123" || err == nil || !strings.Contains(err.Error(), "node a sent 4 bytes of 10") {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestExportEndsWithItsNode(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*agent, *agentv1.Task)
		want string
	}{
		"that fails": {func(a *agent, task *agentv1.Task) {
			a.report(&agentv1.TaskReport{TaskId: task.GetId(), State: agentv1.TaskState_TASK_STATE_FAILED, Error: &agentv1.TaskError{Message: "disk on fire"}})
		}, "disk on fire"},
		"that goes away": {func(a *agent, _ *agentv1.Task) { a.hangUp() }, "no answer for 30s"},
		"that hangs":     {func(*agent, *agentv1.Task) {}, "no progress for 2m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			atDesk(t, nil, func(d *desk) {
				a := d.connect("a")
				stream, task := a.exported(d.Context())
				c.end(a, task)
				if _, err := rest(stream); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q", err, c.want)
				}
			})
		})
	}
}

func TestOperatorWhoGoesAwayStopsTheNode(t *testing.T) {
	atDesk(t, nil, func(d *desk) {
		a := d.connect("a")
		ctx, leave := context.WithCancel(d.Context())
		_, task := a.exported(ctx)
		leave()
		if m := a.next(); len(m.GetCancelTaskIds()) != 1 || m.GetCancelTaskIds()[0] != task.GetId() {
			t.Errorf("the node was told %v", m)
		}
		synctest.Wait()
		if err := a.push(task.GetPushCopy().GetRelayId(), "0123"); status.Code(err) != codes.NotFound {
			t.Errorf("push: %v", err)
		}
	})
}

func TestOnlyTheNodeThatWasAskedMaySend(t *testing.T) {
	atDesk(t, nil, func(d *desk) {
		a, b := d.connect("a"), d.connect("b")
		stream, task := a.exported(d.Context())
		relay := task.GetPushCopy().GetRelayId()
		if err := b.push(relay, "evil"); status.Code(err) != codes.NotFound {
			t.Errorf("another node: %v", err)
		}
		if err := a.push("no such relay", "lost"); status.Code(err) != codes.NotFound {
			t.Errorf("another relay: %v", err)
		}
		if err := a.push(relay, "0123456789"); err != nil {
			t.Error(err)
		}
		if err := a.push(relay, "0123456789"); status.Code(err) != codes.NotFound {
			t.Errorf("once more: %v", err)
		}
		a.report(done(task))
		if got, err := rest(stream); got != "0123456789" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestExportNeedsAConnectedNodeWithAGoodCopy(t *testing.T) {
	atDesk(t, nil, func(d *desk) {
		client := requorumv1.NewSnapshotServiceClient(d.conn)
		export := func(req *requorumv1.ExportSnapshotRequest) error {
			stream, err := client.ExportSnapshot(d.Context(), req)
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		}
		if err := export(&requorumv1.ExportSnapshotRequest{Cluster: "prod", Name: "s"}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("nobody is connected: %v", err)
		}
		d.connect("b")
		if err := export(&requorumv1.ExportSnapshotRequest{Cluster: "prod", Name: "s", Node: "b"}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "no good copy of s") {
			t.Errorf("a node without a copy: %v", err)
		}
		if err := export(&requorumv1.ExportSnapshotRequest{Cluster: "prod", Name: "nope"}); status.Code(err) != codes.NotFound {
			t.Errorf("no such snapshot: %v", err)
		}
	})
}
