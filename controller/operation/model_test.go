package operation_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/internal/tasks"
)

var (
	seedFlag = flag.Uint64("seed", 0, "first seed of the model test; 0 for one of its own")
	runsFlag = flag.Int("runs", modelRuns, "runs of the model test")
)

// Random plans on random nodes, with failures, lost results, tasks delivered twice, crashes, journals that cannot be written
// and cancellations at any moment, always end in one of two ways: everything was done everywhere, or nothing is left anywhere.
func TestModel(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	var total counts
	t.Run("runs", func(t *testing.T) {
		var next atomic.Int64
		for worker := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(worker), func(t *testing.T) {
				t.Parallel()
				for n := int(next.Add(1)); n <= *runsFlag && !t.Failed(); n = int(next.Add(1)) {
					total.add(runModel(t, seed+uint64(n)-1))
				}
			})
		}
	})
	t.Logf("seed %d: %s", seed, &total)
	for _, state := range []requorumv1.OperationState{success, undone, refused} {
		if total.runs >= 1000 && total.ends[state] < total.runs/100 {
			t.Errorf("only %d runs ended %v: the model does not look where it should", total.ends[state], state)
		}
	}
}

func runModel(t *testing.T, seed uint64) *model {
	t.Helper()
	m := newModel(seed)
	synctest.Test(t, func(t *testing.T) { m.run(t) })
	if t.Failed() {
		t.Logf("run it again with: go test ./controller/operation -run TestModel -args -runs 1 -seed %d\n%s", seed, m)
	}
	return m
}

// counts is what happened in all runs.
type counts struct {
	mu                                                                sync.Mutex
	runs, crashes, unwritten, twice, lost, failures, asked, cancelled int
	ends                                                              map[requorumv1.OperationState]int
}

func (c *counts) add(m *model) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs++
	c.crashes += m.crashes
	c.unwritten += m.unwritten
	c.twice += m.twice
	c.lost += m.lost
	c.failures += m.failures
	c.asked += m.asked
	if m.cancelled {
		c.cancelled++
	}
	if c.ends == nil {
		c.ends = map[requorumv1.OperationState]int{}
	}
	c.ends[m.end]++
}

func (c *counts) String() string {
	return fmt.Sprintf("%d runs %v; %d crashes, %d writes failed alone, %d tasks delivered twice, %d results lost, %d tasks failed, %d cancellations of which %d were accepted",
		c.runs, c.ends, c.crashes, c.unwritten, c.twice, c.lost, c.failures, c.asked, c.cancelled)
}

// modelStep is what the model knows of a step.
type modelStep struct {
	name               string
	undo, pivot, check bool
}

func (s modelStep) step() operation.Step {
	switch {
	case s.check:
		return check(s.name)
	case s.pivot:
		return pivot(s.name)
	case s.undo:
		return effect(s.name)
	}
	return lasting(s.name)
}

type model struct {
	seed    uint64
	rng     *rand.Rand
	steps   []modelStep
	nodes   []string
	trouble float64 // how likely a task is to fail
	world   *world
	end     requorumv1.OperationState

	cancelIn      string        // step during which the operation is cancelled, if any
	cancelAt      int           // write of the journal beside which it is, counted over all crashes; 0 for none
	cancelAfter   time.Duration // time after which it is; 0 for none
	writes        int
	cancellations sync.WaitGroup

	mu        sync.Mutex
	engine    *operation.Engine          // of the controller that runs
	delivered map[string]int             // how often each task came
	applied   map[string]map[string]bool // IDs of the tasks that did a step on a node
	failedIn  map[string]int             // how often a node failed in a step
	answered  map[string]bool            // "node step": it has said that the step is done
	wrong     []string
	cancelled bool // a cancellation was accepted

	crashes, unwritten, twice, lost, failures, asked int
}

func newModel(seed uint64) *model {
	m := &model{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), delivered: map[string]int{}, applied: map[string]map[string]bool{},
		failedIn: map[string]int{}, answered: map[string]bool{},
	}
	count := 1 + m.rng.IntN(6)
	pivotAt := m.rng.IntN(2 * count) // half of the plans have none
	for i := range count {
		s := modelStep{name: fmt.Sprintf("s%d", i)}
		switch {
		case i == pivotAt:
			s.pivot = true
		case i < pivotAt && m.rng.IntN(3) == 0:
			s.check = true
		case i < pivotAt:
			s.undo = true
		}
		m.steps = append(m.steps, s)
	}
	for i := range 1 + m.rng.IntN(3) {
		m.nodes = append(m.nodes, string(rune('a'+i)))
	}
	m.trouble = []float64{0, 0.02, 0.1, 0.3}[m.rng.IntN(4)]
	switch m.rng.IntN(8) {
	case 0:
		m.cancelIn = m.steps[m.rng.IntN(count)].name
	case 1:
		m.cancelAt = 1 + m.rng.IntN(3*count)
	case 2:
		m.cancelAfter = time.Duration(m.rng.Int64N(int64(count) * int64(time.Second)))
	}
	return m
}

// run drives one operation to its end, over crashes, and checks what is left.
func (m *model) run(t *testing.T) {
	w := &world{T: t, journal: newMemory(), fleet: newFleet(m.nodes...)}
	for _, s := range m.steps {
		w.plan = append(w.plan, s.step())
	}
	w.fleet.before, w.fleet.after, w.journal.onUpdate = m.before, m.after, m.written
	m.world = w
	if m.cancelAfter > 0 {
		m.cancellations.Go(func() { pass(m.cancelAfter); m.cancel() })
	}
	for troubles := m.rng.IntN(4); ; troubles-- {
		op, err := m.live(troubles > 0)
		if err == nil {
			m.cancellations.Wait()
			m.judge(t, op)
			return
		}
		if !w.journal.hasFailed() {
			t.Fatalf("ended with %v", err)
		}
	}
}

// live is the life of one controller: until the operation has ended, or its journal cannot be written.
func (m *model) live(troubled bool) (*requorumv1.Operation, error) {
	w := m.world
	m.spoilJournal(troubled)
	w.start()
	m.note(func() { m.engine = w.engine })
	rec := record("r")
	rec.Operation.Nodes = m.nodes
	op, err := w.engine.Start(rec, nil)
	if err == nil {
		op, err = w.poll(op.GetId())
	}
	w.cancel()
	m.countTrouble()
	if died := <-w.ended; died != nil && !errors.Is(died, errPower) {
		return nil, died
	}
	return op, err
}

// spoilJournal makes the power go at some write, with it or before it, or makes one write fail alone.
func (m *model) spoilJournal(troubled bool) {
	j := m.world.journal
	if j.restore(0, false); !troubled {
		return
	}
	at := 1 + m.rng.IntN(3*len(m.steps)+len(m.nodes))
	if m.rng.IntN(4) == 0 {
		j.failOnce(at)
		return
	}
	j.restore(at, m.rng.IntN(2) == 0)
}

func (m *model) countTrouble() {
	switch j := m.world.journal; {
	case j.cut():
		m.crashes++
	case j.hasFailed():
		m.unwritten++
	}
}

// written is called at each write of the journal.
func (m *model) written(int) {
	if m.writes++; m.writes == m.cancelAt {
		m.cancellations.Go(m.cancel) // it waits for the write, and comes before the next one or after it
		if m.rng.IntN(8) == 0 {
			letOthersWait()
		}
	}
}

// cancel asks to cancel whatever runs. No controller may be there to hear it.
func (m *model) cancel() {
	m.mu.Lock()
	engine := m.engine
	m.asked++
	m.mu.Unlock()
	if engine == nil {
		return
	}
	ops, err := engine.List("", 1)
	if err != nil || len(ops) == 0 {
		return
	}
	m.hear(engine.Cancel(ops[0].GetId()))
}

// hear notes what a cancellation was answered.
func (m *model) hear(op *requorumv1.Operation, err error) {
	if err == nil && op.GetCancelRequested() {
		m.note(func() { m.cancelled = true })
	}
}

// poll returns the operation once it has ended. Watching it would take most of the time of a run.
func (w *world) poll(id string) (*requorumv1.Operation, error) {
	for {
		op, err := w.engine.Get(id)
		switch {
		case err != nil || op.GetEnded() != nil:
			return op, err
		case len(w.ended) > 0:
			return nil, operation.ErrNotDriving
		}
		pass(time.Minute)
	}
}

// chance is the same for the same task, however often the model is run with its seed.
func (m *model) chance(what, node string, t *agentv1.Task) float64 {
	_, place, _ := strings.Cut(t.GetId(), "/")
	if tasks.Question(t) {
		place = fmt.Sprintf("%s/%d", t.GetStep(), t.GetAttempt())
	}
	key := what + node + place
	m.mu.Lock()
	m.delivered[key]++
	n := m.delivered[key]
	m.mu.Unlock()
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", key, n)
	return rand.New(rand.NewPCG(m.seed, h.Sum64())).Float64()
}

func (m *model) before(ctx context.Context, node string, t *agentv1.Task) error {
	if t.GetStep() == m.cancelIn && !isUndo(t, m.cancelIn) {
		m.note(func() { m.asked++ })
		m.hear(m.world.engine.Cancel(t.GetOperationId()))
	}
	delay := time.NewTimer(time.Duration(m.chance("delay", node, t) * float64(time.Second)))
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-ctx.Done(): // nobody hears the answer any more; the node may do the task all the same
		return errors.Join(context.Cause(ctx), m.unheard(node, t))
	}
	if m.chance("before", node, t) < m.trouble {
		m.fail(t, &m.failures)
		return errNode
	}
	m.checkOrder(node, t)
	return nil
}

func (m *model) unheard(node string, t *agentv1.Task) error {
	if m.chance("unheard", node, t) < 0.5 {
		return nil
	}
	m.note(func() { m.lost++ })
	m.checkOrder(node, t)
	return m.world.fleet.apply(node, t)
}

func (m *model) after(_ context.Context, node string, t *agentv1.Task) error {
	if m.chance("twice", node, t) < 0.2 {
		m.note(func() { m.twice++ })
		if err := m.world.fleet.apply(node, t); err != nil {
			return err
		}
	}
	if m.chance("after", node, t) < m.trouble {
		m.fail(t, &m.lost)
		return errNode
	}
	if !isUndo(t, t.GetStep()) {
		m.note(func() { m.answered[node+" "+t.GetStep()] = true })
	}
	return nil
}

// fail notes that a task has failed: nobody may count on what its step has answered so far.
func (m *model) fail(t *agentv1.Task, count *int) {
	m.note(func() {
		*count++
		m.failedIn[t.GetStep()]++
		for _, node := range m.nodes {
			delete(m.answered, node+" "+t.GetStep())
		}
	})
}

// checkOrder looks at what is there when a task is about to take effect.
func (m *model) checkOrder(node string, t *agentv1.Task) {
	f := m.world.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.IndexFunc(m.steps, func(s modelStep) bool { return s.name == t.GetStep() })
	if isUndo(t, t.GetStep()) {
		m.checkUndo(node, at)
		return
	}
	for _, s := range m.steps[:at] {
		for _, other := range m.nodes {
			if !m.hasAnswered(other, s) {
				m.object("%s is done on %s before %s has answered that %s is done", t.GetStep(), node, other, s.name)
			}
		}
	}
	if isDo(t, t.GetStep()) {
		m.apply(node, t)
	}
}

func (m *model) checkUndo(node string, at int) {
	for _, s := range m.steps[at+1:] {
		if m.world.fleet.nodes[node].effects[s.name] {
			m.object("%s is undone on %s before %s", m.steps[at].name, node, s.name)
		}
		if s.pivot && m.begun(s) {
			m.object("%s is undone on %s after the pivot", m.steps[at].name, node)
		}
	}
}

func (m *model) hasAnswered(node string, s modelStep) (known bool) {
	m.note(func() { known = m.answered[node+" "+s.name] })
	return known
}

func (m *model) begun(s modelStep) bool {
	return slices.ContainsFunc(m.world.fleet.events, func(e string) bool { return strings.HasPrefix(e, "do "+s.name+" ") })
}

func (m *model) note(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *model) object(format string, args ...any) {
	m.note(func() { m.wrong = append(m.wrong, fmt.Sprintf(format, args...)) })
}

// apply notes that a task does a step. A node must know a task again that it may have done: only after a failure that the
// controller was told of may it come under another ID.
func (m *model) apply(node string, t *agentv1.Task) {
	m.note(func() {
		key := node + " " + t.GetStep()
		if m.applied[key] == nil {
			m.applied[key] = map[string]bool{}
		}
		m.applied[key][t.GetId()] = true
		if len(m.applied[key]) > 1+m.failedIn[t.GetStep()] {
			m.wrong = append(m.wrong, fmt.Sprintf("%s is done on %s under another ID: %s", t.GetStep(), node, t.GetId()))
		}
	})
}

// judge is the model: everything everywhere, or nothing anywhere.
func (m *model) judge(t *testing.T, op *requorumv1.Operation) {
	m.end = op.GetState()
	var all []string
	for _, node := range m.nodes {
		for _, s := range m.steps {
			if !s.check {
				all = append(all, node+":"+s.name)
			}
		}
	}
	slices.Sort(all)
	want := map[requorumv1.OperationState]string{success: strings.Join(all, " "), undone: "", refused: ""}
	left, known := want[m.end]
	if got := m.world.fleet.left(); !known || got != left {
		t.Errorf("%v with %q left, want %q", m.end, got, left)
	}
	if m.cancelled && (op.GetPastPivot() || m.end == success) {
		t.Error("the cancellation was accepted, and nothing was put back")
	}
	if op.GetPastPivot() && m.end != success {
		t.Errorf("past the pivot, and %v", m.end)
	}
	for _, wrong := range m.wrong {
		t.Error(wrong)
	}
}

func (m *model) String() string {
	return fmt.Sprintf("nodes %v, steps %+v, trouble %v, cancelled in %q, at write %d, after %s\nevents %q",
		m.nodes, m.steps, m.trouble, m.cancelIn, m.cancelAt, m.cancelAfter, m.world.fleet.events)
}
