package rke2_test

import (
	"context"
	"encoding/json"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/agent/runtime/rke2"
	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/internal/hosttest"
)

// agentStory is set in the environment of a test binary that stands for an agent: a story as JSON.
const agentStory = "REQUORUM_TEST_AGENT"

// story is what an agent does until it is killed before its DieAt-th change, counted from 1.
type story struct {
	Dir   string // of the runtime's state
	Stop  bool   // or else it starts
	DieAt int
}

func agent(text string) error {
	var s story
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	r, err := rke2.New(rke2.Options{Dir: s.Dir})
	if err != nil {
		return err
	}
	steps := 0
	r.SetFault(func(string) error {
		if steps++; steps == s.DieAt {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	})
	return s.act(context.Background(), r)
}

func (s story) act(ctx context.Context, r *rke2.Runtime) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if s.Stop {
		return r.Stop(ctx)
	}
	return r.Start(ctx)
}

// dies tells whether an agent that acts the story was killed in it.
func (s story) dies(t *testing.T) bool {
	t.Helper()
	return runtimetest.Killed(t, agentStory, s)
}

// TestInsideKilledAgentIsCarriedOn kills an agent before every change that it makes when it stops and starts, and lets the
// next one carry on, or go back.
func TestInsideKilledAgentIsCarriedOn(t *testing.T) {
	hosttest.Inside(t)
	r, o := running(t)
	expect := func(stopped bool) {
		t.Helper()
		m, err := r.Inspect(t.Context())
		if err != nil || m.Running == stopped || m.Wanted == stopped || (containers(t)["etcd"] == 0) != stopped {
			t.Fatalf("stopped should be %v: %+v, %v, containers %v", stopped, m, err, containers(t))
		}
	}
	for _, stop := range []bool{true, false} {
		deaths := 0
		for _, back := range []bool{false, true} {
			for at := 1; ; at++ {
				must(t, story{Stop: !stop}.act(t.Context(), r))
				expect(!stop)
				if !(story{Dir: o.Dir, Stop: stop, DieAt: at}).dies(t) {
					expect(stop)
					break
				}
				deaths++
				must(t, story{Stop: stop != back}.act(t.Context(), r))
				expect(stop != back)
			}
		}
		if least := map[bool]int{true: 10, false: 4}[stop]; deaths != least {
			t.Errorf("stop %v: %d places to die were seen, expected %d", stop, deaths, least)
		}
		t.Logf("stop %v: died %d times", stop, deaths)
	}
}
