package operation_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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
	runsFlag = flag.Int("runs", 0, "runs of the model test; 0 for as many as a few seconds allow")
)

// Random plans on random nodes, with failures, crashes, cancellations and tasks that are delivered twice,
// always end in one of two ways: everything was done everywhere, or nothing is left anywhere.
func TestModel(t *testing.T) {
	seed, enough := *seedFlag, time.Now().Add(6*time.Second)
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	ends := map[requorumv1.OperationState]int{}
	runs, crashes := 0, 0
	for ; runs < *runsFlag || *runsFlag == 0 && time.Now().Before(enough); runs++ {
		m := newModel(seed + uint64(runs))
		synctest.Test(t, func(t *testing.T) { m.run(t) })
		ends[m.end]++
		crashes += m.crashes
		if t.Failed() {
			t.Fatalf("run it again with: go test ./controller/operation -run TestModel -args -runs 1 -seed %d\n%s", seed+uint64(runs), m)
		}
	}
	t.Logf("seed %d: %d runs, %v, %d crashes", seed, runs, ends, crashes)
	for _, state := range []requorumv1.OperationState{success, undone, refused} {
		if runs >= 1000 && ends[state] < runs/100 {
			t.Errorf("only %d runs ended %v: the model does not look where it should", ends[state], state)
		}
	}
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
	cancel  string  // step during which the operation is cancelled, if any
	world   *world
	end     requorumv1.OperationState
	crashes int

	mu        sync.Mutex
	delivered map[string]int // how often each task came
	applied   map[string]int // how often each effect was applied on each node
	wrong     []string
	cancelled bool // a cancellation was accepted
}

func newModel(seed uint64) *model {
	m := &model{seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), delivered: map[string]int{}, applied: map[string]int{}}
	count := 1 + m.rng.IntN(8)
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
	for i := range 1 + m.rng.IntN(5) {
		m.nodes = append(m.nodes, string(rune('a'+i)))
	}
	m.trouble = []float64{0, 0.02, 0.1, 0.3}[m.rng.IntN(4)]
	if m.rng.IntN(5) == 0 {
		m.cancel = m.steps[m.rng.IntN(count)].name
	}
	return m
}

// run drives one operation to its end, over crashes, and checks what is left.
func (m *model) run(t *testing.T) {
	w := &world{T: t, journal: newMemory(), fleet: newFleet(m.nodes...)}
	for _, s := range m.steps {
		w.plan = append(w.plan, s.step())
	}
	w.fleet.before, w.fleet.after = m.before, m.after
	m.world = w
	rec := record("r")
	rec.Operation.Nodes = m.nodes
	for crashesLeft := m.rng.IntN(4); ; crashesLeft-- {
		cutAt := 0
		if crashesLeft > 0 {
			cutAt = 1 + m.rng.IntN(3*len(m.steps)+len(m.nodes))
		}
		w.journal.restore(cutAt, m.rng.IntN(2) == 0)
		w.start()
		op, err := w.engine.Start(rec, nil)
		if err == nil {
			op, err = w.poll(op.GetId())
		}
		w.cancel()
		died := <-w.ended
		if err == nil {
			m.judge(t, op)
			return
		}
		m.crashes++
		if !w.journal.cut() || died != nil && !errors.Is(died, errPower) {
			t.Fatalf("ended with %v, %v", err, died)
		}
		rec = record("r")
		rec.Operation.Nodes = m.nodes
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
	if t.GetStep() == m.cancel && !isUndo(t, m.cancel) {
		if _, err := m.world.engine.Cancel(t.GetOperationId()); err == nil {
			m.note(func() { m.cancelled = true })
		}
	}
	delay := time.NewTimer(time.Duration(m.chance("delay", node, t) * float64(time.Second)))
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if m.chance("before", node, t) < m.trouble {
		return errNode
	}
	m.checkOrder(node, t)
	return nil
}

func (m *model) after(_ context.Context, node string, t *agentv1.Task) error {
	if m.chance("twice", node, t) < 0.2 {
		if err := m.world.fleet.apply(node, t); err != nil {
			return err
		}
	}
	if m.chance("after", node, t) < m.trouble {
		return errNode
	}
	return nil
}

// checkOrder looks at what is there when a task is about to take effect.
func (m *model) checkOrder(node string, t *agentv1.Task) {
	f := m.world.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.IndexFunc(m.steps, func(s modelStep) bool { return s.name == t.GetStep() })
	has := func(node string, s modelStep) bool { return f.nodes[node].effects[s.name] }
	switch {
	case isDo(t, t.GetStep()):
		for _, s := range m.steps[:at] {
			for _, other := range m.nodes {
				if !s.check && !has(other, s) {
					m.object("%s is done on %s before %s was done on %s", t.GetStep(), node, s.name, other)
				}
			}
		}
		if !f.nodes[node].answered[t.GetId()] && !has(node, m.steps[at]) {
			m.apply(node, t.GetStep())
		}
	case isUndo(t, t.GetStep()):
		for _, s := range m.steps[at+1:] {
			if has(node, s) {
				m.object("%s is undone on %s before %s", t.GetStep(), node, s.name)
			}
			if s.pivot && m.begun(s) {
				m.object("%s is undone on %s after the pivot", t.GetStep(), node)
			}
		}
	}
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

func (m *model) apply(node, step string) {
	m.note(func() { m.applied[node+" "+step]++ })
	if m.applied[node+" "+step] > 1 {
		m.object("%s was applied again on %s", step, node)
	}
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
	if m.cancelled && op.GetPastPivot() {
		t.Error("the cancellation was accepted, and the pivot begun")
	}
	if op.GetPastPivot() && m.end != success {
		t.Errorf("past the pivot, and %v", m.end)
	}
	for _, wrong := range m.wrong {
		t.Error(wrong)
	}
}

func (m *model) String() string {
	return fmt.Sprintf("nodes %v, steps %+v, trouble %v, cancel %q\nevents %q", m.nodes, m.steps, m.trouble, m.cancel, m.world.fleet.events)
}
