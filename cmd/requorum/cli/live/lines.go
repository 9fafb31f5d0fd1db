package live

import (
	"fmt"
	"io"
	"strings"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

// progressEvery is the least time between two lines of progress, and silentEvery between two that tell of the
// controller's silence.
const (
	progressEvery = 5 * time.Second
	silentEvery   = time.Minute
)

// Lines shows an operation as plain lines, for logs: one for each change of a step's state and for each
// failure on a node, and while bytes move one with the progress of all nodes every few seconds.
type Lines struct {
	out  io.Writer
	now  func() time.Time
	seen map[string]string // state last written, by step or step and node
	rate rates
	op   *requorumv1.Operation
	last time.Time // when progress was last written
	lost time.Time // when sight of the operation was lost; zero while it is seen
}

// NewLines returns a view that writes to out.
func NewLines(out io.Writer, now func() time.Time) *Lines {
	return &Lines{out: out, now: now, seen: make(map[string]string), rate: make(rates), last: now()}
}

// Event writes what changed.
func (l *Lines) Event(op *requorumv1.Operation, _ *requorumv1.WatchOperationResponse) {
	if l.op == nil {
		l.write("%s: operation %s", Title(op), op.GetId())
	}
	if !l.lost.IsZero() {
		l.lost = time.Time{}
		l.write("the controller answers again")
	}
	l.op = op
	for _, step := range op.GetSteps() {
		l.begun(step)
		for _, task := range step.GetTasks() {
			l.rate.note(task, l.now())
			l.task(step, task)
		}
		l.step(step)
	}
	if op.GetCancelRequested() && l.changed("cancel", "yes") {
		l.write("cancellation was asked for")
	}
}

// begun comes before the step's tasks, and step after them, so that the lines read in order.
func (l *Lines) begun(step *requorumv1.Step) {
	state := step.GetState()
	if !running(state) || !l.changed(step.GetName(), fmt.Sprint(state, step.GetAttempt())) {
		return
	}
	if step.GetAttempt() > 1 && state == requorumv1.StepState_STEP_STATE_DOING {
		l.write("%s: begun again, attempt %d", step.GetName(), step.GetAttempt())
		return
	}
	l.write("%s: %s", step.GetName(), StepState(state))
}

func (l *Lines) step(step *requorumv1.Step) {
	state := step.GetState()
	if running(state) || state == requorumv1.StepState_STEP_STATE_PENDING || !l.changed(step.GetName(), fmt.Sprint(state, step.GetAttempt())) {
		return
	}
	took := ""
	if step.GetEnded() != nil && step.GetStarted() != nil {
		took = " in " + output.Took(step.GetEnded().AsTime().Sub(step.GetStarted().AsTime()))
	}
	l.write("%s: %s%s", step.GetName(), StepState(state), took)
}

// task writes what went wrong on a node, and what was undone there. That a node has begun or done its
// part follows from the step's lines, and how far it is from those of the progress.
func (l *Lines) task(step *requorumv1.Step, task *requorumv1.TaskProgress) {
	state := task.GetState()
	key := step.GetName() + "\x00" + task.GetNode()
	if !l.changed(key, fmt.Sprint(state, step.GetAttempt())) {
		return
	}
	if state != requorumv1.StepState_STEP_STATE_FAILED && state != requorumv1.StepState_STEP_STATE_UNDONE {
		return
	}
	detail := ""
	if task.GetDetail() != "" {
		detail = " (" + output.Brief(task.GetDetail()) + ")"
	}
	l.write("%s: %s %s%s", step.GetName(), where(task), StepState(state), detail)
}

// Tick writes the progress of the running step when it is time. Of an operation out of sight it knows none.
func (l *Lines) Tick() {
	if !l.lost.IsZero() {
		l.silent()
		return
	}
	if l.op == nil || l.now().Sub(l.last) < progressEvery {
		return
	}
	l.last = l.now()
	for _, step := range l.op.GetSteps() {
		if progress := l.progress(step); running(step.GetState()) && progress != "" && l.changed("progress", progress) {
			l.write("%s: %s", step.GetName(), progress)
		}
	}
}

func (l *Lines) progress(step *requorumv1.Step) string {
	var parts []string
	for _, task := range step.GetTasks() {
		if !running(task.GetState()) {
			continue
		}
		var told []string
		if moved := l.moved(task); moved != "" {
			told = append(told, moved)
		}
		if detail := task.GetDetail(); detail != "" {
			told = append(told, output.Brief(detail))
		}
		if len(told) > 0 {
			parts = append(parts, where(task)+" "+strings.Join(told, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// moved tells how many bytes a task has moved, and how fast; nothing where it moves none.
func (l *Lines) moved(task *requorumv1.TaskProgress) string {
	if task.GetTotalBytes() == 0 {
		return ""
	}
	text := fmt.Sprintf("%d%% (%s", percent(task), output.Of(task.GetDoneBytes(), task.GetTotalBytes()))
	if rate := l.rate.of(task, l.now()); rate > 0 {
		text += ", " + output.Bytes(rate) + "/s"
	}
	return text + ")"
}

// Lost says that the stream broke, once until it is back.
func (l *Lines) Lost(err error) {
	if l.lost.IsZero() {
		l.lost, l.last = l.now(), l.now()
		l.write("lost sight of the operation (%v); it goes on, or waits for the controller to be started; trying again", output.Brief(err.Error()))
	}
}

func (l *Lines) silent() {
	if l.now().Sub(l.last) < silentEvery {
		return
	}
	l.last = l.now()
	l.write("the controller has not answered for %s; see whether it runs; trying again", output.Took(l.now().Sub(l.lost)))
}

// Close has nothing to do.
func (l *Lines) Close() {}

func (l *Lines) changed(key, state string) bool {
	if l.seen[key] == state {
		return false
	}
	l.seen[key] = state
	return true
}

// write cannot report an error: an operation is followed to its end even if nobody reads.
func (l *Lines) write(format string, args ...any) {
	_, _ = fmt.Fprintf(l.out, "%s %s\n", l.now().Format(time.TimeOnly), output.Clean(fmt.Sprintf(format, args...)))
}

func where(task *requorumv1.TaskProgress) string {
	if task.GetNode() == "" {
		return "controller"
	}
	return task.GetNode()
}

func percent(task *requorumv1.TaskProgress) int64 {
	if task.GetTotalBytes() <= 0 {
		return 0
	}
	return min(100, int64(float64(task.GetDoneBytes())/float64(task.GetTotalBytes())*100))
}
