package timetable

import (
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/seal"
)

// FieldError says what is wrong with one field of a schedule. Field is the name that the field has in a schedule's
// YAML document, with dots between levels; empty if it is about the whole.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

const (
	shortestEvery = time.Second
	shortestTTL   = time.Second
	longestPrefix = 64
	// mostKept is more than any schedule needs; a number above it is a slip.
	mostKept = 100_000

	mostRetries                 = 10
	shortestAgain, longestAgain = time.Second, 7 * 24 * time.Hour
)

// Check returns a *FieldError unless the schedule can be meant.
func Check(s *requorumv1.Schedule) error {
	for _, check := range []func(*requorumv1.Schedule) error{checkNames, checkTime, checkStagger, checkLabels, checkFiles, checkDrill, checkRetry, checkSealing} {
		if err := check(s); err != nil {
			return err
		}
	}
	if err := checkRemoteStorage(s.GetRemoteStorage()); err != nil {
		return err
	}
	return CheckRetention(s.GetLocalStorage(), "localStorage.")
}

func checkRemoteStorage(r *requorumv1.RemoteStorage) error {
	if r == nil {
		return nil
	}
	if r.GetRemote() == "" {
		return wrong("remoteStorage", "remote is missing: name one that the controller has (requorum remote ls shows them)")
	}
	return CheckRetention(r.GetRetention(), "remoteStorage.")
}

func checkDrill(s *requorumv1.Schedule) error {
	d := s.GetDrill()
	switch every := d.GetEvery(); {
	case d == nil:
	case d.GetAfter() == 0 && every == nil:
		return wrong("drill", "neither after nor every is given: say after which runs, as drill: {after: 1} or drill: {every: 7d}")
	case d.GetAfter() > 0 && every != nil:
		return wrong("drill", "after and every do not go together: remove one of them")
	case d.GetAfter() > mostKept:
		return wrong("drill.after", "%d is more than %d", d.GetAfter(), mostKept)
	case every != nil && (every.CheckValid() != nil || every.AsDuration() < shortestEvery):
		return wrong("drill.every", "%s is too short; at least %s has to pass", every.AsDuration(), shortestEvery)
	}
	return nil
}

func checkRetry(s *requorumv1.Schedule) error {
	limit, _ := Retries(s)
	if limit > mostRetries {
		return wrong("retry.limit", "%d is more than %d", limit, mostRetries)
	}
	after := s.GetRetry().GetAfter()
	if after != nil && (after.CheckValid() != nil || after.AsDuration() < shortestAgain || after.AsDuration() > longestAgain) {
		return wrong("retry.after", "%s cannot be used; it is from %s to %s", after.AsDuration(), shortestAgain, longestAgain)
	}
	return nil
}

// checkSealing refuses what cannot be sealed, and drills of what the controller cannot open.
func checkSealing(s *requorumv1.Schedule) error {
	l := s.GetLocalSealing()
	if err := (seal.Options{Level: int(l.GetZstdLevel())}).Check(); err != nil {
		return wrong("localStorage.zstdLevel", "%v", err)
	}
	if err := (seal.Options{Recipients: l.GetRecipients()}).Check(); err != nil {
		return wrong("localStorage.recipients", "%v", err)
	}
	if len(l.GetRecipients()) > 0 && s.GetDrill() != nil {
		return wrong("drill", "its snapshots are encrypted on the nodes, and nobody there can open one: remove the drill, and prove one restorable by hand (requorum snapshot verify NAME --identity FILE)")
	}
	return nil
}

func wrong(field, format string, args ...any) error {
	return &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
}

func checkNames(s *requorumv1.Schedule) error {
	if s.GetName() == "" {
		return wrong("", "name is missing: give the schedule one, as name: nightly")
	}
	if s.GetCluster() == "" {
		return wrong("", "cluster is missing: say whose snapshots to take, as cluster: prod (requorum cluster ls shows them)")
	}
	for field, name := range map[string]string{"name": s.GetName(), "cluster": s.GetCluster(), "prefix": s.GetPrefix()} {
		if name == "" {
			continue // a prefix may be left out
		}
		kind := field
		if kind == "name" {
			kind = "schedule"
		}
		if err := names.Check(kind, name); err != nil {
			return wrong(field, "%v", err)
		}
		if field != "cluster" && len(name) > longestPrefix {
			return wrong(field, "%q has %d characters; snapshots are named after it, so %d is the most", name, len(name), longestPrefix)
		}
	}
	return nil
}

func checkTime(s *requorumv1.Schedule) error {
	every := s.GetEvery()
	switch {
	case s.GetCron() == "" && every == nil:
		return wrong("", `neither cron nor every is given: say when, as cron: "0 */12 * * *" or every: 12h`)
	case s.GetCron() != "" && every != nil:
		return wrong("every", "cron and every do not go together: remove one of them")
	case every != nil && s.GetTimezone() != "" && s.GetLocalStorage() == nil && s.GetRemoteStorage() == nil:
		return wrong("timezone", "it is of no use with every: remove it, or use cron")
	case every != nil && (every.CheckValid() != nil || every.AsDuration() < shortestEvery):
		return wrong("every", "%s is too short; at least %s has to pass", every.AsDuration(), shortestEvery)
	}
	zone, err := time.LoadLocation(s.GetTimezone())
	if err != nil || s.GetTimezone() == "Local" {
		return wrong("timezone", "there is no time zone %q; name one as Europe/Berlin or America/New_York, or leave it out for UTC", s.GetTimezone())
	}
	if s.GetCron() == "" {
		return nil
	}
	if _, err := parse(s.GetCron(), zone); err != nil {
		return wrong("cron", `%q cannot be used: %v; write it as "0 */12 * * *" (every 12 hours) or "30 2 * * 1-5" (at 02:30 from Monday to Friday)`, s.GetCron(), err)
	}
	return nil
}

func checkStagger(s *requorumv1.Schedule) error {
	stagger := s.GetStagger()
	if stagger == nil {
		return nil
	}
	if stagger.CheckValid() != nil || stagger.AsDuration() < 0 {
		return wrong("stagger", "%s is negative", stagger.AsDuration())
	}
	if every := s.GetEvery().AsDuration(); every > 0 && stagger.AsDuration() > every {
		return wrong("stagger", "%s is longer than every, which is %s", stagger.AsDuration(), every)
	}
	if stagger.AsDuration() > 7*24*time.Hour {
		return wrong("stagger", "%s is more than a week", stagger.AsDuration())
	}
	return nil
}

func checkFiles(s *requorumv1.Schedule) error {
	for _, set := range s.GetFiles() {
		if err := names.Check("set", set); err != nil {
			return wrong("files", "%v", err)
		}
	}
	return nil
}

const mostLabels = 64

func checkLabels(s *requorumv1.Schedule) error {
	if len(s.GetLabels()) > mostLabels {
		return wrong("labels", "there are %d; %d is the most", len(s.GetLabels()), mostLabels)
	}
	for key := range s.GetLabels() {
		if strings.TrimSpace(key) == "" {
			return wrong("labels", "a label without a key")
		}
	}
	return nil
}

// CheckRetention returns a *FieldError, whose field begins with prefix, unless the retention can be meant. None at
// all keeps everything.
func CheckRetention(r *requorumv1.Retention, prefix string) error {
	if r == nil {
		return nil
	}
	if r.GetTtl() != nil && (r.GetTtl().CheckValid() != nil || r.GetTtl().AsDuration() < shortestTTL) {
		return wrong(prefix+"ttl", "%s is too short; it is at least %s", r.GetTtl().AsDuration(), shortestTTL)
	}
	for field, n := range map[string]uint32{
		"last": r.GetLast(), "hourly": r.GetHourly(), "daily": r.GetDaily(), "weekly": r.GetWeekly(), "monthly": r.GetMonthly(),
	} {
		if n > mostKept {
			return wrong(prefix+field, "%d is more than %d", n, mostKept)
		}
	}
	return nil
}

// CheckTTL returns a *FieldError unless a snapshot's age of expiry can be meant.
func CheckTTL(ttl *durationpb.Duration) error {
	if ttl == nil {
		return nil
	}
	if ttl.CheckValid() != nil || ttl.AsDuration() < shortestTTL || ttl.AsDuration() > math.MaxInt64/2 {
		return wrong("ttl", "%s cannot be used; it is at least %s", ttl.AsDuration(), shortestTTL)
	}
	return nil
}
