package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func newReport() *Report { return &Report{Began: time.Now(), progress: io.Discard} }

func TestTargetsAreJudgedByTheRatioOrByTheAmountItself(t *testing.T) {
	for name, c := range map[string]struct {
		row  Row
		want bool
	}{
		"a ratio below":             {Row{Measured: 5, Base: 4, Target: 1.25}, true},
		"a ratio above":             {Row{Measured: 5.1, Base: 4, Target: 1.25}, false},
		"a ratio that is a minimum": {Row{Measured: 95, Base: 100, Target: 0.95, AtLeast: true}, true},
		"below a minimum":           {Row{Measured: 94, Base: 100, Target: 0.95, AtLeast: true}, false},
		"an amount below":           {Row{Measured: 64, Target: 64}, true},
		"an amount above":           {Row{Measured: 65, Target: 64}, false},
		"no target":                 {Row{Measured: 1000, Base: 1}, true},
	} {
		r := newReport()
		r.Add(c.row)
		if r.Rows[0].Met != c.want || (r.Missed() == 0) != c.want {
			t.Errorf("%s: met is %v, want %v", name, r.Rows[0].Met, c.want)
		}
	}
}

func TestTableShowsWhatIsMissedAndWhy(t *testing.T) {
	r := newReport()
	r.Add(Row{What: "a save", Size: gib, Against: "etcdctl", Unit: "s", Measured: 6, Base: 2, Target: 2, Note: "The disk is the limit."})
	r.Add(Row{What: "memory", Unit: "bytes", Measured: 10 << 20, Target: 64 << 20})
	table := r.Table()
	for _, want := range []string{"a save (1 GiB) [1]", "3 ×", "≤ 2 ×", "MISSED", "[1] The disk is the limit.", "| 10 MiB", "≤ 64 MiB", "| met"} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in\n%s", want, table)
		}
	}
}

func TestFiguresGoBetweenTheMarkersOfAPage(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := newReport()
	r.Add(Row{What: "memory", Unit: "bytes", Measured: 1 << 20})
	write("before\n" + tableBegins + "\nold figures\n" + tableEnds + "\nafter\n")
	for range 2 { // a second time changes nothing but the figures
		if err := r.writeDoc(page); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(got)
	if !strings.HasPrefix(text, "before\n"+tableBegins) || !strings.HasSuffix(text, tableEnds+"\nafter\n") || strings.Contains(text, "old figures") || strings.Count(text, "1.0 MiB") != 1 {
		t.Errorf("the page is now\n%s", text)
	}
	write("no place for them")
	if err := r.writeDoc(page); err == nil {
		t.Error("a page without markers is written to")
	}
}

func TestJSONHoldsWhatTheTableShows(t *testing.T) {
	r := newReport()
	r.Add(Row{Section: "save", What: "a save", Unit: "s", Measured: 3, Base: 2, Target: 2})
	path := filepath.Join(t.TempDir(), "dist", "bench.json")
	if err := r.writeJSON(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 1 || got.Rows[0].Ratio != 1.5 || !got.Rows[0].Met {
		t.Errorf("%+v", got.Rows)
	}
}

func TestSizesAreRead(t *testing.T) {
	sizes, err := parseSizes("0.5, 1,4")
	if err != nil || !slices.Equal(sizes, []Size{gib / 2, gib, 4 * gib}) {
		t.Errorf("%v, %v", sizes, err)
	}
	for _, bad := range []string{"", "x", "0", "-1", "1000", "1,,2"} {
		if _, err := parseSizes(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestSectionsAreChosenByName(t *testing.T) {
	all := sections()
	for _, s := range all {
		if s.About == "" || s.Takes == nil || (s.Run == nil) == (s.RunOn == nil) {
			t.Errorf("section %q is not complete", s.Name)
		}
	}
	some, err := choose(all, []string{"writes", "save"})
	if err != nil || len(some) != 2 || some[0].Name != "save" {
		t.Errorf("%v, %v", some, err)
	}
	if _, err := choose(all, []string{"nosuch"}); err == nil || !strings.Contains(err.Error(), "save") {
		t.Errorf("a section that is not there: %v", err)
	}
}

func TestGrowthComparesTheTwoLargestSizes(t *testing.T) {
	r := newReport()
	r.Settings.Sizes = []Size{gib / 10, gib, 4 * gib}
	for _, size := range r.Settings.Sizes {
		r.Add(Row{Section: "restore", What: unavailable, Against: bareRestart, Size: size, Measured: size.GiB() * 3, Base: size.GiB() * 2})
		r.Add(Row{Section: "memory", What: hashing, Size: size, Unit: "bytes", Measured: float64(size) / 100, Target: ownMemory})
	}
	before := len(r.Rows)
	if err := growth(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	added := r.Rows[before:]
	if len(added) != 2 || added[0].Ratio != 1 || !added[0].Met || added[1].Met {
		t.Errorf("%+v", added)
	}
	if err := growth(t.Context(), &Report{Settings: r.Settings, progress: io.Discard}); err == nil {
		t.Error("nothing was measured, and growth says nothing")
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		all  []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.all); got != c.want {
			t.Errorf("of %v: %v, want %v", c.all, got, c.want)
		}
	}
}
