package audit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
)

// desk is a log with a clock that a test sets.
type desk struct {
	*Log
	now  time.Time
	file string
	db   store.Store
}

func atDesk(t *testing.T, o Options) *desk {
	t.Helper()
	dir := t.TempDir()
	db, err := bolt.Open(filepath.Join(dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	d := &desk{now: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC), file: filepath.Join(dir, "audit.log"), db: db}
	o.File, o.Now = d.file, func() time.Time { return d.now }
	d.open(t, o)
	return d
}

func (d *desk) open(t *testing.T, o Options) {
	t.Helper()
	log, err := Open(d.db, o, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	d.Log = log
}

func (d *desk) note(t *testing.T, by, cluster string) *requorumv1.AuditEntry {
	t.Helper()
	e := &requorumv1.AuditEntry{Event: requorumv1.AuditEvent_AUDIT_EVENT_CALLED, By: by, Cluster: cluster}
	if err := d.add(e); err != nil {
		t.Fatal(err)
	}
	return e
}

// inFile returns the IDs of the entries in the file, in order.
func inFile(t *testing.T, path string) (ids []string) {
	t.Helper()
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		e := new(requorumv1.AuditEntry)
		if err := protojson.Unmarshal(lines.Bytes(), e); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		ids = append(ids, e.GetId())
	}
	return ids
}

func (d *desk) inStore(t *testing.T) []string {
	t.Helper()
	all, err := d.after("")
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]string, len(all))
	for i, e := range all {
		ids[i] = e.GetId()
	}
	return ids
}

func TestEntriesAreInTheStoreAndInTheFileInOneOrderWhateverTheClockDoes(t *testing.T) {
	d := atDesk(t, Options{})
	var want []string
	for _, jump := range []time.Duration{0, time.Second, -time.Hour, 0, 2 * time.Hour, -48 * time.Hour} {
		d.now = d.now.Add(jump)
		e := d.note(t, "operator alice (admin)", "prod")
		if !e.GetTime().AsTime().Equal(d.now) {
			t.Errorf("written %s at %s", e.GetTime().AsTime(), d.now)
		}
		want = append(want, e.GetId())
	}
	if !slices.IsSorted(want) || len(slices.Compact(slices.Clone(want))) != len(want) {
		t.Errorf("IDs go backwards: %v", want)
	}
	if got := d.inStore(t); !slices.Equal(got, want) {
		t.Errorf("the store has %v, want %v", got, want)
	}
	if got := inFile(t, d.file); !slices.Equal(got, want) {
		t.Errorf("the file has %v, want %v", got, want)
	}
	if info, err := os.Stat(d.file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
}

// A controller that died, or whose disk was full, brings the file up to date. Half a line is not one.
func TestWhatTheFileLacksIsWrittenAtTheNextStart(t *testing.T) {
	d := atDesk(t, Options{})
	first := d.note(t, "operator alice (admin)", "prod")
	data, err := os.ReadFile(d.file)
	if err != nil {
		t.Fatal(err)
	}
	second, third := d.note(t, "operator alice (admin)", "prod"), d.note(t, "operator bob (operator)", "prod")
	cut := append(data, []byte(`{"id":"`+second.GetId()[:9])...)
	if err := os.WriteFile(d.file, cut, 0o600); err != nil {
		t.Fatal(err)
	}
	d.open(t, d.options)
	if got, want := inFile(t, d.file), []string{first.GetId(), second.GetId(), third.GetId()}; !slices.Equal(got, want) {
		t.Errorf("the file has %v, want %v", got, want)
	}
	if err := os.Rename(d.file, d.file+".1"); err != nil { // as logrotate does, or a crash in the middle of ours
		t.Fatal(err)
	}
	d.open(t, d.options)
	fourth := d.note(t, "operator bob (operator)", "prod")
	if got := inFile(t, d.file); !slices.Equal(got, []string{fourth.GetId()}) {
		t.Errorf("the new file has %v, want %s", got, fourth.GetId())
	}
}

// An older copy of the store must not give IDs that the file would take for entries it has.
func TestEntriesComeAfterThoseOfTheFileWhenTheStoreIsOlder(t *testing.T) {
	d := atDesk(t, Options{})
	d.note(t, "operator alice (admin)", "prod")
	err := d.db.Update(func(tx store.Tx) error {
		return tx.Each(store.Audit, "", func(id string, _ []byte) error { return tx.Delete(store.Audit, id) })
	})
	if err != nil {
		t.Fatal(err)
	}
	d.now = d.now.Add(-24 * time.Hour)
	d.open(t, d.options)
	d.note(t, "operator alice (admin)", "prod")
	if ids := inFile(t, d.file); len(ids) != 2 || ids[0] >= ids[1] {
		t.Errorf("the file has %v", ids)
	}
}

func TestNothingIsNotedWhereTheFileCannotBeWritten(t *testing.T) {
	d := atDesk(t, Options{})
	first := d.note(t, "operator alice (admin)", "prod")
	if err := errors.Join(os.Rename(d.file, d.file+".kept"), os.Mkdir(d.file, 0o700)); err != nil {
		t.Fatal(err)
	}
	lost := &requorumv1.AuditEntry{By: "operator alice (admin)"}
	if err := d.add(lost); err == nil {
		t.Fatal("an entry that is not in the file counts as written")
	}
	if err := errors.Join(os.Remove(d.file), os.Rename(d.file+".kept", d.file)); err != nil {
		t.Fatal(err)
	}
	third := d.note(t, "operator alice (admin)", "prod")
	if got, want := inFile(t, d.file), []string{first.GetId(), lost.GetId(), third.GetId()}; !slices.Equal(got, want) {
		t.Errorf("the file has %v, want %v: what failed is written with the next entry", got, want)
	}
}

func TestTheFileIsPutAsideBeforeItIsTooLarge(t *testing.T) {
	d := atDesk(t, Options{MaxFileBytes: 600, MaxFiles: 3})
	var want []string
	for range 20 {
		want = append(want, d.note(t, "operator alice (admin)", "prod").GetId())
	}
	var got []string
	for _, path := range []string{d.file + ".2", d.file + ".1", d.file} {
		info, err := os.Stat(path)
		if err != nil || info.Size() > 600 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
		got = append(got, inFile(t, path)...)
	}
	if len(got) < 3 || !slices.Equal(got, want[len(want)-len(got):]) {
		t.Errorf("the files have %v, want the last of %v without a gap", got, want)
	}
	if _, err := os.Stat(d.file + ".3"); err == nil {
		t.Error("a fourth file is kept")
	}
	if len(d.inStore(t)) != 20 {
		t.Error("the store has lost entries with the file")
	}
}

func TestOldAndSurplusEntriesLeaveTheStore(t *testing.T) {
	d := atDesk(t, Options{Keep: time.Hour, KeepEntries: 3})
	old := d.note(t, "operator alice (admin)", "prod")
	d.now = d.now.Add(2 * time.Hour)
	var kept []string
	for range 2 {
		kept = append(kept, d.note(t, "operator alice (admin)", "prod").GetId())
	}
	if err := d.prune(); err != nil {
		t.Fatal(err)
	}
	if got := d.inStore(t); !slices.Equal(got, kept) {
		t.Errorf("kept %v, want %v without %s", got, kept, old.GetId())
	}
	for range 3 {
		kept = append(kept, d.note(t, "operator alice (admin)", "prod").GetId())
	}
	if err := d.prune(); err != nil {
		t.Fatal(err)
	}
	if got := d.inStore(t); !slices.Equal(got, kept[2:]) {
		t.Errorf("kept %v, want %v", got, kept[2:])
	}
	if got := inFile(t, d.file); len(got) != 6 {
		t.Errorf("the file has %d entries of 6", len(got))
	}
}

func TestListFiltersAndPages(t *testing.T) {
	d := atDesk(t, Options{})
	for i := range 7 {
		d.now = d.now.Add(time.Minute)
		d.note(t, []string{"operator alice (admin)", "node etcd-1 of cluster prod", "nobody"}[i%3], []string{"prod", "test"}[i%2])
	}
	newest := d.inStore(t)
	slices.Reverse(newest)
	for name, c := range map[string]struct {
		req  *requorumv1.ListEntriesRequest
		want []string
	}{
		"all":             {&requorumv1.ListEntriesRequest{}, newest},
		"of a cluster":    {&requorumv1.ListEntriesRequest{Cluster: "test"}, []string{newest[1], newest[3], newest[5]}},
		"by name":         {&requorumv1.ListEntriesRequest{By: "alice"}, []string{newest[0], newest[3], newest[6]}},
		"by node":         {&requorumv1.ListEntriesRequest{By: "etcd-1"}, []string{newest[2], newest[5]}},
		"by identity":     {&requorumv1.ListEntriesRequest{By: "nobody"}, []string{newest[1], newest[4]}},
		"not a substring": {&requorumv1.ListEntriesRequest{By: "ali"}, nil},
		"since":           {&requorumv1.ListEntriesRequest{Since: timestamppb.New(d.now.Add(-2 * time.Minute))}, newest[:3]},
		"in pages":        {&requorumv1.ListEntriesRequest{PageSize: 2, Cluster: "prod"}, []string{newest[0], newest[2], newest[4], newest[6]}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for pages := 0; pages < 10; pages++ {
				resp, err := d.List(c.req)
				if err != nil {
					t.Fatal(err)
				}
				if size := int(c.req.GetPageSize()); size > 0 && len(resp.GetEntries()) > size {
					t.Errorf("a page of %d", len(resp.GetEntries()))
				}
				for _, e := range resp.GetEntries() {
					got = append(got, e.GetId())
				}
				if c.req.PageToken = resp.GetNextPageToken(); c.req.GetPageToken() == "" {
					break
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// A page has to fit into a message of gRPC's.
func TestAPageIsBoundedInBytes(t *testing.T) {
	d := atDesk(t, Options{})
	for i := range 40 {
		e := &requorumv1.AuditEntry{Message: strings.Repeat("x", 60<<10), Method: fmt.Sprint(i)}
		if err := d.add(e); err != nil {
			t.Fatal(err)
		}
	}
	req := &requorumv1.ListEntriesRequest{PageSize: 1000}
	total := 0
	for {
		resp, err := d.List(req)
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.GetEntries()) == 0 || len(resp.GetEntries()) > 20 {
			t.Fatalf("a page of %d entries of 60 KiB", len(resp.GetEntries()))
		}
		total += len(resp.GetEntries())
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if total != 40 {
		t.Errorf("%d of 40 entries", total)
	}
}
