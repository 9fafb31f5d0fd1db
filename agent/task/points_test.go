//go:build faultinject

package task

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/reflect/protoreflect"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/fault"
)

// pointed is a runner of which a test says what happens at one point, the first time it is passed.
func pointed(t *testing.T, point string, fails error, handle Handler) *process {
	var once sync.Once
	ctx, stop := context.WithCancel(context.Background())
	ctx = fault.WithHook(ctx, func(_ context.Context, at string) (err error) {
		if at == point {
			once.Do(func() { err = fails })
		}
		return err
	})
	p := &process{t: t, stop: stop, Runner: NewRunner(ctx, obeying(t, file(t)), handle, hclog.NewNullLogger())}
	t.Cleanup(p.crash)
	return p
}

func TestATaskThatComesInTwiceIsDoneOnce(t *testing.T) {
	begun := make(chan string, 10)
	p := pointed(t, pointDeliver(Kind(change("a"))), fault.ErrTwice, func(_ context.Context, task *agentv1.Task, _ *Progress) (*agentv1.TaskResult, error) {
		begun <- task.GetId()
		return nil, nil
	})
	p.deliver(change("a"))
	p.await("a", done)
	if len(begun) != 1 {
		t.Errorf("it was done %d times", len(begun))
	}
}

func TestAnAnswerThatIsLostIsSentInTheNextSession(t *testing.T) {
	lost := errors.New("the connection broke")
	p := pointed(t, pointReport(Kind(change("a"))), lost, func(context.Context, *agentv1.Task, *Progress) (*agentv1.TaskResult, error) { return nil, nil })
	p.deliver(change("a"))
	for err := error(nil); !errors.Is(err, lost); {
		_, err = p.Next(p.ctx) // that it runs is reported first, maybe
		if err != nil && !errors.Is(err, lost) {
			t.Fatal(err)
		}
	}
	p.Resume([]*agentv1.Task{change("a")})
	p.await("a", done)
}

func TestATaskFailsInItsMiddle(t *testing.T) {
	var after bool
	p := pointed(t, pointMiddle(Kind(change("a"))), errors.New("out of order"), func(ctx context.Context, _ *agentv1.Task, p *Progress) (*agentv1.TaskResult, error) {
		p.Tick()
		after = ctx.Err() == nil
		return nil, nil
	})
	p.deliver(change("a"))
	if r := p.await("a", broken); r.GetError().GetMessage() != "out of order" || after {
		t.Errorf("it went on: %v, or failed with %v", after, r.GetError())
	}
}

// A kind of task that is said to have no middle has no point there that nothing ever passes.
func TestEveryKindOfTaskHasItsPoints(t *testing.T) {
	names := fault.Names()
	for i := range specs.Fields().Len() {
		kind := string(specs.Fields().Get(i).Name())
		for _, point := range []string{pointDeliver(kind), pointBefore(kind), pointAfter(kind), pointReport(kind)} {
			if !slices.Contains(names, point) {
				t.Errorf("%s is not declared", point)
			}
		}
		if slices.Contains(names, pointMiddle(kind)) == atOnce[kind] {
			t.Errorf("%s is done at once: %v; and has a middle: %v", kind, atOnce[kind], !atOnce[kind])
		}
	}
	for kind := range atOnce {
		if specs.Fields().ByName(protoreflect.Name(kind)) == nil {
			t.Errorf("%s is no kind of task", kind)
		}
	}
}
