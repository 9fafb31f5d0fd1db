package boltfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/requorum/requorum/internal/boltfile"
)

const advice = "bring it back from a backup"

var buckets = []string{"big", "small", "empty"}

func open(t *testing.T, path string) *boltfile.File {
	t.Helper()
	f, err := boltfile.Open(path, advice, buckets...)
	must(t, err)
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func name(t *testing.T) string { return filepath.Join(t.TempDir(), "test.db") }

func put(t *testing.T, f *boltfile.File, bucket, key, value string) {
	t.Helper()
	must(t, f.Update(func(tx *boltfile.Tx) error { return tx.Put(bucket, key, []byte(value)) }))
}

// records returns everything in a file as "bucket/key" and value.
func records(f *boltfile.File) (map[string]string, error) {
	all := map[string]string{}
	err := f.View(func(tx *boltfile.Tx) error {
		for _, b := range buckets {
			err := tx.Each(b, "", func(key string, value []byte) error {
				all[b+"/"+key] = string(value)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}

func TestSumFollowsEveryChange(t *testing.T) {
	path := name(t)
	f := open(t, path)
	want := map[string]string{}
	for i := range 60 {
		key, value := fmt.Sprint("k", i%7), fmt.Sprint("v", i)
		put(t, f, "small", key, value)
		want["small/"+key] = value
		if i%5 == 0 {
			must(t, f.Update(func(tx *boltfile.Tx) error {
				return errors.Join(tx.Delete("small", key), tx.Delete("small", "never there"), tx.Put("big", key, nil), tx.Put("big", key, []byte("again")))
			}))
			delete(want, "small/"+key)
			want["big/"+key] = "again"
		}
		must(t, f.Close())
		f = open(t, path) // which compares the sum
	}
	got, err := records(f)
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

func TestFailedUpdateLeavesTheSumAlone(t *testing.T) {
	path := name(t)
	f := open(t, path)
	put(t, f, "small", "k", "v")
	second := errors.New("second thoughts")
	err := f.Update(func(tx *boltfile.Tx) error { return errors.Join(tx.Put("small", "k", []byte("w")), second) })
	if !errors.Is(err, second) {
		t.Error(err)
	}
	must(t, f.Close())
	if got, err := records(open(t, path)); err != nil || got["small/k"] != "v" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestPanicOfTheCallerIsTheCallersAndKeepsNothingLocked(t *testing.T) {
	f := open(t, name(t))
	func() {
		defer func() {
			if recover() != "mine" {
				t.Error("the panic was swallowed")
			}
		}()
		_ = f.Update(func(*boltfile.Tx) error { panic("mine") })
	}()
	put(t, f, "small", "k", "v")
}

func TestFileIsMadeWholeOrNotAtAll(t *testing.T) {
	path := name(t)
	must(t, open(t, path).Close())
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	missing := filepath.Join(path, "missing", "test.db")
	if _, err := boltfile.Open(missing, advice); !errors.Is(err, fs.ErrNotExist) && !errors.As(err, new(*fs.PathError)) {
		t.Error(err)
	}
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	path := name(t)
	f := open(t, path)
	if _, err := boltfile.Open(path, advice); !errors.Is(err, boltfile.ErrLocked) {
		t.Error(err)
	}
	put(t, f, "small", "k", "v")
}

// A copy that bbolt makes of an open file has both meta pages of transactions that follow each other, but in
// whatever place.
func TestCopyOfAnOpenFileIsWhole(t *testing.T) {
	for writes := range 4 {
		path := name(t)
		f := open(t, path)
		for i := range writes {
			put(t, f, "small", fmt.Sprint(i), "v")
		}
		must(t, f.Close())
		db, err := bolt.Open(path, 0o600, nil)
		must(t, err)
		copied := name(t)
		must(t, db.View(func(tx *bolt.Tx) error { return tx.CopyFile(copied, 0o600) }))
		must(t, db.Close())
		for i := range 3 {
			f := open(t, copied)
			put(t, f, "big", fmt.Sprint(i), "v")
			got, err := records(f)
			if err != nil || len(got) != writes+i+1 {
				t.Errorf("%v, %v", got, err)
			}
			must(t, f.Close())
		}
	}
}

func TestFileOfAnotherProgramIsRefused(t *testing.T) {
	path := name(t)
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("small")); return err }))
	must(t, db.Close())
	refused(t, path)
}

func refused(t *testing.T, path string) {
	t.Helper()
	_, err := boltfile.Open(path, advice, buckets...)
	var damaged *boltfile.DamagedError
	if !errors.As(err, &damaged) || damaged.Path != path || damaged.Advice != advice || damaged.Reason == "" {
		t.Errorf("told as %v", err)
	}
}
