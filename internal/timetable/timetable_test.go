package timetable_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/timetable"
)

func byCron(spec, zone string) *requorumv1.Schedule {
	return &requorumv1.Schedule{Name: "nightly", Cluster: "prod", Cron: spec, Timezone: zone}
}

func table(t *testing.T, s *requorumv1.Schedule) *timetable.Table {
	t.Helper()
	if err := timetable.Check(s); err != nil {
		t.Fatal(err)
	}
	table, err := timetable.New(s)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// dues are the next n due times after since, in the schedule's zone.
func dues(t *testing.T, s *requorumv1.Schedule, since time.Time, n int) string {
	t.Helper()
	table := table(t, s)
	var all []string
	for at := table.First(since); len(all) < n; at = table.Next(at) {
		all = append(all, at.In(table.Zone()).Format("02T15:04:05-07"))
	}
	return strings.Join(all, " ")
}

func TestCronHasItsFiveFields(t *testing.T) {
	since := time.Date(2026, 7, 15, 12, 30, 0, 0, time.UTC) // a Wednesday
	for spec, want := range map[string]string{
		"0 */12 * * *": "16T00:00:00+00 16T12:00:00+00 17T00:00:00+00",
		"30 2 * * 1-5": "16T02:30:00+00 17T02:30:00+00 20T02:30:00+00",
		"0 0 * * SUN":  "19T00:00:00+00 26T00:00:00+00 02T00:00:00+00",
		"0 0 1 * 1":    "20T00:00:00+00 27T00:00:00+00 01T00:00:00+00", // either day, as cron has it
	} {
		if got := dues(t, byCron(spec, ""), since, 3); got != want {
			t.Errorf("%s: %s, want %s", spec, got, want)
		}
	}
}

// In spring, what falls into the hour that is missing comes as long after the change as it would have come after its
// hour began. In autumn, what falls into the hour that comes twice comes twice: a snapshot too many harms nobody.
func TestChangeOfTheClocks(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	spring, autumn := time.Date(2026, 3, 28, 12, 0, 0, 0, zone), time.Date(2026, 10, 25, 0, 10, 0, 0, zone)
	for _, c := range []struct {
		spec  string
		since time.Time
		want  string
	}{
		{"30 2 * * *", spring, "29T03:30:00+02 30T02:30:00+02 31T02:30:00+02"},
		{"0 * * * *", spring.Add(12 * time.Hour), "29T01:00:00+01 29T03:00:00+02 29T04:00:00+02"},
		{"30 2 * * *", autumn, "25T02:30:00+02 25T02:30:00+01 26T02:30:00+01"},
		{"0 * * * *", autumn, "25T01:00:00+02 25T02:00:00+02 25T02:00:00+01"},
		{"0 4 * * *", autumn, "25T04:00:00+01 26T04:00:00+01 27T04:00:00+01"},
	} {
		if got := dues(t, byCron(c.spec, "Europe/Berlin"), c.since, 3); got != c.want {
			t.Errorf("%s since %s: %s, want %s", c.spec, c.since, got, c.want)
		}
	}
}

func TestElapsedTime(t *testing.T) {
	since := time.Date(2026, 7, 15, 12, 30, 0, 0, time.UTC)
	s := &requorumv1.Schedule{Name: "n", Cluster: "prod", Every: durationpb.New(12 * time.Hour)}
	if got, want := dues(t, s, since, 3), "15T12:30:00+00 16T00:30:00+00 16T12:30:00+00"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// One run makes up for all that were missed.
func TestMissedTimesAreOne(t *testing.T) {
	due := time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC)
	hourly := byCron("0 * * * *", "")
	every := &requorumv1.Schedule{Name: "n", Cluster: "prod", Every: durationpb.New(time.Hour)}
	for _, s := range []*requorumv1.Schedule{hourly, every} {
		for now, want := range map[time.Time]string{
			due:                             "12:00 and 0 others",
			due.Add(59 * time.Minute):       "12:00 and 0 others",
			due.Add(time.Hour):              "13:00 and 1 others",
			due.Add(5*time.Hour + 1):        "17:00 and 5 others",
			due.Add(-time.Minute):           "12:00 and 0 others",
			due.Add(48*time.Hour + 30*60e9): "12:00 and 48 others",
		} {
			latest, others := table(t, s).Latest(due, now)
			if got := fmt.Sprintf("%s and %d others", latest.UTC().Format("15:04"), others); got != want {
				t.Errorf("cron %q at %s: %s, want %s", s.GetCron(), now, got, want)
			}
		}
	}
	if latest, others := table(t, byCron("* * * * *", "")).Latest(due, due.AddDate(3, 0, 0)); others < 1000 || latest.Before(due.AddDate(2, 0, 0)) {
		t.Errorf("after three years: %s, %d", latest, others)
	}
}

func TestStaggerGivesEachClusterItsOwnPlace(t *testing.T) {
	since := time.Date(2026, 7, 15, 12, 30, 0, 0, time.UTC)
	places := map[time.Duration]bool{}
	for i := range 20 {
		s := byCron("0 0 * * *", "")
		s.Cluster, s.Stagger = fmt.Sprintf("c%d", i), durationpb.New(time.Hour)
		first := table(t, s).First(since)
		place := first.Sub(time.Date(2026, 7, 16, 0, 0, 0, 0, time.UTC))
		if place < 0 || place >= time.Hour || place != place.Truncate(time.Second) {
			t.Errorf("cluster %s begins %s after midnight", s.GetCluster(), place)
		}
		places[place] = true
		if next := table(t, s).Next(first); next.Sub(first) != 24*time.Hour {
			t.Errorf("the run after is %s later", next.Sub(first))
		}
		if again := table(t, s).First(first.Add(-time.Second)); !again.Equal(first) {
			t.Errorf("a moment before it is due, the first is %s, not %s", again, first)
		}
	}
	if len(places) < 18 {
		t.Errorf("20 clusters have only %d places", len(places))
	}
}

func TestCheckSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(*requorumv1.Schedule)
		field, want string
	}{
		"no name":        {func(s *requorumv1.Schedule) { s.Name = "" }, "", "name is missing"},
		"no cluster":     {func(s *requorumv1.Schedule) { s.Cluster = "" }, "", "cluster is missing"},
		"neither":        {func(s *requorumv1.Schedule) { s.Cron = "" }, "", "neither cron nor every is given: say when"},
		"both":           {func(s *requorumv1.Schedule) { s.Every = durationpb.New(time.Hour) }, "every", "do not go together: remove one"},
		"a name":         {func(s *requorumv1.Schedule) { s.Name = "a/b" }, "name", `has "/" in it`},
		"a prefix":       {func(s *requorumv1.Schedule) { s.Prefix = "../x" }, "prefix", "begins with a dot"},
		"a long name":    {func(s *requorumv1.Schedule) { s.Name = strings.Repeat("n", 65) }, "name", "64 is the most"},
		"four fields":    {func(s *requorumv1.Schedule) { s.Cron = "0 * * *" }, "cron", "it has 4 fields, not the five of cron"},
		"six fields":     {func(s *requorumv1.Schedule) { s.Cron = "0 0 * * * *" }, "cron", "it has 6 fields"},
		"a descriptor":   {func(s *requorumv1.Schedule) { s.Cron = "@daily" }, "cron", "it has 1 fields"},
		"out of range":   {func(s *requorumv1.Schedule) { s.Cron = "61 * * * *" }, "cron", `"61 * * * *" cannot be used`},
		"nonsense":       {func(s *requorumv1.Schedule) { s.Cron = "a b c d e" }, "cron", "write it as"},
		"never":          {func(s *requorumv1.Schedule) { s.Cron = "0 0 30 2 *" }, "cron", "it never comes due"},
		"a zone in cron": {func(s *requorumv1.Schedule) { s.Cron = "TZ=Asia/Tokyo 0 0 * * *" }, "cron", "the time zone stands in timezone"},
		"a zone":         {func(s *requorumv1.Schedule) { s.Timezone = "Mars/Olympus" }, "timezone", "there is no time zone"},
		"the machine's":  {func(s *requorumv1.Schedule) { s.Timezone = "Local" }, "timezone", "there is no time zone"},
		"too often":      {func(s *requorumv1.Schedule) { s.Cron, s.Every = "", durationpb.New(time.Millisecond) }, "every", "too short"},
		"backwards":      {func(s *requorumv1.Schedule) { s.Cron, s.Every = "", durationpb.New(-time.Hour) }, "every", "too short"},
		"a long stagger": {func(s *requorumv1.Schedule) {
			s.Cron, s.Every, s.Stagger = "", durationpb.New(time.Hour), durationpb.New(2*time.Hour)
		}, "stagger", "longer than every"},
		"an empty drill": {func(s *requorumv1.Schedule) { s.Drill = &requorumv1.Drill{} }, "drill", "neither after nor every"},
		"a double drill": {func(s *requorumv1.Schedule) {
			s.Drill = &requorumv1.Drill{After: 1, Every: durationpb.New(time.Hour)}
		}, "drill", "do not go together"},
		"a rare drill":   {func(s *requorumv1.Schedule) { s.Drill = &requorumv1.Drill{After: 1e6} }, "drill.after", "more than"},
		"a quick drill":  {func(s *requorumv1.Schedule) { s.Drill = &requorumv1.Drill{Every: durationpb.New(0)} }, "drill.every", "too short"},
		"many retries":   {func(s *requorumv1.Schedule) { s.Retry = &requorumv1.Retry{Limit: proto.Uint32(11)} }, "retry.limit", "11 is more than 10"},
		"a quick retry":  {func(s *requorumv1.Schedule) { s.Retry = &requorumv1.Retry{After: durationpb.New(0)} }, "retry.after", "0s cannot be used"},
		"a late retry":   {func(s *requorumv1.Schedule) { s.Retry = &requorumv1.Retry{After: durationpb.New(8 * 24 * time.Hour)} }, "retry.after", "192h0m0s cannot be used"},
		"a short ttl":    {func(s *requorumv1.Schedule) { s.LocalStorage = &requorumv1.Retention{Ttl: durationpb.New(0)} }, "localStorage.ttl", "too short"},
		"too many":       {func(s *requorumv1.Schedule) { s.LocalStorage = &requorumv1.Retention{Daily: 1e6} }, "localStorage.daily", "more than"},
		"an empty label": {func(s *requorumv1.Schedule) { s.Labels = map[string]string{" ": "x"} }, "labels", "without a key"},
	} {
		t.Run(name, func(t *testing.T) {
			s := byCron("0 0 * * *", "")
			c.change(s)
			var wrong *timetable.FieldError
			if err := timetable.Check(s); !errors.As(err, &wrong) || wrong.Field != c.field || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s: %s", err, c.field, c.want)
			}
		})
	}
	if err := timetable.Check(byCron("0 0 * * *", "America/New_York")); err != nil {
		t.Error(err)
	}
}

// FuzzCron: whatever stands in cron, it is refused or comes due later than it was last due.
func FuzzCron(f *testing.F) {
	for _, spec := range []string{"0 */12 * * *", "30 2 * * 1-5", "@every 1s", "TZ=x 1 1 1 1 1", "*/0 * * * *", "0 0 31 2 *", "? ? ? ? ?", "1-99999999999 * * * *"} {
		f.Add(spec)
	}
	since := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, spec string) {
		s := byCron(spec, "Europe/Berlin")
		if spec == "" || timetable.Check(s) != nil {
			return
		}
		table, err := timetable.New(s)
		if err != nil {
			t.Fatalf("%q passes the check, and then: %v", spec, err)
		}
		if next := table.Next(since); !next.IsZero() && !next.After(since) {
			t.Fatalf("%q is due at %s, after %s", spec, next, since)
		}
	})
}
