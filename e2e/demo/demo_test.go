package main

import (
	"bytes"
	"context"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStory plays the whole demo, which proves what it tells, and holds the recording to the same chapters.
func TestStory(t *testing.T) {
	var told bytes.Buffer
	if err := play(t.Context(), &told, false); err != nil {
		t.Fatalf("%v; so far it told:\n%s", err, told.String())
	}
	recorded, err := os.ReadFile("../../docs/demo.txt")
	if err != nil {
		t.Fatal(err)
	}
	chapters := regexp.MustCompile(`(?m)^\d\. .*$|^ +\$ .*$|✓ etcd-\d: .*$`)
	now, then := chapters.FindAllString(told.String(), -1), chapters.FindAllString(string(recorded), -1)
	if !slices.Equal(now, then) {
		t.Errorf("docs/demo.txt tells another story; make it anew with: go run ./e2e/demo -record\nnow:\n%s\nrecorded:\n%s",
			strings.Join(now, "\n"), strings.Join(then, "\n"))
	}
}

func TestInterruptedStoryLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	ctx, cancel := context.WithCancel(t.Context())
	out := writer(func(text string) {
		if strings.Contains(text, "$ requorum restore") {
			cancel()
		}
	})
	if err := play(ctx, out, false); err == nil {
		t.Error("an interrupted demo ends without an error")
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), "requorum-demo-") {
			t.Errorf("%s is left behind", e.Name())
		}
	}
	if running := processesIn(t, dir); len(running) > 0 {
		t.Errorf("these processes still run:\n%s", strings.Join(running, "\n"))
	}
}

type writer func(string)

func (w writer) Write(p []byte) (int, error) {
	w(string(p))
	return len(p), nil
}

// processesIn returns the command lines of processes that name the directory.
func processesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && bytes.Contains(line, []byte(dir)) {
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

func TestPictureIsOfTheRecording(t *testing.T) {
	text, err := os.ReadFile("../../docs/demo.txt")
	if err != nil {
		t.Fatal(err)
	}
	drawn, err := os.ReadFile("../../docs/demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	if picture(excerpt(string(text))) != string(drawn) {
		t.Error("docs/demo.svg does not show docs/demo.txt; make both anew with: go run ./e2e/demo -record")
	}
	if !strings.Contains(string(drawn), "Without\u00a0service:") {
		t.Error("the picture does not show the figures")
	}
}

func TestCompareFindsEveryDifference(t *testing.T) {
	saved := map[string]entry{"a": {"1", 1, 2, 2}, "b": {"2", 2, 3, 4}}
	with := func(key string, e entry) map[string]entry {
		changed := maps.Clone(saved)
		changed[key] = e
		return changed
	}
	without := map[string]entry{"a": saved["a"]}
	for name, c := range map[string]struct {
		have map[string]entry
		want string // in the error; empty for none
	}{
		"the same":                     {maps.Clone(saved), ""},
		"a key that was written since": {with("probe", entry{"x", 1, 100, 100}), ""},
		"a later key is still there":   {with("c", entry{"3", 1, 99, 99}), "key c is there"},
		"a key is missing":             {without, "key b of the snapshot is missing"},
		"another value":                {with("b", entry{"x", 2, 3, 4}), "key b is {Value:x"},
		"another version":              {with("b", entry{"2", 3, 3, 4}), "Version:3"},
		"another revision":             {with("b", entry{"2", 2, 3, 5}), "Modified:5"},
		"deleted and written since":    {with("b", entry{"2", 2, 100, 101}), "Created:100"},
		"nothing is there":             {nil, "key a of the snapshot is missing"},
	} {
		err := compare(saved, c.have, 100)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

func TestRestoredClusterIsNew(t *testing.T) {
	for name, c := range map[string]struct {
		have content
		good bool
	}{
		"new":               {content{nil, fresh + 12, 7, true}, true},
		"the old ID":        {content{nil, fresh + 12, 1, true}, false},
		"another ID":        {content{nil, fresh + 12, 8, true}, false},
		"the old revision":  {content{nil, 12, 7, true}, false},
		"nothing compacted": {content{nil, fresh + 12, 7, false}, false},
	} {
		if err := c.have.isNew(1, 7); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTrackFindsTheLongestGap(t *testing.T) {
	start := time.Unix(0, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	var tr track
	for _, answered := range []int{0, 10, 30} {
		tr.note(at(answered), nil)
	}
	tr.note(at(200), context.DeadlineExceeded)
	tr.note(at(400), context.DeadlineExceeded)
	for _, answered := range []int{430, 440} {
		tr.note(at(answered), nil)
	}
	if tr.outage != (gap{at(30), at(430)}) || tr.failed != 2 || tr.answered != 5 {
		t.Errorf("outage %v, %d failed, %d answered", tr.outage, tr.failed, tr.answered)
	}
}

func TestMeasurementMustFitWhatIsReported(t *testing.T) {
	seen := func(d time.Duration, failed int) *track {
		return &track{failed: failed, outage: gap{time.Unix(0, 0), time.Unix(0, 0).Add(d)}}
	}
	for name, c := range map[string]struct {
		track *track
		good  bool
	}{
		"a little less":    {seen(1900*time.Millisecond, 9), true},
		"a little more":    {seen(2500*time.Millisecond, 9), true},
		"much more":        {seen(4*time.Second, 9), false},
		"nothing noticed":  {seen(10*time.Millisecond, 0), false},
		"nothing measured": {seen(0, 9), false},
	} {
		if err := plausible(2*time.Second, c.track); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoiseIsOnlyAboutSingleNodes(t *testing.T) {
	for line, drop := range map[string]bool{
		"04:51:03 stop: etcd-1 begun":                      true,
		"04:51:03 stop: etcd-1 done":                       true,
		"04:51:03 stop: begun":                             true,
		"04:51:03 stop: done in 1.2s":                      false,
		"04:51:03 stop: etcd-1 failed (no answer for 30s)": false,
		"04:51:03 stop: failed in 1.2s":                    false,
		"  old data of etcd-1 is in /var/lib/x until then": true,
		"  ! 14 revisions newer than the snapshot":         false,
	} {
		if noise.MatchString(line) != drop {
			t.Errorf("%q: dropped is %v, want %v", line, !drop, drop)
		}
	}
}
