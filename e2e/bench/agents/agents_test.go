package agents

import (
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/e2e/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A few agents show that each figure is of what it says, and that nothing is left.
func TestAgentsJoinAndComeBack(t *testing.T) {
	binary, _ := harness.Binaries(t)
	dir := t.TempDir()
	r, err := Measure(t.Context(), Options{Binary: binary, Dir: dir, Agents: 7, Rest: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r.Enrolled <= 0 || r.Back <= 0 || r.Memory < 1<<20 || r.Peak < r.Memory || r.Core < 0 {
		t.Errorf("%+v", *r)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// The command's name in /proc/PID/stat may hold blanks and parentheses; utime and stime are the fields 14 and 15.
func TestProcessorTimeIsReadAfterTheCommand(t *testing.T) {
	got, err := parseStat("42 (a) b (c) S 1 42 42 0 -1 4194560 1000 0 3 0 150 50 0 0 20 0 9 0 5000 1 2 3")
	if err != nil || got != 2*time.Second {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseStat("42 (short) S 1"); err == nil {
		t.Error("a line that is too short is read")
	}
	if spent, err := processorTime(os.Getpid()); err != nil || spent < 0 {
		t.Errorf("%v, %v", spent, err)
	}
}

func TestMemoryIsReadByItsName(t *testing.T) {
	text := "VmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
	if got, err := kilobytes(text, "VmRSS"); err != nil || got != 1<<20 {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := kilobytes(text, "VmSwap"); err == nil || !strings.Contains(err.Error(), "VmSwap") {
		t.Errorf("%v", err)
	}
}
