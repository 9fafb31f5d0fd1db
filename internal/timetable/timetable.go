package timetable

import (
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/netresearch/go-cron"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Table tells when the runs of a schedule are due.
type Table struct {
	cron   cron.Schedule // nil if it goes by elapsed time
	every  time.Duration
	offset time.Duration // the cluster's place within stagger
	zone   *time.Location
}

// New returns the timetable of a schedule that passes Check.
func New(s *requorumv1.Schedule) (*Table, error) {
	zone, err := time.LoadLocation(s.GetTimezone())
	if err != nil {
		return nil, err
	}
	t := &Table{every: s.GetEvery().AsDuration(), offset: offset(s), zone: zone}
	if s.GetCron() == "" {
		return t, nil
	}
	t.cron, err = parse(s.GetCron(), zone)
	return t, err
}

// fields are the five of cron, with a day that matches if one of its two fields does, as cron has it.
const fields = cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.DowOrDom

var (
	errZoneInside = errors.New("the time zone stands in timezone, not in cron")
	errNever      = errors.New("it never comes due")
)

func parse(spec string, zone *time.Location) (cron.Schedule, error) {
	if strings.Contains(spec, "=") {
		return nil, errZoneInside
	}
	if n := len(strings.Fields(spec)); n != 5 {
		return nil, fmt.Errorf("it has %d fields, not the five of cron: minute, hour, day of month, month, day of week", n)
	}
	parsed, err := cron.MustNewParser(fields).Parse(spec) // it panics for fields that make no sense, whatever spec is
	if err != nil {
		return nil, err
	}
	if parsed.Next(time.Now().In(zone)).IsZero() {
		return nil, errNever
	}
	return parsed, nil
}

// offset is the cluster's place within the schedule's stagger, always the same.
func offset(s *requorumv1.Schedule) time.Duration {
	within := s.GetStagger().AsDuration().Truncate(time.Second)
	if within <= 0 {
		return 0
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(s.GetCluster())) // never fails, by its contract
	return time.Duration(hash.Sum64()%uint64(within/time.Second)) * time.Second
}

// Retries returns how often at most a run that failed is tried again, and how long after the end of its first try.
func Retries(s *requorumv1.Schedule) (limit uint32, after time.Duration) {
	limit, after = 2, 5*time.Minute
	if r := s.GetRetry(); r != nil && r.Limit != nil {
		limit = r.GetLimit()
	}
	if r := s.GetRetry().GetAfter(); r != nil {
		after = r.AsDuration()
	}
	return limit, after
}

// Zone is the time zone of the schedule's days.
func (t *Table) Zone() *time.Location { return t.zone }

// First is when the first run is due of a schedule that begins at since.
func (t *Table) First(since time.Time) time.Time {
	if t.cron == nil {
		return since.Add(t.offset) // nothing was saved yet, so the time that may pass has passed
	}
	return t.Next(since)
}

// Next is when the run after the one that was due at last is due. It is the zero time if there is none.
func (t *Table) Next(last time.Time) time.Time {
	if t.cron == nil {
		return last.Add(t.every)
	}
	next := t.cron.Next(last.Add(-t.offset).In(t.zone))
	if next.IsZero() {
		return next
	}
	return next.Add(t.offset)
}

// most is up to how many due times that have passed are counted one by one.
const most = 1000

// Latest returns the last time that came due from due on until now, and how many others came due since due. One run
// stands for all of them.
func (t *Table) Latest(due, now time.Time) (latest time.Time, others uint32) {
	if t.cron == nil {
		passed := max(0, now.Sub(due))
		return due.Add(passed.Truncate(t.every)), uint32(passed / t.every)
	}
	for latest = due; others < most; others++ {
		next := t.Next(latest)
		if next.IsZero() || next.After(now) {
			return latest, others
		}
		latest = next
	}
	return now, others // a controller that was away for long: what matters is that one run makes up for all
}
