package restore

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// A clock that was turned back between two controllers makes no time negative: it is not known.
func TestBetween(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if d := between(timestamppb.New(at), timestamppb.New(at.Add(time.Second))); d.AsDuration() != time.Second {
		t.Errorf("a second is %s", d.AsDuration())
	}
	if d := between(timestamppb.New(at), timestamppb.New(at.Add(-time.Hour))); d != nil {
		t.Errorf("an hour back is %s", d.AsDuration())
	}
}
