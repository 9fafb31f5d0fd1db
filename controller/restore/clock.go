package restore

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// began is when this controller did, by both clocks of the machine.
var began = time.Now()

// steady is the time by a clock that does not jump for as long as this controller lives, whoever turns the machine's:
// for what is told of how long something took.
func steady() *timestamppb.Timestamp { return timestamppb.New(began.Add(time.Since(began))) }

// between is the time from one moment to another. It is unknown, nil, if the clock was turned back between two
// controllers of which each saw one of them.
func between(from, to *timestamppb.Timestamp) *durationpb.Duration {
	d := to.AsTime().Sub(from.AsTime())
	if d < 0 {
		return nil
	}
	return durationpb.New(d)
}
