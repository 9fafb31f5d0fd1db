// Package retention decides which snapshots are kept and which are removed. It is a pure function of what the catalog
// holds, what the schedules say and the time: it removes nothing itself.
//
// A snapshot belongs to a schedule by exactly its name. Only READY snapshots that a node still holds count, so that
// failed ones push out nobody. The last good snapshot of a cluster is never removed.
package retention

import (
	"fmt"
	"slices"
	"strings"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
)

// Policy is what a schedule says of its snapshots.
type Policy struct {
	Retention *requorumv1.Retention // on the nodes; nil keeps everything
	Zone      *time.Location        // of days, weeks and months
	Paused    bool                  // removes nothing

	Remote string                // that stores them, too; empty for none
	Stored *requorumv1.Retention // in the remote; nil keeps everything
}

// Verdict says what becomes of a snapshot in one place.
type Verdict struct {
	Snapshot *requorumv1.Snapshot
	Remote   string // the place; empty for the nodes
	Remove   bool
	Reason   string

	counts bool // a good copy is in the place, or is to be
}

// Judge returns a verdict for every READY snapshot, newest first. snapshots are those of one cluster, policies those of
// its schedules, by name.
func Judge(snapshots []*requorumv1.Snapshot, policies map[string]Policy, now time.Time) []Verdict {
	ready := slices.DeleteFunc(slices.Clone(snapshots), func(s *requorumv1.Snapshot) bool { return !catalog.Good(s) })
	slices.SortStableFunc(ready, catalog.NewestFirst)
	verdicts := make([]Verdict, len(ready))
	groups := make(map[string][]*Verdict) // by schedule
	for i, s := range ready {
		verdicts[i].Snapshot, verdicts[i].counts = s, held(s)
		if scheduled(s) {
			groups[s.GetSchedule()] = append(groups[s.GetSchedule()], &verdicts[i])
			continue
		}
		judgeAlone(&verdicts[i], now)
	}
	for schedule, group := range groups {
		policy, known := policies[schedule]
		judgeGroup(group, schedule, policy, known, now)
	}
	keepUnstored(verdicts, policies, now)
	keepLastGood(verdicts)
	return verdicts
}

// JudgeRemotes returns a verdict for every copy in a remote that a schedule stores its snapshots in, newest first: for the good
// ones, and for those that are missing there. A missing one pushes out nobody, and goes when it would go if it were there: so ends
// a removal whose answer was lost, whatever it has removed. Copies that a person has stored elsewhere are nobody's to judge.
func JudgeRemotes(snapshots []*requorumv1.Snapshot, policies map[string]Policy, now time.Time) []Verdict {
	return judgeStored(snapshots, policies, now, stored, missing)
}

// Unstored returns the snapshots, newest first, that nodes hold and that are to be in their schedule's remote but are not.
func Unstored(snapshots []*requorumv1.Snapshot, policies map[string]Policy, now time.Time) []Verdict {
	all := judgeStored(snapshots, policies, now, func(s *requorumv1.Snapshot, remote string) bool { return held(s) || stored(s, remote) }, nobody)
	return slices.DeleteFunc(all, func(v Verdict) bool {
		return v.Remove || stored(v.Snapshot, v.Remote) || policies[v.Snapshot.GetSchedule()].Paused
	})
}

// in tells something of a snapshot's copy in a remote.
type in func(s *requorumv1.Snapshot, remote string) bool

func nobody(*requorumv1.Snapshot, string) bool { return false }

// judgeStored judges the scheduled snapshots that count as being in their schedule's remote, and those that only also
// do: they are judged, and count for nothing.
func judgeStored(snapshots []*requorumv1.Snapshot, policies map[string]Policy, now time.Time, counts, also in) []Verdict {
	sorted := slices.Clone(snapshots)
	slices.SortStableFunc(sorted, catalog.NewestFirst)
	groups := make(map[string][]*Verdict) // by schedule
	verdicts := make([]Verdict, 0, len(sorted))
	for _, s := range sorted {
		policy := policies[s.GetSchedule()]
		if !catalog.Good(s) || !scheduled(s) || policy.Remote == "" {
			continue
		}
		counted := counts(s, policy.Remote)
		if !counted && !also(s, policy.Remote) {
			continue
		}
		verdicts = append(verdicts, Verdict{Snapshot: s, Remote: policy.Remote, counts: counted})
		groups[s.GetSchedule()] = append(groups[s.GetSchedule()], &verdicts[len(verdicts)-1])
	}
	for schedule, group := range groups {
		policy := policies[schedule]
		policy.Retention = policy.Stored
		judgeGroup(group, schedule, policy, true, now)
		keepLastStored(group, schedule, policy.Remote)
	}
	return verdicts
}

// keepLastStored keeps the newest good one of a schedule in its remote if all of them would go. Where none is good, one that is
// missing may be there after all, if its removal was begun and did not take effect: the newest stays, too.
func keepLastStored(group []*Verdict, schedule, remote string) {
	last := slices.IndexFunc(group, func(v *Verdict) bool { return v.counts })
	if last < 0 {
		last = 0
	}
	if !slices.ContainsFunc(group, func(v *Verdict) bool { return !v.Remove && v.counts == group[last].counts }) {
		group[last].keep("it is the last good one of schedule " + schedule + " in remote " + remote)
	}
}

// stored tells whether a remote has a good copy, as far as is known.
func stored(s *requorumv1.Snapshot, remote string) bool {
	return copyIn(s, remote, requorumv1.CopyState_COPY_STATE_GOOD)
}

// missing tells whether a remote was to have a copy and has none any more, or its removal was begun.
func missing(s *requorumv1.Snapshot, remote string) bool {
	return copyIn(s, remote, requorumv1.CopyState_COPY_STATE_MISSING)
}

func copyIn(s *requorumv1.Snapshot, remote string, state requorumv1.CopyState) bool {
	return slices.ContainsFunc(s.GetRemotes(), func(c *requorumv1.RemoteCopy) bool {
		return c.GetRemote() == remote && c.GetState() == state
	})
}

// keepUnstored keeps on the nodes what their schedule's remote is still to get.
func keepUnstored(verdicts []Verdict, policies map[string]Policy, now time.Time) {
	snapshots := make([]*requorumv1.Snapshot, len(verdicts))
	for i, v := range verdicts {
		snapshots[i] = v.Snapshot
	}
	waiting := make(map[string]string) // remotes, by name of the snapshot
	for _, v := range Unstored(snapshots, policies, now) {
		waiting[v.Snapshot.GetName()] = v.Remote
	}
	for i := range verdicts {
		if v := &verdicts[i]; v.Remove && waiting[v.Snapshot.GetName()] != "" {
			v.keep("it waits to be stored in remote " + waiting[v.Snapshot.GetName()])
		}
	}
}

func scheduled(s *requorumv1.Snapshot) bool {
	return s.GetKind() == requorumv1.SnapshotKind_SNAPSHOT_KIND_SCHEDULED && s.GetSchedule() != ""
}

// Taken is when a snapshot was taken.
func Taken(s *requorumv1.Snapshot) time.Time {
	if created := s.GetManifest().GetCreated(); created != nil {
		return created.AsTime()
	}
	return s.GetCreated().AsTime()
}

// judgeAlone judges a snapshot that no schedule took.
func judgeAlone(v *Verdict, now time.Time) {
	expires := v.Snapshot.GetExpires()
	switch {
	case expires == nil:
		v.keep("no schedule took it: it stays until a person removes it")
	case expires.AsTime().After(now):
		v.keep("it stays until " + stamp(expires.AsTime()))
	default:
		v.remove("it expired at " + stamp(expires.AsTime()))
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (v *Verdict) keep(reason string)   { v.Remove, v.Reason = false, reason }
func (v *Verdict) remove(reason string) { v.Remove, v.Reason = true, reason }

// judgeGroup judges the snapshots of one schedule, the newest first.
func judgeGroup(group []*Verdict, schedule string, policy Policy, known bool, now time.Time) {
	whole := ""
	switch {
	case !known:
		whole = fmt.Sprintf("its schedule %s is gone: it stays until a person removes it", schedule)
	case policy.Paused:
		whole = fmt.Sprintf("schedule %s is paused", schedule)
	case empty(policy.Retention):
		whole = fmt.Sprintf("schedule %s keeps all of its snapshots", schedule)
	}
	if whole != "" {
		for _, v := range group {
			v.keep(whole)
		}
		return
	}
	reasons := keptBy(group, policy)
	for i, v := range group {
		judgeOne(v, schedule, policy.Retention, reasons[i], now)
	}
}

func empty(r *requorumv1.Retention) bool { return r.GetTtl() == nil && !counts(r) }

// counts tells whether the retention keeps by number, and not by age only.
func counts(r *requorumv1.Retention) bool {
	return r.GetLast()+r.GetHourly()+r.GetDaily()+r.GetWeekly()+r.GetMonthly() > 0
}

// judgeOne judges a snapshot of a schedule, for which reasons say what keeps it.
func judgeOne(v *Verdict, schedule string, r *requorumv1.Retention, reasons []string, now time.Time) {
	age := now.Sub(Taken(v.Snapshot))
	switch ttl := r.GetTtl(); {
	case v.Remote == "" && len(v.Snapshot.GetCopies()) == 0 && len(v.Snapshot.GetRemotes()) > 0:
		v.keep("only remotes hold it")
	case ttl != nil && age >= ttl.AsDuration():
		v.remove(fmt.Sprintf("it is older than the %s that schedule %s keeps snapshots", ttl.AsDuration(), schedule))
	case v.Remote == "" && !v.counts:
		v.keep("no node has a good copy: it does not count")
	case !v.counts && len(reasons) > 0:
		v.keep("it is missing there and does not count; schedule " + schedule + " would keep it")
	case len(reasons) > 0:
		v.keep(strings.Join(reasons, ", ") + " of schedule " + schedule)
	case counts(r):
		v.remove(fmt.Sprintf("schedule %s keeps %s", schedule, Describe(r)))
	default:
		v.keep("it is younger than the " + r.GetTtl().AsDuration().String() + " that schedule " + schedule + " keeps snapshots")
	}
}

// held tells whether a node has a good copy, as far as is known.
func held(s *requorumv1.Snapshot) bool {
	return slices.ContainsFunc(s.GetCopies(), func(c *requorumv1.Copy) bool {
		return c.GetState() == requorumv1.CopyState_COPY_STATE_GOOD
	})
}

// rule keeps one snapshot of each of the newest most periods.
type rule struct {
	name   string
	most   uint32
	period func(time.Time) string // the same for all of one period
}

func rules(p Policy) []rule {
	r := p.Retention
	in := func(format string) func(time.Time) string {
		return func(t time.Time) string { return t.In(p.Zone).Format(format) }
	}
	return []rule{
		{"last", r.GetLast(), nil},
		{"hourly", r.GetHourly(), in("2006-01-02T15-0700")}, // with the offset: an hour that comes twice is two
		{"daily", r.GetDaily(), in("2006-01-02")},
		{"weekly", r.GetWeekly(), func(t time.Time) string {
			year, week := t.In(p.Zone).ISOWeek()
			return fmt.Sprintf("%d-%d", year, week)
		}},
		{"monthly", r.GetMonthly(), in("2006-01")},
	}
}

// keptBy returns, for each snapshot of a schedule, the rules that keep it, or would if it counted.
func keptBy(group []*Verdict, policy Policy) [][]string {
	reasons := make([][]string, len(group))
	for _, rule := range rules(policy) {
		kept, seen := uint32(0), make(map[string]bool)
		for i, v := range group {
			period := "" // of one that is kept by its number alone
			if rule.period != nil {
				period = rule.period(Taken(v.Snapshot))
			}
			if kept == rule.most || seen[period] {
				continue
			}
			reasons[i] = append(reasons[i], fmt.Sprintf("%s %d of %d", rule.name, kept+1, rule.most))
			if v.counts {
				kept, seen[period] = kept+1, rule.period != nil
			}
		}
	}
	return reasons
}

// Describe says what a retention keeps.
func Describe(r *requorumv1.Retention) string {
	var parts []string
	for _, rule := range rules(Policy{Retention: r, Zone: time.UTC}) {
		if rule.most > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", rule.name, rule.most))
		}
	}
	if r.GetTtl() != nil {
		parts = append(parts, "ttl "+r.GetTtl().AsDuration().String())
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

// keepLastGood keeps the newest good snapshot if all of them would go. A safety snapshot is no way back to a good
// state, and an imported one may be of another cluster: they count only where there is nothing else.
func keepLastGood(verdicts []Verdict) {
	for _, weak := range [][]requorumv1.SnapshotKind{
		{requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY, requorumv1.SnapshotKind_SNAPSHOT_KIND_IMPORTED},
		{requorumv1.SnapshotKind_SNAPSHOT_KIND_SAFETY},
		{},
	} {
		newest := -1
		for i, v := range verdicts {
			if !held(v.Snapshot) || slices.Contains(weak, v.Snapshot.GetKind()) {
				continue
			}
			if !v.Remove {
				return
			}
			if newest < 0 {
				newest = i
			}
		}
		if newest >= 0 {
			verdicts[newest].keep("it is the last good snapshot of the cluster")
			return
		}
	}
}

// Next returns when the next snapshot comes to the end of its age; the zero time if none does.
func Next(snapshots []*requorumv1.Snapshot, policies map[string]Policy, now time.Time) time.Time {
	var next time.Time
	for _, s := range snapshots {
		end := endOf(s, policies)
		if catalog.Good(s) && end.After(now) && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	return next
}

// endOf returns when a snapshot comes to the end of its age; the zero time if it does not.
func endOf(s *requorumv1.Snapshot, policies map[string]Policy) time.Time {
	if !scheduled(s) {
		if s.GetExpires() == nil {
			return time.Time{}
		}
		return s.GetExpires().AsTime()
	}
	policy := policies[s.GetSchedule()]
	var end time.Time
	if policy.Paused {
		return end
	}
	if ttl := policy.Retention.GetTtl(); ttl != nil && len(s.GetCopies()) > 0 {
		end = Taken(s).Add(ttl.AsDuration())
	}
	if ttl := policy.Stored.GetTtl(); ttl != nil && stored(s, policy.Remote) {
		if at := Taken(s).Add(ttl.AsDuration()); end.IsZero() || at.Before(end) {
			end = at
		}
	}
	return end
}
