package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/failure"
)

// pass lets time pass in the bubble.
func pass(d time.Duration) { <-time.After(d) }

func TestSessionTellsTheAgentWhatIsExpected(t *testing.T) {
	inBench(t, func(b *bench) {
		b.records.adopt = true
		a := b.connect("etcd-1")
		o := a.opened
		if o.GetEpoch() != 5 || o.GetControllerId() != "controller-1" || o.GetGeneration() != 3 || !o.GetAdoptGeneration() || o.GetHeartbeatInterval().AsDuration() != 2*time.Second {
			t.Errorf("opened %v", o)
		}
		synctest.Wait()
		info := b.Info(key("etcd-1"))
		if !info.Connected || info.AgentVersion != "v1" || info.TransferAddress != "etcd-1:1" || info.VaultFreeBytes != 7 || info.Seen != time.Now() {
			t.Errorf("info %+v", info)
		}
		if b.records.seen["etcd-1"] != "etcd-1:1" {
			t.Errorf("seen %v", b.records.seen)
		}
		if other := b.Info(key("etcd-2")); other.Connected || !other.Seen.IsZero() {
			t.Errorf("a node that never came: %+v", other)
		}
	})
}

func TestTaskIsDeliveredOnConnectAndWhenItComes(t *testing.T) {
	inBench(t, func(b *bench) {
		early := b.ask("etcd-1", "early")
		a := b.connect("etcd-1")
		task := a.task()
		if task.GetId() != "early" || task.GetEpoch() != 5 || task.GetControllerId() != "controller-1" {
			t.Errorf("on connect: %v", task)
		}
		late := b.ask("etcd-1", "late")
		if id := a.task().GetId(); id != "late" {
			t.Errorf("when it comes: %s", id)
		}
		a.tick("late", 1)
		a.done("late")
		a.done("early")
		early.succeeds()
		late.succeeds()
		if late.reports != 1 || early.reports != 0 {
			t.Errorf("progress reported %d and %d times, want 1 and 0", late.reports, early.reports)
		}
	})
}

func TestTaskIsDeliveredAgainAfterAReconnect(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		asked := b.ask("etcd-1", "t")
		a.task()
		a.hangUp()
		pass(20 * time.Second)
		a = b.connect("etcd-1")
		if id := a.task().GetId(); id != "t" {
			t.Errorf("delivered %s", id)
		}
		a.done("t")
		asked.succeeds()
		a.hangUp()
		if a = b.connect("etcd-1"); len(a.next(func(m *agentv1.OpenSessionResponse) bool { return m.GetOpened() != nil }).GetTasks()) > 0 {
			t.Error("delivered once more after it was answered")
		}
	})
}

func TestAnswerCountsOnce(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		asked := b.ask("etcd-1", "t")
		a.done("t")
		a.done("t") // nobody waits for it any more
		asked.succeeds()
		a.done("never asked for")
		if !b.Info(key("etcd-1")).Connected {
			t.Error("the session has ended")
		}
	})
}

func TestFailureOnANodeIsTold(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		asked := b.ask("etcd-1", "t")
		a.report(&agentv1.TaskReport{TaskId: "t", State: agentv1.TaskState_TASK_STATE_FAILED, Error: &agentv1.TaskError{
			Code: agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE, Message: "disk full", Advice: "free space",
		}})
		<-asked.over
		var f *failure.Error
		var code *dispatch.TaskError
		if !errors.As(asked.err, &f) || f.Node != "etcd-1" || f.Message != "disk full" || f.Advice != "free space" {
			t.Errorf("got %v", asked.err)
		}
		if !errors.As(asked.err, &code) || code.Code != agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE {
			t.Errorf("got %v", asked.err)
		}
	})
}

func TestAnswerWithoutWhatWasAskedForIsAFailure(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		for name, result := range map[string]*agentv1.TaskResult{
			"nothing":        nil,
			"something else": {Result: &agentv1.TaskResult_Hashed{Hashed: &requorumv1.Copy{}}},
		} {
			asked := b.ask("etcd-1", name)
			a.report(&agentv1.TaskReport{TaskId: name, State: agentv1.TaskState_TASK_STATE_DONE, Result: result})
			<-asked.over
			if asked.err == nil || !strings.Contains(asked.err.Error(), "etcd-1: its agent's answer does not fit") {
				t.Errorf("%s: %v", name, asked.err)
			}
		}
	})
}

func TestNodeThatIsAwayIsGivenUp(t *testing.T) {
	inBench(t, func(b *bench) {
		began := time.Now()
		asked := b.ask("etcd-9", "t")
		<-asked.over
		if got := asked.err.Error(); got != "etcd-9: no answer for 30s; check that its agent runs and reaches the controller" {
			t.Errorf("got %q", got)
		}
		if took := time.Since(began); took != options.Offline {
			t.Errorf("after %s", took)
		}
	})
}

func TestTaskThatStandsStillIsGivenUp(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		asked := b.ask("etcd-1", "t")
		a.tick("t", 1)
		began := time.Now()
		for range 3 { // says that it lives, and does nothing
			pass(30 * time.Second)
			a.tick("t", 1)
		}
		<-asked.over
		if got := asked.err.Error(); got != "etcd-1: no progress for 2m0s; look at the agent's log on that node" {
			t.Errorf("got %q", got)
		}
		if took := time.Since(began); took != options.Stall {
			t.Errorf("after %s", took)
		}
		if id := a.cancelled(); id != "t" {
			t.Errorf("the agent was told to stop %q", id)
		}
	})
}

func TestTaskThatMakesProgressIsNeverGivenUp(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		asked := b.ask("etcd-1", "t")
		for ticks := range uint64(200) { // more than six hours
			pass(options.Stall - time.Second)
			a.tick("t", ticks+1)
			if ticks%5 == 0 { // over a poor network
				a.hangUp()
				pass(options.Offline - time.Second)
				a = b.connect("etcd-1")
				a.tick("t", ticks+1)
			}
		}
		if !asked.waiting() {
			t.Fatalf("given up: %v", asked.err)
		}
		a.done("t")
		asked.succeeds()
	})
}

// An agent that dies of a task comes back, is given it again, and dies again.
func TestTaskThatBringsItsAgentDownIsGivenUp(t *testing.T) {
	for name, ticks := range map[string]uint64{"at once": 0, "after a while": 3} {
		t.Run(name, func(t *testing.T) {
			inBench(t, func(b *bench) {
				asked := b.ask("etcd-1", "t")
				for range 20 {
					a := b.connect("etcd-1")
					for tick := range ticks {
						a.tick("t", tick)
					}
					a.hangUp()
					pass(time.Second)
				}
				if asked.waiting() || !strings.Contains(asked.err.Error(), "etcd-1: its session was lost 10 times without any progress") {
					t.Errorf("got %v", asked.err)
				}
			})
		})
	}
}

func TestCallerThatGivesUpStopsTheTask(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		asked := b.ask("etcd-1", "t")
		asked.giveUp(errChanged)
		<-asked.over
		if !errors.Is(asked.err, errChanged) {
			t.Errorf("got %v", asked.err)
		}
		if id := a.cancelled(); id != "t" {
			t.Errorf("the agent was told to stop %q", id)
		}
		a.hangUp()
		if a = b.connect("etcd-1"); len((<-a.inbox).GetTasks()) != 0 {
			t.Error("delivered again although nobody waits")
		}
	})
}

func TestNewerSessionReplacesTheOlderOne(t *testing.T) {
	inBench(t, func(b *bench) {
		older := b.connect("etcd-1")
		newer := b.connect("etcd-1")
		if err := older.gone(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "replaced by a newer session") {
			t.Errorf("older: %v", err)
		}
		asked := b.ask("etcd-1", "t")
		_, err := older.client.Heartbeat(older.ctx, &agentv1.HeartbeatRequest{SessionId: older.opened.GetSessionId()})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("heartbeat of the older one: %v", err)
		}
		if err := older.reports.Send(&agentv1.ReportTaskRequest{SessionId: older.opened.GetSessionId(), Report: &agentv1.TaskReport{TaskId: "t", State: agentv1.TaskState_TASK_STATE_FAILED}}); err != nil {
			t.Error(err)
		}
		if _, err := older.reports.CloseAndRecv(); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("report of the older one: %v", err)
		}
		if !asked.waiting() || !b.Info(key("etcd-1")).Connected {
			t.Fatal("the older session has changed something")
		}
		newer.done("t")
		asked.succeeds()
	})
}

func TestSessionWithoutHeartbeatEnds(t *testing.T) {
	inBench(t, func(b *bench) {
		a, err := b.open("etcd-1", &agentv1.OpenSessionRequest{})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := a.gone(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no heartbeat") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != 3*options.Heartbeat {
			t.Errorf("after %s", took)
		}
		synctest.Wait()
		if b.Info(key("etcd-1")).Connected {
			t.Error("still connected")
		}
		alive := b.connect("etcd-1")
		pass(time.Hour)
		if !b.Info(key("etcd-1")).Connected {
			t.Errorf("with heartbeats: %v", alive.gone())
		}
	})
}

func TestRemovedNodeFailsWhatWaitsForIt(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		asked, away := b.ask("etcd-1", "t"), b.ask("etcd-2", "t")
		b.Remove(key("etcd-1"))
		b.Remove(key("etcd-2"))
		for _, x := range []*struct{ err error }{{wait(asked)}, {wait(away)}, {wait(b.ask("etcd-1", "later"))}} {
			if !errors.Is(x.err, dispatch.ErrRemoved) {
				t.Errorf("got %v", x.err)
			}
		}
		if err := a.gone(); !strings.Contains(err.Error(), "removed from the cluster") {
			t.Errorf("session: %v", err)
		}
		b.Readmit(key("etcd-1"))
		again := b.ask("etcd-1", "again")
		a = b.connect("etcd-1")
		a.done("again")
		again.succeeds()
	})
}

func wait(a *asked) error {
	<-a.over
	return a.err
}

func TestWhatTheRecordsKnewIsRecalled(t *testing.T) {
	inBench(t, func(b *bench) {
		b.Recall(key("etcd-1"), "10.0.0.1:7080", false)
		b.Recall(key("etcd-2"), "10.0.0.2:7080", true)
		if info := b.Info(key("etcd-1")); info.TransferAddress != "10.0.0.1:7080" || info.Connected {
			t.Errorf("info %+v", info)
		}
		if err := wait(b.ask("etcd-2", "t")); !errors.Is(err, dispatch.ErrRemoved) {
			t.Errorf("got %v", err)
		}
	})
}

func TestControllerThatNodesHaveLeftIsFenced(t *testing.T) {
	for name, c := range map[string]struct {
		epoch      uint64
		controller string
		accepted   bool
	}{
		"a new agent":                        {0, "", true},
		"an agent of an older controller":    {4, "older", true},
		"an agent of this controller":        {5, "controller-1", true},
		"an agent of a newer controller":     {6, "newer", false},
		"an agent of another, of this epoch": {5, "controller-2", false},
	} {
		t.Run(name, func(t *testing.T) {
			inBench(t, func(b *bench) {
				a, err := b.open("etcd-1", &agentv1.OpenSessionRequest{Epoch: c.epoch, ControllerId: c.controller})
				switch {
				case c.accepted && err != nil:
					t.Errorf("refused: %v", err)
				case !c.accepted && status.Code(err) != codes.FailedPrecondition:
					t.Errorf("got %v, %v", a, err)
				case !c.accepted && b.Info(key("etcd-1")).Connected:
					t.Error("connected all the same")
				}
				message, advice := b.Info(key("etcd-1")).Away("start the agent")
				fenced := strings.Contains(message, fmt.Sprintf("of epoch %d", c.epoch)) && strings.Contains(advice, fmt.Sprintf("--epoch-at-least %d", c.epoch+1))
				if fenced == c.accepted {
					t.Errorf("people are told %q, %q", message, advice)
				}
			})
		})
	}
}

func TestReconnectLetsANodeLearnTheGeneration(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		b.records.generation = 4
		b.Reconnect("prod", "etcd-1")
		b.Reconnect("prod", "etcd-2") // which is not there
		if err := a.gone(); !strings.Contains(err.Error(), "the cluster's generation has changed") {
			t.Errorf("got %v", err)
		}
		if a = b.connect("etcd-1"); a.opened.GetGeneration() != 4 {
			t.Errorf("generation %d", a.opened.GetGeneration())
		}
	})
}

// A restore ends, and reconnects the nodes that it sees, while a left-out node is opening its session.
func TestSessionThatOpensWhileTheGenerationChangesEnds(t *testing.T) {
	inBench(t, func(b *bench) {
		b.records.reading = func() { b.records.generation = 4 } // just after it was read
		_, err := b.open("etcd-1", &agentv1.OpenSessionRequest{})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "generation has changed") {
			t.Errorf("got %v", err)
		}
		if a := b.connect("etcd-1"); a.opened.GetGeneration() != 4 {
			t.Errorf("generation %d", a.opened.GetGeneration())
		}
	})
}

func TestSessionIsRefusedWithoutRecords(t *testing.T) {
	inBench(t, func(b *bench) {
		b.records.err = errors.New("disk on fire")
		if _, err := b.open("etcd-1", &agentv1.OpenSessionRequest{}); err == nil || b.Info(key("etcd-1")).Connected {
			t.Errorf("got %v", err)
		}
	})
}

// An agent that sends heartbeats and reads nothing fills up its own stream, and nothing else.
func TestSlowReaderDoesNotBlockOthers(t *testing.T) {
	inBench(t, func(b *bench) {
		b.connect("slow") // its inbox takes 64 messages
		fast := b.connect("fast")
		for i := range 300 {
			b.ask("slow", fmt.Sprintf("%d-%s", i, strings.Repeat("x", 4<<10)))
		}
		asked := b.ask("fast", "t")
		if id := fast.task().GetId(); id != "t" {
			t.Errorf("task %s", id)
		}
		fast.done("t")
		asked.succeeds()
	})
}

func TestQuestionsOutsideOfOperationsHaveIDsOfTheirOwn(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		seen := map[string]bool{}
		for range 3 {
			answered := make(chan error, 1)
			go func() {
				_, err := b.AskNode(b.Context(), "prod", "etcd-1", &agentv1.Task{Spec: &agentv1.Task_ListCopies{}})
				answered <- err
			}()
			id := a.task().GetId()
			if seen[id] || id == "" {
				t.Errorf("ID %q", id)
			}
			seen[id] = true
			a.report(&agentv1.TaskReport{TaskId: id, State: agentv1.TaskState_TASK_STATE_DONE})
			if err := <-answered; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNothingComesUnasked(t *testing.T) {
	inBench(t, func(b *bench) {
		a := b.connect("etcd-1")
		<-a.inbox // the opening
		pass(time.Minute)
		if !a.idle() {
			t.Errorf("%v", <-a.inbox)
		}
	})
}

// A controller that has just started does not take agents that are on their way back for absent.
func TestGatherWaitsForNodesOnTheirWayBack(t *testing.T) {
	inBench(t, func(b *bench) {
		began := time.Now()
		b.Gather(context.Background(), "prod", []string{"etcd-1"})
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("a node that never comes is waited for %s after the start", waited)
		}
		began = time.Now()
		b.Gather(context.Background(), "prod", []string{"etcd-1"})
		if waited := time.Since(began); waited != 0 {
			t.Errorf("later it is waited for %s", waited)
		}
		a := b.connect("etcd-1")
		b.Gather(context.Background(), "prod", []string{"etcd-1"})
		if waited := time.Since(began); waited != 0 {
			t.Errorf("a node that is there is waited for %s", waited)
		}
		a.hangUp()
		synctest.Wait()
		gathered := make(chan time.Duration)
		go func() {
			b.Gather(context.Background(), "prod", []string{"etcd-1"})
			gathered <- time.Since(began)
		}()
		pass(3 * time.Second)
		b.connect("etcd-1")
		if waited := <-gathered; waited != 3*time.Second {
			t.Errorf("a node that comes back in 3 s is waited for %s", waited)
		}
	})
}
