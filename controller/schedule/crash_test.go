package schedule

import (
	"errors"
	"sync"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

var errDown = errors.New("the controller is down")

// dying is a store that takes so many more writes. After them it takes none, as if the process had died.
type dying struct {
	store.Store
	mu   sync.Mutex
	left int
	died bool
}

func (s *dying) Update(f func(store.Tx) error) error {
	s.mu.Lock()
	if s.left--; s.left < 0 {
		s.died = true
		s.mu.Unlock()
		return errDown
	}
	s.mu.Unlock()
	return s.Store.Update(f)
}

// atAnyWrite has a controller die at its first write after prepare, at its second, and so on until it survives, and another
// one take its place. Each lives for a time. judge is told how many writes there were.
func atAnyWrite(t *testing.T, least int, prepare func(*desk), dies, lives time.Duration, judge func(d *desk, n int, survived bool)) {
	t.Helper()
	for n := 0; ; n++ {
		survived := false
		atDesk(t, func(d *desk) {
			prepare(d)
			if err := d.stop(); err != nil {
				t.Fatal(err)
			}
			mortal := &dying{Store: d.db, left: n}
			d.start(mortal)
			d.pass(dies)
			err := d.stop()
			if survived = !mortal.died; survived && err != nil || !survived && !errors.Is(err, errDown) {
				t.Fatalf("after %d writes: %v", n, err)
			}
			d.start(d.db)
			d.pass(lives)
			judge(d, n, survived)
		})
		if survived || t.Failed() {
			if n < least {
				t.Errorf("only %d writes were tried", n)
			}
			return
		}
	}
}

// Whichever write a controller dies at, the next one ends with the runs and snapshots that there would have been.
func TestACrashAtAnyWriteNeitherDoublesNorLosesARun(t *testing.T) {
	prepare := func(d *desk) {
		d.apply(&requorumv1.Schedule{Cron: "* * * * *", LocalStorage: &requorumv1.Retention{Last: 2}})
	}
	atAnyWrite(t, 20, prepare, 3*time.Minute+30*time.Second, 2*time.Minute, consistent)
}

// consistent makes sure that every due time has one run that stands for it, and every snapshot is of one run.
func consistent(d *desk, n int, survived bool) {
	d.Helper()
	runs, err := d.Runs("", "", 1000)
	if err != nil {
		d.Fatal(err)
	}
	covered, snapshots := uint32(0), map[string]bool{}
	for _, r := range runs {
		covered += 1 + r.GetMissed()
		if r.GetResult() != succeeded || snapshots[r.GetSnapshot()] {
			d.Errorf("after %d writes, run %v", n, r)
		}
		snapshots[r.GetSnapshot()] = true
		if survived && r.GetMissed() > 0 {
			d.Errorf("without a crash, run %v", r)
		}
	}
	if covered != 5 {
		d.Errorf("after %d writes, %d minutes have runs, want 5\n%s", n, covered, d.history())
	}
	saves := 0
	ops, err := d.engine.List("prod", 1000)
	if err != nil {
		d.Fatal(err)
	}
	for _, op := range ops {
		if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_SAVE {
			saves++
		}
	}
	if saves != len(runs) {
		d.Errorf("after %d writes, %d runs made %d saves", n, len(runs), saves)
	}
	if kept := d.ready("prod"); len(kept) != min(2, len(runs)) || kept[0].GetName() != runs[0].GetSnapshot() {
		d.Errorf("after %d writes, %d snapshots are kept, want 2", n, len(kept))
	}
}

// Whichever write a controller dies at, a drill that is due is done, and done once.
func TestACrashAtAnyWriteNeitherDoublesNorLosesADrill(t *testing.T) {
	prepare := func(d *desk) { d.apply(drilling(&requorumv1.Drill{After: 1})) }
	atAnyWrite(t, 10, prepare, 10*time.Minute, 10*time.Minute, func(d *desk, n int, _ bool) {
		runs, err := d.Runs("nightly", "", 10)
		if err != nil || len(runs) != 1 || runs[0].GetDrill().GetResult() != succeeded || len(d.verifications()) != 1 {
			t.Errorf("after %d writes: %d drills, runs %v, %v", n, len(d.verifications()), runs, err)
		}
	})
}
