//go:build faultinject

package operation_test

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/requorum/requorum/internal/fault"
	"github.com/requorum/requorum/internal/fault/faulttest"
)

// passes arms points to tell that they were passed and returns how often each was, when do has ended.
func passes(t *testing.T, points []string, do func(dir faulttest.Dir)) map[string]int {
	t.Helper()
	dir := faulttest.Dir(t.TempDir())
	t.Setenv(fault.DirEnv, string(dir))
	for _, p := range points {
		if err := dir.Arm(p, "", "delay 0s"); err != nil {
			t.Fatal(err)
		}
	}
	do(dir)
	counts := map[string]int{}
	for _, p := range points {
		firings, err := fault.ReadFirings(filepath.Join(string(dir), fault.FileName(p, "")+fault.FiredSuffix))
		if err == nil {
			counts[p] = len(firings)
		}
	}
	return counts
}

// The middle of a step is passed once, after one of several nodes has answered; so is the middle of an undo.
func TestTheMiddleIsPassedOnceInAStep(t *testing.T) {
	const middle, undoMiddle, end = "controller/restore/stage/middle", "controller/restore/stage/undo-middle", "controller/restore/stage/before-outcome"
	counts := passes(t, []string{middle, undoMiddle}, func(dir faulttest.Dir) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, effect("stage"))
			if err := dir.Arm(end, "", "error once out of order"); err != nil {
				t.Fatal(err)
			}
			w.expect(w.wait(w.begin()), undone, "")
			w.stop()
		})
	})
	if counts[middle] != 1 || counts[undoMiddle] != 1 {
		t.Errorf("on three nodes the middle was passed %d times, that of the undo %d times", counts[middle], counts[undoMiddle])
	}
}

// Every step of a plan has its points, and a step without an undo has none for it.
func TestEveryStepHasItsPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, check("look-around"), effect("stage-all"))
		w.stop()
	})
	all := strings.Join(fault.Names(), " ") + " "
	for _, want := range []string{"before-intent", "after-intent", "middle", "before-outcome"} {
		for _, step := range []string{"look-around", "stage-all"} {
			if !strings.Contains(all, "controller/restore/"+step+"/"+want+" ") {
				t.Errorf("step %s has no %s", step, want)
			}
		}
	}
	for _, undo := range []string{"undo-after-intent", "undo-middle", "undo-before-outcome"} {
		if strings.Contains(all, "controller/restore/look-around/"+undo) || !strings.Contains(all, "controller/restore/stage-all/"+undo+" ") {
			t.Errorf("%s is not just where something is undone", undo)
		}
	}
}
