package usage_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/e2e/bench/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAPeakIsSeen(t *testing.T) {
	idle, err := usage.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	w := usage.Start(t.Context(), map[string]int{"me": os.Getpid()})
	begun := time.Now()
	taken := bytes.Repeat([]byte{1}, size)
	var peak usage.Memory
	for looked := false; !looked || peak.Above(idle).Anon < size/2; { // it is looked at soon
		peak, looked = w.Peak("me", begun, time.Now())
		if t.Context().Err() != nil || time.Since(begun) > time.Minute {
			t.Fatalf("64 MiB were taken and %+v was seen", peak)
		}
	}
	if peak.RSS < peak.Anon {
		t.Errorf("%+v", peak)
	}
	if err := w.Stop(); err != nil {
		t.Error(err)
	}
	if _, looked := w.Peak("me", begun.Add(-time.Hour), begun.Add(-time.Minute)); looked {
		t.Error("something was seen before it began")
	}
	_ = taken[len(taken)-1] // in use until here
}

func TestComputingTakesTime(t *testing.T) {
	before, err := usage.CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		after, err := usage.CPU(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if after > before {
			return
		}
		if n == 1e6 {
			t.Fatal("a million looks at /proc took no time")
		}
	}
}

func TestAProcessThatEndsIsAnError(t *testing.T) {
	w := usage.Start(t.Context(), map[string]int{"nobody": 1 << 30})
	if err := w.Stop(); err == nil {
		t.Error("a process that is not there was watched")
	}
}
