package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

const barWidth = 50

// timeline shows when each step ran, when the client was without answers, and what requorum says of it.
func (s *story) timeline(ctx context.Context, p *prober) error {
	resp, err := requorumv1.NewOperationServiceClient(s.cluster.Conn()).ListOperations(ctx, &requorumv1.ListOperationsRequest{Cluster: s.cluster.Name, Limit: 1})
	if err != nil {
		return err
	}
	if len(resp.GetOperations()) == 0 || resp.GetOperations()[0].GetKind() != requorumv1.OperationKind_OPERATION_KIND_RESTORE {
		return errors.New("the restore is not in the journal")
	}
	op := resp.GetOperations()[0]
	b := bar{from: op.GetCreated().AsTime(), length: op.GetEnded().AsTime().Sub(op.GetCreated().AsTime())}
	s.say("Who waited when, in %s from the first check to the fresh snapshot:", seconds(b.length))
	for _, step := range op.GetSteps() {
		s.say("  %s", b.row(step.GetName(), gap{step.GetStarted().AsTime(), step.GetEnded().AsTime()}))
	}
	s.say("  %s", b.row("no writes", p.puts.outage))
	s.say("  %s", b.row("no reads", p.reads.outage))
	reported := op.GetUnavailability().AsDuration()
	s.say("Without service: %s as requorum reports, from the first stop to the end of verification;", seconds(reported))
	s.say("%s without a write and %s without a read as the client saw it.", seconds(p.puts.outage.length()), seconds(p.reads.outage.length()))
	return plausible(reported, &p.puts, &p.reads)
}

// plausible compares what requorum reports with what a client saw. A client may see less, for the cluster
// serves before all of it is verified; it must not see much more.
func plausible(reported time.Duration, tracks ...*track) error {
	const slack = time.Second // connecting again, a deadline that was running, a busy machine
	for _, t := range tracks {
		if t.failed == 0 || t.outage.length() == 0 {
			return errors.New("the client did not notice the restore, so it measured nothing")
		}
		if t.outage.length() > reported+slack {
			return fmt.Errorf("a client was without an answer for %s, requorum reports %s", seconds(t.outage.length()), seconds(reported))
		}
	}
	return nil
}

// bar draws times as a row of characters.
type bar struct {
	from   time.Time
	length time.Duration
}

func (b bar) row(name string, g gap) string {
	first := b.column(g.from)
	last := max(b.column(g.to), first)
	return fmt.Sprintf("%-10s %s%s%s %s", name, strings.Repeat("·", first), strings.Repeat("█", last-first+1), strings.Repeat("·", barWidth-1-last), seconds(g.length()))
}

func (b bar) column(t time.Time) int {
	at := float64(t.Sub(b.from)) / float64(b.length) * (barWidth - 1)
	return int(math.Round(min(max(at, 0), barWidth-1)))
}
