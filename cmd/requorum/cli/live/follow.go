package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Watcher is what Follow needs of the API.
type Watcher interface {
	WatchOperation(context.Context, *requorumv1.WatchOperationRequest, ...grpc.CallOption) (grpc.ServerStreamingClient[requorumv1.WatchOperationResponse], error)
	GetOperation(context.Context, *requorumv1.GetOperationRequest, ...grpc.CallOption) (*requorumv1.GetOperationResponse, error)
}

// View shows an operation. Its methods are called from one goroutine.
type View interface {
	// Event shows what changed; op is the operation with the event already in it.
	Event(op *requorumv1.Operation, event *requorumv1.WatchOperationResponse)
	// Tick is called several times a second, for what changes by itself.
	Tick()
	// Lost says that the stream broke; the next Event says that it is back.
	Lost(err error)
	// Close ends the view; what it showed last stays.
	Close()
}

// Pace says how long Follow waits for what.
type Pace struct {
	Tick  time.Duration // between two calls of View.Tick
	Quiet time.Duration // of silence after which the controller is asked whether it is still there
	Lost  time.Duration // without any word from the controller after which Follow gives up
	Retry time.Duration // at first between two attempts to reconnect; grows up to 5 s
}

// DefaultPace is the pace for people.
var DefaultPace = Pace{Tick: 200 * time.Millisecond, Quiet: 15 * time.Second, Lost: 15 * time.Minute, Retry: 200 * time.Millisecond}

// longestRetry is how far the wait between two attempts to reconnect grows.
const longestRetry = 5 * time.Second

// Over tells whether there is nothing more to follow: the operation has ended or needs a person.
func Over(op *requorumv1.Operation) bool { return Ended(op) || op.GetAttention() != "" }

// Ended tells whether the operation has ended.
func Ended(op *requorumv1.Operation) bool {
	switch op.GetState() {
	case requorumv1.OperationState_OPERATION_STATE_SUCCEEDED,
		requorumv1.OperationState_OPERATION_STATE_REFUSED,
		requorumv1.OperationState_OPERATION_STATE_REVERTED,
		requorumv1.OperationState_OPERATION_STATE_ABANDONED:
		return true
	}
	return false
}

// Follow shows the operation until it is Over and returns it. When the stream breaks it reconnects. It
// fails when ctx ends, with ctx's error; when the controller refuses to show the operation; and when
// the controller is not heard of for pace.Lost. The operation itself goes on in all these cases.
func Follow(ctx context.Context, w Watcher, id string, view View, pace Pace) (*requorumv1.Operation, error) {
	f := &follower{watcher: w, id: id, view: view, pace: pace, heard: time.Now()}
	defer view.Close()
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = pace.Retry, longestRetry
	for {
		before := f.heard
		err := f.stream(ctx)
		switch {
		case Over(f.op):
			return f.op, nil
		case ctx.Err() != nil:
			return f.op, ctx.Err()
		case !passing(err):
			return f.op, err
		case time.Since(f.heard) > pace.Lost:
			return f.op, fmt.Errorf("nothing was heard of the controller for %s: %w", pace.Lost, err)
		}
		view.Lost(err)
		if f.heard.After(before) {
			wait.Reset()
		}
		if err := f.pause(ctx, wait.NextBackOff()); err != nil {
			return f.op, err
		}
	}
}

// passing tells whether an error of the stream may be gone at the next attempt.
func passing(err error) bool {
	switch status.Code(err) {
	case codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.Unimplemented, codes.FailedPrecondition:
		return false
	}
	return true
}

type follower struct {
	watcher Watcher
	id      string
	view    View
	pace    Pace
	op      *requorumv1.Operation
	heard   time.Time // when the controller last said anything
}

// received is one thing heard from the controller, or the end of the stream.
type received struct {
	event *requorumv1.WatchOperationResponse
	err   error
}

// stream shows one stream's events until the operation is over, or the stream breaks, and says why it broke.
func (f *follower) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var owned sync.WaitGroup
	defer owned.Wait()
	defer cancel()
	events := make(chan received)
	owned.Go(func() { f.receive(ctx, events) })

	tick := time.NewTicker(f.pace.Tick)
	defer tick.Stop()
	quietSince, asked := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-events:
			if r.err != nil {
				return r.err
			}
			f.heard = time.Now()
			quietSince, asked = f.heard, false
			if f.show(r.event); Over(f.op) {
				return nil
			}
		case <-tick.C:
			f.view.Tick()
			if !asked && time.Since(quietSince) > f.pace.Quiet {
				asked = true
				owned.Go(func() { f.ask(ctx, events) })
			}
		}
	}
}

func (f *follower) receive(ctx context.Context, events chan<- received) {
	stream, err := f.watcher.WatchOperation(ctx, &requorumv1.WatchOperationRequest{Id: f.id})
	for {
		var r received
		if r.err = err; err == nil {
			r.event, r.err = stream.Recv()
		}
		if errors.Is(r.err, io.EOF) {
			r.err = errors.New("the controller ended the stream")
		}
		select {
		case events <- r:
		case <-ctx.Done():
			return
		}
		if r.err != nil {
			return
		}
	}
}

// ask finds out whether a silent controller is still there: a connection may be gone without a sign.
func (f *follower) ask(ctx context.Context, events chan<- received) {
	limited, cancel := context.WithTimeout(ctx, f.pace.Quiet)
	defer cancel()
	var r received
	resp, err := f.watcher.GetOperation(limited, &requorumv1.GetOperationRequest{Id: f.id})
	if r.err = err; err == nil {
		r.event = &requorumv1.WatchOperationResponse{Event: &requorumv1.WatchOperationResponse_Operation{Operation: resp.GetOperation()}}
	}
	select {
	case events <- r:
	case <-ctx.Done():
	}
}

func (f *follower) show(event *requorumv1.WatchOperationResponse) {
	switch e := event.GetEvent().(type) {
	case *requorumv1.WatchOperationResponse_Operation:
		f.op = e.Operation
	case *requorumv1.WatchOperationResponse_Progress:
		if f.op == nil {
			return
		}
		merge(f.op, e.Progress)
	default:
		return
	}
	f.view.Event(f.op, event)
}

// merge puts a task's progress into the operation's step.
func merge(op *requorumv1.Operation, progress *requorumv1.TaskProgress) {
	for _, step := range op.GetSteps() {
		if step.GetName() != progress.GetStep() {
			continue
		}
		for i, task := range step.GetTasks() {
			if task.GetNode() == progress.GetNode() {
				step.Tasks[i] = progress
				return
			}
		}
		step.Tasks = append(step.Tasks, progress)
	}
}

// pause waits and keeps the view moving.
func (f *follower) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	tick := time.NewTicker(f.pace.Tick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-tick.C:
			f.view.Tick()
		}
	}
}
