package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/internal/timetable"
)

// KeptRuns is how many runs of a schedule are remembered, the newest ones.
const KeptRuns = 100

// shownRuns is how many runs are shown with a schedule.
const shownRuns = 10

func runKey(schedule, id string) string { return schedule + "/" + id }

func (s *Scheduler) records() ([]*journalv1.ScheduleRecord, error) {
	var all []*journalv1.ScheduleRecord
	err := s.Store.View(func(tx store.Tx) error {
		return tx.Each(store.Schedules, "", func(k string, data []byte) error {
			rec := new(journalv1.ScheduleRecord)
			if err := proto.Unmarshal(data, rec); err != nil {
				return fmt.Errorf("schedule %s cannot be read: %w", k, err)
			}
			all = append(all, rec)
			return nil
		})
	})
	return all, err
}

func load(tx store.Tx, name string) (*journalv1.ScheduleRecord, error) {
	rec := new(journalv1.ScheduleRecord)
	err := store.Load(tx, store.Schedules, name, rec)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &NotFoundError{Name: name}
	}
	return rec, err
}

func save(tx store.Tx, rec *journalv1.ScheduleRecord) error {
	return store.Save(tx, store.Schedules, rec.GetSchedule().GetName(), rec)
}

func saveRun(tx store.Tx, rec *journalv1.RunRecord) error {
	return store.Save(tx, store.ScheduleRuns, runKey(rec.GetRun().GetSchedule(), rec.GetRun().GetId()), rec)
}

// runsOf returns the runs of a schedule, or of all if it is empty, the oldest first.
func runsOf(tx store.Tx, schedule string) ([]*journalv1.RunRecord, error) {
	prefix := ""
	if schedule != "" {
		prefix = schedule + "/"
	}
	var all []*journalv1.RunRecord
	err := tx.Each(store.ScheduleRuns, prefix, func(k string, data []byte) error {
		rec := new(journalv1.RunRecord)
		if err := proto.Unmarshal(data, rec); err != nil {
			return fmt.Errorf("run %s cannot be read: %w", k, err)
		}
		all = append(all, rec)
		return nil
	})
	slices.SortStableFunc(all, func(a, b *journalv1.RunRecord) int { return strings.Compare(a.GetRun().GetId(), b.GetRun().GetId()) })
	return all, err
}

// nextRunID returns an ID that comes after those of the schedule's other runs, also when the clock was put back.
func nextRunID(tx store.Tx, schedule string) (string, error) {
	runs, err := runsOf(tx, schedule)
	if err != nil {
		return "", err
	}
	id := ulid.Make()
	if len(runs) == 0 {
		return id.String(), nil
	}
	if last, err := ulid.ParseStrict(runs[len(runs)-1].GetRun().GetId()); err == nil && id.Compare(last) <= 0 {
		if err := id.SetTime(last.Time() + 1); err != nil {
			return "", fmt.Errorf("name the run: %w", err)
		}
	}
	return id.String(), nil
}

// pruneRuns forgets the oldest runs that have ended.
func pruneRuns(tx store.Tx, schedule string) error {
	runs, err := runsOf(tx, schedule)
	if err != nil {
		return err
	}
	for _, rec := range runs[:max(0, len(runs)-KeptRuns)] {
		if rec.GetRun().GetEnded() == nil {
			continue
		}
		if err := tx.Delete(store.ScheduleRuns, runKey(schedule, rec.GetRun().GetId())); err != nil {
			return err
		}
	}
	return nil
}

// Apply makes a schedule what is asked for.
func (s *Scheduler) Apply(wanted *requorumv1.Schedule, by string) (*requorumv1.Schedule, requorumv1.ApplyOutcome, error) {
	wanted = proto.CloneOf(wanted)
	wanted.Status = nil
	if err := timetable.Check(wanted); err != nil {
		return nil, 0, &InvalidError{err.Error()}
	}
	if _, err := s.Catalog.Cluster(wanted.GetCluster()); err != nil {
		return nil, 0, err
	}
	if stored := wanted.GetRemoteStorage(); stored != nil {
		if _, err := s.Remotes.Get(stored.GetRemote()); err != nil {
			return nil, 0, err
		}
	}
	outcome := requorumv1.ApplyOutcome_APPLY_OUTCOME_CREATED
	err := s.Store.Update(func(tx store.Tx) error {
		rec, err := load(tx, wanted.GetName())
		var none *NotFoundError
		switch {
		case errors.As(err, &none):
			rec = &journalv1.ScheduleRecord{Uid: ulid.Make().String(), Since: timestamppb.Now()}
		case err != nil:
			return err
		case proto.Equal(rec.GetSchedule(), wanted):
			outcome = requorumv1.ApplyOutcome_APPLY_OUTCOME_UNCHANGED
			return nil
		case rec.GetSchedule().GetCluster() != wanted.GetCluster():
			return &InvalidError{fmt.Sprintf("schedule %s is of cluster %s, and a schedule stays with its cluster; remove it first (requorum schedule rm %s) or choose another name",
				wanted.GetName(), rec.GetSchedule().GetCluster(), wanted.GetName())}
		default:
			outcome = requorumv1.ApplyOutcome_APPLY_OUTCOME_CHANGED
		}
		change(rec, wanted, by)
		return save(tx, rec)
	})
	if err != nil {
		return nil, 0, err
	}
	s.changed(wanted)
	got, err := s.Get(wanted.GetName())
	return got, outcome, err
}

// change makes the record's schedule what is wanted. Times of cron that have passed until now, by another timetable or
// during a pause, are not made up for. Elapsed time counts from the last run, whatever was changed.
func change(rec *journalv1.ScheduleRecord, wanted *requorumv1.Schedule, by string) {
	old := rec.GetSchedule()
	same := old.GetCron() == wanted.GetCron() && old.GetTimezone() == wanted.GetTimezone() &&
		proto.Equal(old.GetStagger(), wanted.GetStagger()) && old.GetPaused() == wanted.GetPaused()
	if wanted.GetCron() != "" && !same {
		rec.Since = timestamppb.Now()
	}
	rec.Schedule, rec.Applied, rec.AppliedBy = wanted, timestamppb.Now(), by
}

// changed wakes who has to know of a change.
func (s *Scheduler) changed(schedule *requorumv1.Schedule) {
	s.runners.wake(schedule.GetName())
	s.sweepers.wake(schedule.GetCluster())
}

// SetPaused pauses or resumes a schedule.
func (s *Scheduler) SetPaused(name string, paused bool, by string) (*requorumv1.Schedule, error) {
	err := s.Store.Update(func(tx store.Tx) error {
		rec, err := load(tx, name)
		if err != nil || rec.GetSchedule().GetPaused() == paused {
			return err
		}
		wanted := proto.CloneOf(rec.GetSchedule())
		wanted.Paused = paused
		change(rec, wanted, by)
		return save(tx, rec)
	})
	if err != nil {
		return nil, err
	}
	got, err := s.Get(name)
	if err == nil {
		s.changed(got)
	}
	return got, err
}

// Delete removes a schedule with its runs. An operation that one of them has begun goes on; snapshots stay.
func (s *Scheduler) Delete(name string) error {
	err := s.Store.Update(func(tx store.Tx) error {
		if _, err := load(tx, name); err != nil {
			return err
		}
		runs, err := runsOf(tx, name)
		if err != nil {
			return err
		}
		for _, rec := range runs {
			if err := tx.Delete(store.ScheduleRuns, runKey(name, rec.GetRun().GetId())); err != nil {
				return err
			}
		}
		return tx.Delete(store.Schedules, name)
	})
	if err == nil {
		s.runners.wake(name)
	}
	return err
}

// Get returns a schedule with its latest runs.
func (s *Scheduler) Get(name string) (*requorumv1.Schedule, error) {
	var got *requorumv1.Schedule
	err := s.Store.View(func(tx store.Tx) error {
		rec, err := load(tx, name)
		if err != nil {
			return err
		}
		got, err = shown(tx, rec, shownRuns)
		return err
	})
	return got, err
}

// List returns the schedules of a cluster, or of all where it is empty, each with its newest run.
func (s *Scheduler) List(cluster string) ([]*requorumv1.Schedule, error) {
	records, err := s.records()
	if err != nil {
		return nil, err
	}
	var all []*requorumv1.Schedule
	err = s.Store.View(func(tx store.Tx) error {
		for _, rec := range records {
			if cluster != "" && rec.GetSchedule().GetCluster() != cluster {
				continue
			}
			one, err := shown(tx, rec, 1)
			if err != nil {
				return err
			}
			all = append(all, one)
		}
		return nil
	})
	return all, err
}

// shown is a schedule as people see it, with at most so many runs.
func shown(tx store.Tx, rec *journalv1.ScheduleRecord, runs int) (*requorumv1.Schedule, error) {
	got := proto.CloneOf(rec.GetSchedule())
	got.Status = &requorumv1.ScheduleStatus{Applied: rec.GetApplied(), AppliedBy: rec.GetAppliedBy()}
	if got.GetDrill() != nil {
		got.Status.Drill = rec.GetDrill()
	}
	all, err := runsOf(tx, got.GetName())
	if err != nil {
		return nil, err
	}
	slices.Reverse(all)
	for _, r := range all[:min(runs, len(all))] {
		got.Status.Records = append(got.Status.Records, r.GetRun())
	}
	if due, ok, err := nextDue(rec); err != nil {
		return nil, err
	} else if ok && !got.GetPaused() {
		got.Status.Next = timestamppb.New(due)
	}
	return got, nil
}

// nextDue returns when the next run is due, and whether there is one.
func nextDue(rec *journalv1.ScheduleRecord) (time.Time, bool, error) {
	table, err := timetable.New(rec.GetSchedule())
	if err != nil {
		return time.Time{}, false, fmt.Errorf("schedule %s: %w", rec.GetSchedule().GetName(), err)
	}
	since := rec.GetSince().AsTime()
	if now := time.Now(); since.After(now.Add(longestSkew)) {
		since = now // the clock was far ahead when it ran last; to wait until that time comes could take years
	}
	due := table.Next(since)
	if !rec.GetBegun() {
		due = table.First(since)
	}
	return due, !due.IsZero(), nil
}

// longestSkew is how far ahead of the clock the last run may be. A clock that is put back by less makes no run come twice.
const longestSkew = time.Hour

// Runs returns at most limit runs, of one schedule unless name is empty and of one cluster unless cluster is, the
// newest first.
func (s *Scheduler) Runs(name, cluster string, limit int) ([]*requorumv1.ScheduleRun, error) {
	var runs []*requorumv1.ScheduleRun
	err := s.Store.View(func(tx store.Tx) error {
		if name != "" {
			if _, err := load(tx, name); err != nil {
				return err
			}
		}
		all, err := runsOf(tx, name)
		slices.Reverse(all)
		for _, rec := range all {
			if len(runs) < limit && (cluster == "" || rec.GetRun().GetCluster() == cluster) {
				runs = append(runs, rec.GetRun())
			}
		}
		return err
	})
	return runs, err
}
