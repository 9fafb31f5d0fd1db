package live

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// story is a restore as a controller tells it, with a clock that only the story moves.
type story struct {
	now  time.Time
	op   *requorumv1.Operation
	view View
	told func(title string)
}

var steps = []string{"preflight", "fetch", "distribute", "agree", "stage", "safety", "stop", "swap", "start", "verify", "open", "finish"}

func newStory() *story {
	s := &story{now: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)}
	s.op = &requorumv1.Operation{
		Id: "01JB2M3N4P5Q6R7S8T9V0W1X2Y", Kind: requorumv1.OperationKind_OPERATION_KIND_RESTORE, Cluster: "prod", Snapshot: "pre-1.31",
		State: requorumv1.OperationState_OPERATION_STATE_RUNNING, Phase: requorumv1.Phase_PHASE_STARTED, Created: timestamppb.New(s.now),
	}
	for _, name := range steps {
		s.op.Steps = append(s.op.Steps, &requorumv1.Step{Name: name, State: requorumv1.StepState_STEP_STATE_PENDING, Pivot: name == "open"})
	}
	return s
}

func (s *story) step(name string) *requorumv1.Step {
	for _, step := range s.op.GetSteps() {
		if step.GetName() == name {
			return step
		}
	}
	return nil
}

// set changes a step, and its tasks with it where nodes are named.
func (s *story) set(name string, state requorumv1.StepState, nodes ...string) {
	step := s.step(name)
	step.State = state
	if state == requorumv1.StepState_STEP_STATE_DOING {
		step.Started, step.Ended = timestamppb.New(s.now), nil
		step.Attempt++
	} else if !running(state) {
		step.Ended = timestamppb.New(s.now)
	}
	for _, node := range nodes {
		merge(s.op, &requorumv1.TaskProgress{Step: name, Node: node, State: state})
	}
	s.event(whole(s.op))
}

func (s *story) progress(step, node string, state requorumv1.StepState, done, total int64, detail string) {
	p := &requorumv1.TaskProgress{Step: step, Node: node, State: state, DoneBytes: done, TotalBytes: total, Detail: detail}
	merge(s.op, p)
	s.event(&requorumv1.WatchOperationResponse{Event: &requorumv1.WatchOperationResponse_Progress{Progress: p}})
}

func whole(op *requorumv1.Operation) *requorumv1.WatchOperationResponse {
	return &requorumv1.WatchOperationResponse{Event: &requorumv1.WatchOperationResponse_Operation{Operation: op}}
}

func (s *story) event(e *requorumv1.WatchOperationResponse) { s.view.Event(s.op, e) }

func (s *story) after(d time.Duration) {
	s.now = s.now.Add(d)
	s.view.Tick()
}

const (
	mib  = 1 << 20
	size = 1229 * mib

	doing   = requorumv1.StepState_STEP_STATE_DOING
	done    = requorumv1.StepState_STEP_STATE_DONE
	failed  = requorumv1.StepState_STEP_STATE_FAILED
	undoing = requorumv1.StepState_STEP_STATE_UNDOING
	undone  = requorumv1.StepState_STEP_STATE_UNDONE
)

// tell goes from the beginning through a transfer, a lost connection and a failure to the end of the revert.
func (s *story) tell() {
	nodes := []string{"etcd-1", "etcd-2", "etcd-3"}
	s.set("preflight", doing, nodes...)
	s.told("the first check runs")
	s.after(1200 * time.Millisecond)
	s.set("preflight", done, nodes...)
	for _, name := range []string{"fetch", "distribute", "agree"} {
		s.set(name, doing)
		s.after(300 * time.Millisecond)
		s.set(name, done)
	}
	s.set("stage", doing)
	s.progress("stage", "etcd-3", doing, 0, 0, "measuring") // the first to answer, shown last all the same
	s.progress("stage", "etcd-1", doing, 0, size, "restoring")
	s.progress("stage", "etcd-2", doing, 0, size, "restoring")
	for i := range int64(6) {
		s.after(time.Second)
		s.progress("stage", "etcd-1", doing, 200*mib*(i+1), size, "restoring")
		s.progress("stage", "etcd-2", doing, 161*mib*(i+1), size, "restoring")
	}
	s.after(0)
	s.told("data is staged")
	s.progress("stage", "etcd-1", done, size, size, "")
	s.view.Lost(errors.New("the controller is stopping"))
	s.after(time.Second)
	s.told("the controller restarts")
	s.op.CancelRequested = true
	s.step("stage").Attempt = 2
	s.op.Warnings = []string{"the snapshot is 80 h old"}
	s.event(whole(s.op))
	s.after(time.Second)
	s.told("it is back, and somebody cancelled")
	s.progress("stage", "etcd-2", failed, 966*mib, size, "no space left on device")
	s.step("stage").Tasks[0].State = undone
	s.set("stage", failed)
	s.after(0)
	s.told("staging failed on a node")
	s.op.State, s.op.Phase = requorumv1.OperationState_OPERATION_STATE_REVERTING, requorumv1.Phase_PHASE_REVERTING
	s.set("stage", undoing, nodes...)
	s.after(time.Second)
	s.told("it is put back")
	s.op.State, s.op.Phase = requorumv1.OperationState_OPERATION_STATE_REVERTED, requorumv1.Phase_PHASE_REVERTED
	s.op.Ended = timestamppb.New(s.now)
	s.set("stage", undone, nodes...)
	s.view.Close()
	s.told("the end")
}

func goldenFile(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got\n%s", path, got)
	}
}

func TestScreenShowsTheStory(t *testing.T) {
	for name, c := range map[string]struct {
		columns, rows int
		color, ascii  bool
	}{
		"screen-80x24":  {80, 24, false, false},
		"screen-50x10":  {50, 10, false, false},
		"screen-ascii":  {80, 24, false, true},
		"screen-color":  {80, 24, true, false},
		"screen-160x50": {160, 50, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var out, shown bytes.Buffer
			s := newStory()
			terminal := &emulator{columns: c.columns}
			s.view = NewScreen(&out, Terminal{Size: func() (int, int) { return c.columns, c.rows }, Color: c.color, ASCII: c.ascii}, func() time.Time { return s.now })
			s.told = func(title string) {
				terminal.write(t, out.String())
				out.Reset()
				fmt.Fprintf(&shown, "--- %s\n%s\n", title, strings.ReplaceAll(terminal.String(), "\x1b", "^["))
			}
			s.tell()
			goldenFile(t, name, shown.String())
			if c.rows < len(terminal.lines) {
				t.Errorf("%d lines on a screen of %d rows", len(terminal.lines), c.rows)
			}
			if c.ascii {
				if i := strings.IndexFunc(shown.String(), func(r rune) bool { return r > 127 && r != '\u202f' }); i >= 0 {
					t.Errorf("not ASCII: %q", shown.String()[i:i+10])
				}
			}
		})
	}
}

func TestLinesTellTheStory(t *testing.T) {
	var out bytes.Buffer
	s := newStory()
	s.view = NewLines(&out, func() time.Time { return s.now })
	s.told = func(string) {}
	s.tell()
	goldenFile(t, "lines", out.String())
}

// emulator is a terminal that knows the sequences a Screen writes, so that what is compared is what a
// person sees after all redrawing.
type emulator struct {
	columns int
	lines   []string
	row     int
}

var sequence = regexp.MustCompile(`^\x1b\[(\d*)([AJKm])`)

func (e *emulator) write(t *testing.T, text string) {
	t.Helper()
	for len(text) > 0 {
		for e.row >= len(e.lines) {
			e.lines = append(e.lines, "")
		}
		switch m := sequence.FindStringSubmatch(text); {
		case m != nil && m[2] == "m":
			e.lines[e.row] += m[0]
			text = text[len(m[0]):]
		case m != nil:
			n, _ := strconv.Atoi(m[1])
			switch m[2] {
			case "A":
				if e.row -= n; e.row < 0 {
					t.Fatal("the cursor went above the first line")
				}
			case "J":
				e.lines = e.lines[:e.row]
			}
			text = text[len(m[0]):]
		case text[0] == '\r':
			// Every line is written in full and what was behind it is erased.
			e.lines[e.row] = ""
			text = text[1:]
		case text[0] == '\n':
			e.row++
			text = text[1:]
		default:
			r := []rune(text)[0]
			e.lines[e.row] += string(r)
			if visible := len([]rune(regexp.MustCompile(`\x1b\[\d*m`).ReplaceAllString(e.lines[e.row], ""))); visible >= e.columns {
				t.Fatalf("a line reaches the last column: %q", e.lines[e.row])
			}
			text = text[len(string(r)):]
		}
	}
}

func (e *emulator) String() string { return strings.Join(e.lines, "\n") }

func TestANarrowedTerminalIsRedrawnFromTheTop(t *testing.T) {
	var out bytes.Buffer
	columns := 80
	s := newStory()
	screen := NewScreen(&out, Terminal{Size: func() (int, int) { return columns, 24 }}, func() time.Time { return s.now })
	s.view = screen
	s.set("preflight", doing, "etcd-1")
	rows := 0
	for _, width := range screen.drawn {
		rows += (width + 39) / 40
	}
	columns = 40
	out.Reset()
	s.after(time.Second)
	if want := fmt.Sprintf("\x1b[%dA", rows); !strings.HasPrefix(out.String(), want) {
		t.Errorf("got %q, want %q first", out.String()[:10], want)
	}
}

func TestControlCharactersDoNotReachTheTerminal(t *testing.T) {
	var out bytes.Buffer
	s := newStory()
	s.op.Snapshot, s.op.Id = "a\x1b[2Jb", "\x07id"
	s.view = NewScreen(&out, Terminal{Size: func() (int, int) { return 80, 24 }}, func() time.Time { return s.now })
	s.set("preflight", doing, "no\x1bde")
	s.progress("preflight", "no\x1bde", doing, 1, 2, "de\x1btail")
	s.after(time.Second)
	if m := regexp.MustCompile(`\x1b(\[\d*[^AKJm\d]|[^\[])|\x1b\[2J|\x07`).FindString(out.String()); m != "" {
		t.Errorf("%q", m)
	}
}

func TestALogIsCutToItsFirstLine(t *testing.T) {
	clock := newStory()
	now := func() time.Time { return clock.now }
	for name, view := range map[string]func(*bytes.Buffer) View{
		"lines": func(out *bytes.Buffer) View { return NewLines(out, now) },
		"screen": func(out *bytes.Buffer) View {
			return NewScreen(out, Terminal{Size: func() (int, int) { return 400, 24 }}, now)
		},
	} {
		var out bytes.Buffer
		s := newStory()
		s.view = view(&out)
		s.set("start", doing, "etcd-2")
		s.progress("start", "etcd-2", requorumv1.StepState_STEP_STATE_FAILED, 0, 0, "etcd has ended; its last lines:\n{\"msg\":\"1\"}\n{\"msg\":\"2\"}")
		s.after(time.Second)
		if !strings.Contains(out.String(), "its last lines: …") || strings.Contains(out.String(), "msg") {
			t.Errorf("%s: %s", name, out.String())
		}
	}
}

func TestRateIsThatOfTheLastSeconds(t *testing.T) {
	at := time.Unix(0, 0)
	r := make(rates)
	task := func(done int64) *requorumv1.TaskProgress {
		return &requorumv1.TaskProgress{Step: "s", Node: "n", DoneBytes: done, TotalBytes: 1000 * mib}
	}
	r.note(task(0), at)
	if got := r.of(task(0), at); got != 0 {
		t.Error("a rate from one sample", got)
	}
	moved := int64(0)
	for range 10 {
		at, moved = at.Add(time.Second), moved+100*mib
		r.note(task(moved), at)
	}
	if got := r.of(task(moved), at); got != 100*mib {
		t.Error(got)
	}
	for range 10 {
		at, moved = at.Add(time.Second), moved+10*mib
		r.note(task(moved), at)
	}
	if got := r.of(task(moved), at); got != 10*mib {
		t.Error("the fast beginning still counts", got)
	}
	if got := r.of(task(moved), at.Add(20*time.Second)); got >= 10*mib {
		t.Error("silence does not slow it down", got)
	}
	r.note(task(1*mib), at)
	if got := r.of(task(1*mib), at); got != 0 {
		t.Error("beginning anew does not reset it", got)
	}
}

// Of an operation out of sight nothing is known: what was last heard is no progress.
func TestLinesOfAnOperationOutOfSight(t *testing.T) {
	var out bytes.Buffer
	s := newStory()
	s.told = func(string) {}
	s.view = NewLines(&out, func() time.Time { return s.now })
	s.set("stage", doing)
	for i := range int64(3) {
		s.progress("stage", "etcd-1", doing, 100*mib*i, size, "restoring")
		s.after(time.Second)
	}
	out.Reset()
	s.view.Lost(errors.New("connection refused"))
	for range 121 {
		s.after(time.Second)
	}
	want := `12:00:03 lost sight of the operation (connection refused); it goes on, or waits for the controller to be started; trying again
12:01:03 the controller has not answered for 1m00s; see whether it runs; trying again
12:02:03 the controller has not answered for 2m00s; see whether it runs; trying again
`
	if out.String() != want {
		t.Errorf("got:\n%s", &out)
	}
}
