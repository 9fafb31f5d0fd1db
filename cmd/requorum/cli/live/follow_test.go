package live

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// controller answers watches one after the other; after the last script every stream is refused.
type controller struct {
	scripts [][]any // messages, then an error, or silence until the stream is given up
	opened  atomic.Int64
	asked   atomic.Int64
	get     func() (*requorumv1.Operation, error)
}

type scripted struct {
	grpc.ServerStreamingClient[requorumv1.WatchOperationResponse]
	ctx  context.Context
	rest []any
}

func (s *scripted) Recv() (*requorumv1.WatchOperationResponse, error) {
	if len(s.rest) == 0 {
		<-s.ctx.Done()
		return nil, s.ctx.Err()
	}
	next := s.rest[0]
	s.rest = s.rest[1:]
	switch n := next.(type) {
	case error:
		return nil, n
	case *requorumv1.Operation:
		return whole(n), nil
	}
	return next.(*requorumv1.WatchOperationResponse), nil
}

func (c *controller) WatchOperation(ctx context.Context, _ *requorumv1.WatchOperationRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[requorumv1.WatchOperationResponse], error) {
	n := int(c.opened.Add(1)) - 1
	if n >= len(c.scripts) {
		return nil, status.Error(codes.Unavailable, "nobody there")
	}
	return &scripted{ctx: ctx, rest: c.scripts[n]}, nil
}

func (c *controller) GetOperation(context.Context, *requorumv1.GetOperationRequest, ...grpc.CallOption) (*requorumv1.GetOperationResponse, error) {
	c.asked.Add(1)
	op, err := c.get()
	return &requorumv1.GetOperationResponse{Operation: op}, err
}

// seen counts what a view is shown.
type seen struct{ events, lost, closed int }

func (s *seen) Event(*requorumv1.Operation, *requorumv1.WatchOperationResponse) { s.events++ }
func (s *seen) Tick()                                                           {}
func (s *seen) Lost(error)                                                      { s.lost++ }
func (s *seen) Close()                                                          { s.closed++ }

var quick = Pace{Tick: 2 * time.Millisecond, Quiet: time.Minute, Lost: 100 * time.Millisecond, Retry: time.Millisecond}

func in(state requorumv1.OperationState) *requorumv1.Operation {
	return &requorumv1.Operation{Id: "x", State: state, Steps: []*requorumv1.Step{{Name: "save"}}}
}

const (
	isRunning   = requorumv1.OperationState_OPERATION_STATE_RUNNING
	isSucceeded = requorumv1.OperationState_OPERATION_STATE_SUCCEEDED
)

func TestFollowEndsWithTheOperation(t *testing.T) {
	helpless := in(isRunning)
	helpless.Attention = "start etcd-2"
	for name, last := range map[string]*requorumv1.Operation{
		"succeeded": in(isSucceeded), "refused": in(requorumv1.OperationState_OPERATION_STATE_REFUSED),
		"reverted": in(requorumv1.OperationState_OPERATION_STATE_REVERTED), "needs a person": helpless,
	} {
		progress := &requorumv1.WatchOperationResponse{Event: &requorumv1.WatchOperationResponse_Progress{Progress: &requorumv1.TaskProgress{Step: "save", Node: "n"}}}
		c := &controller{scripts: [][]any{{progress, in(isRunning), progress, last}}}
		var view seen
		op, err := Follow(t.Context(), c, "x", &view, quick)
		if err != nil || op != last || view != (seen{events: 3, closed: 1}) {
			t.Errorf("%s: %v, %v, %+v", name, op, err, view)
		}
	}
}

func TestFollowReconnectsUntilTheControllerIsBack(t *testing.T) {
	c := &controller{scripts: [][]any{
		{in(isRunning), status.Error(codes.Unavailable, "stopping")},
		{status.Error(codes.Internal, "broken")},
		{io.EOF},
		{in(isRunning), io.EOF},
		{in(isSucceeded)},
	}}
	var view seen
	pace := quick
	pace.Lost = time.Minute
	op, err := Follow(t.Context(), c, "x", &view, pace)
	if err != nil || op.GetState() != isSucceeded || view.lost != 4 {
		t.Errorf("%v, %v, %+v", op, err, view)
	}
}

func TestFollowGivesUpWhenNothingIsHeard(t *testing.T) {
	c := &controller{scripts: [][]any{{in(isRunning), io.EOF}}}
	_, err := Follow(t.Context(), c, "x", &seen{}, quick)
	if status.Code(err) != codes.Unavailable || c.opened.Load() < 3 {
		t.Errorf("%v after %d streams", err, c.opened.Load())
	}
}

func TestFollowDoesNotInsistWhereItIsRefused(t *testing.T) {
	c := &controller{scripts: [][]any{{status.Error(codes.NotFound, "no operation x")}}}
	if _, err := Follow(t.Context(), c, "x", &seen{}, quick); status.Code(err) != codes.NotFound || c.opened.Load() != 1 {
		t.Errorf("%v after %d streams", err, c.opened.Load())
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Follow(ctx, &controller{scripts: [][]any{{in(isRunning)}}}, "x", &seen{}, quick); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestASilentControllerIsAskedWhetherItIsStillThere(t *testing.T) {
	pace := quick
	pace.Quiet, pace.Lost = 20*time.Millisecond, time.Minute

	// It answers that the operation has ended: the stream lost that.
	c := &controller{scripts: [][]any{{in(isRunning)}}, get: func() (*requorumv1.Operation, error) { return in(isSucceeded), nil }}
	if op, err := Follow(t.Context(), c, "x", &seen{}, pace); err != nil || op.GetState() != isSucceeded || c.asked.Load() != 1 {
		t.Errorf("%v, %v", op, err)
	}

	// It does not answer: the stream is opened again.
	c = &controller{scripts: [][]any{{in(isRunning)}, {in(isSucceeded)}}, get: func() (*requorumv1.Operation, error) {
		return nil, status.Error(codes.DeadlineExceeded, "no answer")
	}}
	if op, err := Follow(t.Context(), c, "x", &seen{}, pace); err != nil || op.GetState() != isSucceeded || c.opened.Load() != 2 {
		t.Errorf("%v, %v", op, err)
	}
}
