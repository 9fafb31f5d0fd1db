package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/journal"
	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	running = agentv1.TaskState_TASK_STATE_RUNNING
	done    = agentv1.TaskState_TASK_STATE_DONE
	broken  = agentv1.TaskState_TASK_STATE_FAILED

	epoch      = 4
	controller = "controller-a"

	soon = 20 * time.Second // for what comes at once, on a slow machine
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// obeying opens a journal of a node that obeys the tests' controller.
func obeying(t *testing.T, path string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, j.Close()) })
	must(t, j.Update(func(s *journalv1.AgentRecord) error {
		s.Epoch, s.ControllerId = epoch, controller
		return nil
	}))
	return j
}

// process is the runner of one agent process. Its tasks wait to be let go.
type process struct {
	*Runner
	t       *testing.T
	stop    context.CancelFunc
	begun   chan string // IDs of tasks, as they are begun
	journal *journal.Journal

	mu    sync.Mutex
	gates map[string]chan error
}

func newProcess(t *testing.T, j *journal.Journal) *process {
	p := &process{t: t, journal: j, begun: make(chan string, 1000), gates: make(map[string]chan error)}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.Runner = NewRunner(ctx, j, p.handle, hclog.NewNullLogger())
	t.Cleanup(p.crash)
	return p
}

// crash ends the process's tasks as the end of the process does.
func (p *process) crash() {
	p.stop()
	p.Wait()
}

func (p *process) gate(id string) chan error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gates[id] == nil {
		p.gates[id] = make(chan error, 1)
	}
	return p.gates[id]
}

// finish lets a task end.
func (p *process) finish(id string, err error) { p.gate(id) <- err }

func (p *process) handle(ctx context.Context, task *agentv1.Task, _ *Progress) (*agentv1.TaskResult, error) {
	p.begun <- task.GetId()
	select {
	case err := <-p.gate(task.GetId()):
		return &agentv1.TaskResult{Result: &agentv1.TaskResult_Copy{Copy: &agentv1.CopyFacts{Md5: task.GetId()}}}, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *process) deliver(tasks ...*agentv1.Task) {
	p.t.Helper()
	for _, task := range tasks {
		must(p.t, p.Deliver(task))
	}
}

func (p *process) expectBegun(id string) {
	p.t.Helper()
	select {
	case got := <-p.begun:
		if got != id {
			p.t.Fatalf("%s was begun, not %s", got, id)
		}
	case <-time.After(soon):
		p.t.Fatalf("%s was not begun", id)
	}
}

func (p *process) expectNothingBegun() {
	p.t.Helper()
	select {
	case got := <-p.begun:
		p.t.Fatalf("%s was begun", got)
	default:
	}
}

// await returns the first report of a task in a state.
func (p *process) await(id string, state agentv1.TaskState) *agentv1.TaskReport {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), soon)
	defer cancel()
	for {
		reports, err := p.Next(ctx)
		if err != nil {
			p.t.Fatalf("%s is not %s: %v", id, state, err)
		}
		for _, r := range reports {
			if r.GetTaskId() == id && r.GetState() == state {
				return r
			}
		}
	}
}

// pending returns the reports that are queued.
func (p *process) pending() map[string]*agentv1.TaskReport {
	all := map[string]*agentv1.TaskReport{}
	for _, r := range p.take() {
		all[r.GetTaskId()] = r
	}
	return all
}

func change(id string) *agentv1.Task {
	return &agentv1.Task{Id: id, Epoch: epoch, ControllerId: controller, Spec: &agentv1.Task_Stop{Stop: &agentv1.Stop{}}}
}

func question(id string) *agentv1.Task {
	return &agentv1.Task{Id: id, Epoch: epoch, ControllerId: controller, Spec: &agentv1.Task_HashKv{HashKv: &agentv1.HashKV{}}}
}

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "agent.db") }

func TestDeliveredTwiceWhileItRunsIsDoneOnce(t *testing.T) {
	p := newProcess(t, obeying(t, file(t)))
	p.deliver(change("a"))
	p.expectBegun("a")
	p.pending()
	p.deliver(change("a"))
	if r := p.pending()["a"]; r.GetState() != running {
		t.Errorf("reported as %v", r)
	}
	p.finish("a", nil)
	p.await("a", done)
	p.expectNothingBegun()
}

func TestDeliveredAfterItsEndIsAnsweredAgain(t *testing.T) {
	for name, failure := range map[string]error{"done": nil, "failed": errors.New("no such disk")} {
		t.Run(name, func(t *testing.T) {
			state := done
			if failure != nil {
				state = broken
			}
			path := file(t)
			j := obeying(t, path)
			p := newProcess(t, j)
			p.deliver(change("a"))
			p.finish("a", failure)
			first := p.await("a", state)
			p.deliver(change("a"))
			again := p.await("a", state)
			p.Cancel("a") // the controller took the answer, and crashes
			p.deliver(change("a"))
			fromJournal := p.await("a", state)
			p.crash()
			must(t, j.Close())

			p = newProcess(t, obeying(t, path))
			p.deliver(change("a"))
			reopened := p.await("a", state)
			p.expectNothingBegun()
			for _, r := range []*agentv1.TaskReport{again, fromJournal, reopened} {
				if !proto.Equal(r.GetResult(), first.GetResult()) || !proto.Equal(r.GetError(), first.GetError()) {
					t.Errorf("answered %v, before %v", r, first)
				}
			}
		})
	}
}

func TestCancelledTaskIsDoneAgain(t *testing.T) {
	p := newProcess(t, obeying(t, file(t)))
	p.deliver(change("a"))
	p.expectBegun("a")
	p.Cancel("a")
	p.deliver(change("a")) // the first one may not have ended yet
	p.expectBegun("a")
	p.finish("a", nil)
	p.await("a", done)
}

func TestRedeliveryWaitsForTheCancelledOne(t *testing.T) {
	for name, task := range map[string]*agentv1.Task{"change": change("a"), "question": question("a")} {
		t.Run(name, func(t *testing.T) {
			var inside, runs atomic.Int32
			first, ending, end, second := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
			ctx, stop := context.WithCancel(context.Background())
			r := NewRunner(ctx, obeying(t, file(t)), func(ctx context.Context, _ *agentv1.Task, _ *Progress) (*agentv1.TaskResult, error) {
				if inside.Add(1) > 1 {
					t.Error("done twice at the same time")
				}
				defer inside.Add(-1)
				if runs.Add(1) == 1 {
					close(first)
					<-ctx.Done()
					close(ending)
					<-end // as etcd's restore, which cannot be interrupted
					return nil, ctx.Err()
				}
				close(second)
				return nil, nil
			}, hclog.NewNullLogger())
			defer r.Wait()
			defer stop()
			must(t, r.Deliver(task))
			<-first
			r.Cancel("a")
			<-ending
			must(t, r.Deliver(task))
			close(end)
			<-second
			p := &process{Runner: r, t: t}
			p.await("a", done)
		})
	}
}

func TestCancelledTaskReportsNothing(t *testing.T) {
	p := newProcess(t, obeying(t, file(t)))
	p.deliver(change("a"))
	p.expectBegun("a")
	p.Cancel("a")
	p.deliver(change("b")) // waits for the end of a
	p.expectBegun("b")
	if r := p.pending()["a"]; r != nil {
		t.Errorf("reported %v", r)
	}
}

func TestCrashInTheMiddleBeginsAgain(t *testing.T) {
	path := file(t)
	j := obeying(t, path)
	p := newProcess(t, j)
	p.deliver(change("a"))
	p.expectBegun("a")
	p.crash()
	rec, err := j.Task("a")
	must(t, err)
	if rec.GetReport().GetState() != running {
		t.Errorf("journaled %v", rec)
	}
	must(t, j.Close())
	p = newProcess(t, obeying(t, path))
	p.deliver(change("a"))
	p.expectBegun("a")
}

func TestNewerChangeCancelsTheOlderAndWaits(t *testing.T) {
	var inside atomic.Int32
	p := newProcess(t, obeying(t, file(t)))
	handle := p.Runner.handle
	p.Runner.handle = func(ctx context.Context, task *agentv1.Task, progress *Progress) (*agentv1.TaskResult, error) {
		if !tasks.Question(task) && inside.Add(1) > 1 {
			t.Error("two changes at the same time")
		}
		defer func() {
			if !tasks.Question(task) {
				inside.Add(-1)
			}
		}()
		return handle(ctx, task, progress)
	}
	p.deliver(change("a"))
	p.expectBegun("a")
	p.deliver(change("b"), change("c"))
	for {
		if id := <-p.begun; id == "c" {
			break
		}
	}
	if r := p.pending()["a"]; r.GetError().GetCode() != agentv1.TaskErrorCode_TASK_ERROR_CODE_CANCELLED {
		t.Errorf("the one that gave way reports %v", r)
	}
	p.deliver(question("q")) // runs beside
	p.expectBegun("q")
	p.finish("q", nil)
	p.await("q", done)
	p.finish("c", nil)
	p.await("c", done)
}

func TestTasksOfOthersAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*agentv1.Task){
		"older epoch":      func(task *agentv1.Task) { task.Epoch-- },
		"newer epoch":      func(task *agentv1.Task) { task.Epoch++ },
		"other controller": func(task *agentv1.Task) { task.ControllerId = "controller-b" },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, obeying(t, file(t)))
			p.deliver(change("running"))
			p.expectBegun("running")
			bad := change("a")
			spoil(bad)
			p.deliver(bad)
			if r := p.await("a", broken); r.GetError().GetCode() != agentv1.TaskErrorCode_TASK_ERROR_CODE_FENCED {
				t.Errorf("%v", r)
			}
			p.finish("running", nil)
			p.await("running", done) // it was not disturbed
			p.expectNothingBegun()
			p.deliver(change("a")) // the refusal was not the task's answer
			p.expectBegun("a")
		})
	}
}

func TestUnknownTaskDisturbsNothing(t *testing.T) {
	p := newProcess(t, obeying(t, file(t)))
	p.deliver(change("running"))
	p.expectBegun("running")
	p.deliver(&agentv1.Task{Id: "new", Epoch: epoch, ControllerId: controller})
	r := p.await("new", broken)
	if r.GetError().GetCode() != agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED || !strings.Contains(r.GetError().GetAdvice(), "upgrade") {
		t.Errorf("%v", r)
	}
	p.finish("running", nil)
	p.await("running", done)
}

func TestSessionEndsQuestionsThatAreNotWantedAnyMore(t *testing.T) {
	p := newProcess(t, obeying(t, file(t)))
	p.deliver(question("wanted"), question("forgotten"), change("change"))
	for range 3 {
		<-p.begun
	}
	p.Resume([]*agentv1.Task{question("wanted")})
	p.deliver(question("wanted"))
	p.deliver(question("forgotten")) // begun once more: it had ended
	p.expectBegun("forgotten")
	if r := p.pending(); r["change"].GetState() != running || r["wanted"].GetState() != running {
		t.Errorf("reported %v", r)
	}
	p.finish("change", nil)
	p.await("change", done)
}

func TestSessionReportsEveryAnswerThatWasNotTaken(t *testing.T) {
	p := newProcess(t, obeying(t, file(t)))
	p.deliver(question("taken"), question("lost"))
	p.finish("taken", nil)
	p.await("taken", done)
	p.finish("lost", nil)
	p.await("lost", done) // on a stream that breaks
	p.Cancel("taken")
	p.Resume(nil)
	r := p.pending()
	if len(r) != 1 || r["lost"].GetState() != done {
		t.Errorf("reported %v", r)
	}
}

func TestAnswersInMemoryAreBounded(t *testing.T) {
	p := newProcess(t, obeying(t, file(t)))
	for i := range keptReports + 20 {
		id := fmt.Sprint(i)
		p.deliver(question(id))
		p.finish(id, nil)
		p.await(id, done)
	}
	if n := len(p.known); n != keptReports || len(p.ended) != keptReports {
		t.Errorf("%d known, %d ended", n, len(p.ended))
	}
}

func TestOnlyTheNewestReportIsSent(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	end := make(chan struct{})
	r := NewRunner(ctx, obeying(t, file(t)), func(_ context.Context, _ *agentv1.Task, p *Progress) (*agentv1.TaskResult, error) {
		for i := range int64(1000) {
			p.Bytes(i, 1000)
		}
		p.Detail("waiting")
		<-end
		return nil, nil
	}, hclog.NewNullLogger())
	defer r.Wait()
	defer stop()
	must(t, r.Deliver(change("a")))
	close(end)
	p := &process{Runner: r, t: t}
	last := p.await("a", done)
	if last.GetDoneBytes() != 999 || last.GetTotalBytes() != 1000 || last.GetTicks() < 1001 {
		t.Errorf("%v", last)
	}
	if more := p.pending(); len(more) != 0 {
		t.Errorf("queued %v", more)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	p := newProcess(t, obeying(t, file(t)))
	ctx, cancel := context.WithCancelCause(t.Context())
	want := errors.New("session over")
	cancel(want)
	if _, err := p.Next(ctx); !errors.Is(err, want) {
		t.Error(err)
	}
}

func TestTaskThatCannotBeJournaledFails(t *testing.T) {
	j := obeying(t, file(t))
	p := newProcess(t, j)
	p.deliver(change("a"))
	p.expectBegun("a")
	must(t, j.Close())
	p.finish("a", nil)
	if r := p.await("a", broken); r.GetResult() != nil || !strings.Contains(r.GetError().GetMessage(), "journal") {
		t.Errorf("%v", r)
	}
}

func TestErrorsSayWhatTheyAre(t *testing.T) {
	for _, c := range []struct {
		err    error
		code   agentv1.TaskErrorCode
		advice string
	}{
		{errors.New("anything"), agentv1.TaskErrorCode_TASK_ERROR_CODE_UNSPECIFIED, ""},
		{&Refused{Message: "no", Advice: "do that"}, agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, "do that"},
		{&vault.ConflictError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, ""},
		{&datadir.LayoutError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, ""},
		{datadir.ErrSwapped, agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, ""},
		{&member.MismatchError{Reason: "other cluster"}, agentv1.TaskErrorCode_TASK_ERROR_CODE_REFUSED, ""},
		{&vault.NoSpaceError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE, ""},
		{&datadir.NoSpaceError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE, ""},
		{syscall.ENOSPC, agentv1.TaskErrorCode_TASK_ERROR_CODE_NO_SPACE, "free space"},
		{&etcdfile.CorruptError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT, ""},
		{&datadir.CorruptError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT, ""},
		{&vault.TrailerError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT, ""},
		{&vault.MismatchError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_CORRUPT, ""},
		{context.Canceled, agentv1.TaskErrorCode_TASK_ERROR_CODE_CANCELLED, ""},
		{&fencedError{}, agentv1.TaskErrorCode_TASK_ERROR_CODE_FENCED, ""},
	} {
		err := fmt.Errorf("stage: %w", errors.Join(c.err, errors.New("and closing failed")))
		e := describe(err)
		if e.GetCode() != c.code || !strings.Contains(e.GetAdvice(), c.advice) || e.GetMessage() != err.Error() {
			t.Errorf("%T: %v", c.err, e)
		}
	}
}

func TestEveryKindOfTaskHasANameAndPoints(t *testing.T) {
	fields := specs.Fields()
	if len(Points()) != 2*fields.Len() {
		t.Errorf("%d points for %d kinds", len(Points()), fields.Len())
	}
	questions := 0
	for i := range fields.Len() {
		task := new(agentv1.Task)
		m := task.ProtoReflect()
		m.Set(fields.Get(i), m.NewField(fields.Get(i)))
		kind := Kind(task)
		if kind != string(fields.Get(i).Name()) || Points()[2*i] != pointBefore(kind) || Points()[2*i+1] != pointAfter(kind) {
			t.Errorf("%s: %s, %v", fields.Get(i).Name(), kind, Points()[2*i:2*i+2])
		}
		if strings.Contains(pointBefore(kind), "_") {
			t.Errorf("%s: package fault takes no underscores", pointBefore(kind))
		}
		if tasks.Question(task) {
			questions++
		}
	}
	if questions != 11 {
		t.Errorf("%d kinds are questions; adding one, think of whether it changes anything", questions)
	}
	if Kind(new(agentv1.Task)) != "" {
		t.Error("no spec has a kind")
	}
}

// What is secret in a task is in memory for as long as it runs: neither the journal nor what is kept to answer again has it.
func TestSecretsOfATaskAreNotKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.db")
	p := newProcess(t, obeying(t, path))
	task := &agentv1.Task{Id: "upload", Epoch: epoch, ControllerId: controller, Spec: &agentv1.Task_UploadCopy{UploadCopy: &agentv1.UploadCopy{
		Remote: &agentv1.Remote{Kind: &agentv1.Remote_S3{S3: &agentv1.S3Remote{Bucket: "backups", AccessKey: "an-access-key", SecretKey: "a-secret-key", SessionToken: "a-token"}}},
	}}}
	must(t, p.Deliver(task))
	<-p.begun
	noSecret := func(when string) {
		t.Helper()
		data, err := os.ReadFile(path)
		must(t, err)
		for _, secret := range []string{"an-access-key", "a-secret-key", "a-token"} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s: %s is in the journal", when, secret)
			}
		}
		if !bytes.Contains(data, []byte("backups")) {
			t.Errorf("%s: the task is not in the journal at all", when)
		}
	}
	noSecret("running")
	p.Runner.mu.Lock()
	ended := p.known["upload"].done
	p.Runner.mu.Unlock()
	p.finish("upload", nil)
	<-ended
	noSecret("done")
	p.Runner.mu.Lock()
	kept := p.known["upload"].task
	p.Runner.mu.Unlock()
	if s3 := kept.GetUploadCopy().GetRemote().GetS3(); s3.GetBucket() != "backups" || s3.GetSecretKey() != "" {
		t.Errorf("kept: %v", kept)
	}
}
