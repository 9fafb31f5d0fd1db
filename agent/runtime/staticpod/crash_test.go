package staticpod_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/requorum/requorum/agent/runtime/runtimetest"
	"github.com/requorum/requorum/agent/runtime/staticpod"
)

// agentStory is set in the environment of a test binary that stands for an agent: a story as JSON.
const agentStory = "REQUORUM_TEST_AGENT"

// story is what an agent does until it is killed before its DieAt-th change on disk, counted from 1.
type story struct {
	Options staticpod.Options
	Stop    bool // or else it starts
	DieAt   int
}

func agent(text string) int {
	var s story
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return fail(err)
	}
	r, err := staticpod.New(s.Options)
	if err != nil {
		return fail(err)
	}
	steps := 0
	r.SetFault(func(string) error {
		if steps++; steps == s.DieAt {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	})
	if err := s.act(context.Background(), r); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// patience is how long an agent may take to act a story; generous, for slow machines under -race.
const patience = time.Minute

func (s story) act(ctx context.Context, r *staticpod.Runtime) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.Stop {
		if err := r.StopControlPlane(ctx); err != nil {
			return err
		}
		return r.Stop(ctx)
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	return r.StartControlPlane(ctx)
}

// diesIn tells whether an agent that acts a story was killed in it.
func (n *node) diesIn(s story) bool {
	n.t.Helper()
	return runtimetest.Killed(n.t, agentStory, s)
}

// TestKilledAgentLosesNothing kills an agent before every change on disk that it makes when it stops and starts, and lets the
// next one carry on, or go back.
func TestKilledAgentLosesNothing(t *testing.T) {
	for _, stop := range []bool{true, false} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprintf("stop %v back %v", stop, back), func(t *testing.T) {
				n := newNode(t)
				n.addControlPlane()
				n.install(n.live)
				must(t, story{Stop: !stop}.act(t.Context(), n.open()))
				deaths := 0
				for n.diesIn(story{Options: n.options(), Stop: stop, DieAt: deaths + 1}) {
					deaths++
					n.expectAllThere()
					must(t, story{Stop: stop != back}.act(t.Context(), n.open()))
					n.expectState(stop != back)
					must(t, story{Stop: !stop}.act(t.Context(), n.open()))
					n.expectState(!stop)
				}
				if n.expectState(stop); deaths < 6 {
					t.Errorf("only %d places to die were seen", deaths)
				}
			})
		}
	}
}

// expectAllThere fails unless every manifest is at one of its places.
func (n *node) expectAllThere() {
	n.t.Helper()
	for name, text := range n.manifests {
		var errs []error
		for _, path := range []string{n.live(name), n.held(name), n.held(name) + ".aside"} {
			errs = append(errs, n.unchanged(path, text))
		}
		if there := 3 - len(notNil(errs)); there != 1 {
			n.t.Errorf("%s is at %d places: %v", name, there, errors.Join(errs...))
		}
	}
}

func notNil(errs []error) (failed []error) {
	for _, err := range errs {
		if err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}

// expectState fails unless all is stopped, or all runs.
func (n *node) expectState(stopped bool) {
	n.t.Helper()
	m, err := n.open().Inspect(n.t.Context())
	must(n.t, err)
	if m.Running == stopped || m.Wanted == stopped {
		n.t.Errorf("running %v, wanted %v; stopped should be %v", m.Running, m.Wanted, stopped)
	}
	in, notIn := n.live, n.held
	if stopped {
		in, notIn = n.held, n.live
	}
	for name := range n.manifests {
		n.expectIn(name, in, notIn)
	}
}
