package schedule

import (
	"context"
	"errors"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
)

// wait waits that long, or until it is woken. It returns false when ctx has ended.
func wait(ctx context.Context, woken <-chan struct{}, long time.Duration) bool {
	timer := time.NewTimer(long)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-woken:
	case <-timer.C:
	}
	return true
}

// longest is how long is waited at a time: a clock that is put forward is noticed after it.
const longest = time.Minute

// until waits for a time. It returns true once the time has come, and false if it was woken before or ctx has ended.
func until(ctx context.Context, woken <-chan struct{}, at time.Time) bool {
	for {
		left := time.Until(at.Round(0)) // by the clock on the wall, which cron goes by
		if left <= 0 {
			return true
		}
		timer := time.NewTimer(min(left, longest))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-woken:
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// notDriving is how long is waited for an engine that has not begun to drive.
const notDriving = 100 * time.Millisecond

// follow waits for the end of an operation and returns it as it ended. It returns nil when ctx has ended.
func (s *Scheduler) follow(ctx context.Context, id string) (*requorumv1.Operation, error) {
	for {
		var last *requorumv1.Operation
		err := s.Engine.Watch(ctx, id, func(op *requorumv1.Operation) error { last = op; return nil })
		switch {
		case ctx.Err() != nil:
			return nil, nil
		case err == nil && last.GetEnded() != nil:
			return last, nil
		case err != nil && !errors.Is(err, operation.ErrNotDriving):
			return nil, err
		}
		if !wait(ctx, nil, notDriving) {
			return nil, nil
		}
	}
}
