package probe

import (
	"context"
	"testing"
	"time"
)

var start = time.Unix(0, 0)

func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func tracked(answers ...int) *Track {
	t := new(Track)
	for _, ms := range answers {
		t.note(at(ms), nil)
	}
	return t
}

func TestOutageIsFromTheLastAnswerToTheNext(t *testing.T) {
	tr := tracked(0, 10, 30)
	tr.note(at(200), context.DeadlineExceeded)
	tr.note(at(430), nil)
	tr.note(at(440), nil)
	tr.note(at(590), nil)
	want := Outage{Longest: 400 * time.Millisecond, Total: 550 * time.Millisecond, End: at(430)}
	if got := tr.Outage(start); got != want || tr.Failed() != 1 {
		t.Errorf("%+v and %d failed, want %+v and 1", got, tr.Failed(), want)
	}
}

func TestWhatEndedBeforeDoesNotCount(t *testing.T) {
	if got := tracked(0, 500, 510, 520).Outage(at(505)); got.Longest != 10*time.Millisecond || got.Total != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAnswersAreCountedFromATimeOn(t *testing.T) {
	tr := tracked(0, 10, 20, 30)
	if got := tr.since(at(20)); got != 2 {
		t.Errorf("%d answers, want 2", got)
	}
	if got := tr.since(at(31)); got != 0 {
		t.Errorf("%d answers after the last", got)
	}
}
