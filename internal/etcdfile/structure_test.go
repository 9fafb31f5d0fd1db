package etcdfile_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/etcdtest"
)

func hex(id uint64) string { return fmt.Sprintf("%x", id) }

// bigSnapshot has several levels of pages, some of them overflowing, and a history to hash.
func bigSnapshot(t *testing.T) string {
	t.Helper()
	c := etcdtest.Start(t, etcdtest.Options{})
	client := c.Client(t)
	for i := range 600 {
		value := strings.Repeat("v", i%300)
		if i%100 == 0 {
			value = strings.Repeat("w", 30_000)
		}
		if _, err := client.Put(t.Context(), fmt.Sprintf("key-%d", i%400), value); err != nil {
			t.Fatal(err)
		}
	}
	return c.SaveSnapshot(t, 0)
}

func TestDamagedFilesGiveACleanError(t *testing.T) {
	data, err := os.ReadFile(bigSnapshot(t))
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 100_000)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	damaged := map[string][]byte{"empty": {}, "text": []byte("not a database"), "noise": noise, "zeros": make([]byte, 1<<20)}
	for _, n := range []int{1, 4095, 4096, 8192, 16384, len(data) / 2, len(data) - 5000} {
		damaged[fmt.Sprintf("cut off at %d", n)] = data[:n]
	}
	meta := append([]byte{}, data...)
	copy(meta[:8192], noise)
	damaged["both meta pages"] = meta
	for name, content := range damaged {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			if err := os.WriteFile(path, content, 0o400); err != nil {
				t.Fatal(err)
			}
			_, err := etcdfile.Inspect(t.Context(), path, nil)
			var corrupt *etcdfile.CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("got %v", err)
			}
			t.Log(err)
		})
	}
}

// Every file that the structure check lets pass must be one that bbolt's own check finds nothing wrong with:
// on others bbolt might crash.
func TestNoDamageThatBboltSeesIsAccepted(t *testing.T) {
	data, err := os.ReadFile(bigSnapshot(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	r := rand.New(rand.NewPCG(3, 4))
	rejected, accepted := 0, 0
	for range 400 {
		b := append([]byte{}, data...)
		for range 1 + r.IntN(3) {
			damageOnePage(r, b)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := etcdfile.Inspect(t.Context(), path, nil); err != nil {
			rejected++
			var corrupt *etcdfile.CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("not a *CorruptError: %v", err)
			}
			continue
		}
		accepted++
		checkWithBbolt(t, path)
	}
	if rejected < 100 || accepted < 10 {
		t.Errorf("%d rejected, %d accepted: the damage is not varied enough", rejected, accepted)
	}
	t.Logf("%d rejected, %d accepted", rejected, accepted)
}

// damageOnePage changes one byte or word near the beginning of a page, where header and elements are, or
// anywhere in it.
func damageOnePage(r *rand.Rand, b []byte) {
	at := 4096 * r.IntN(len(b)/4096)
	if r.IntN(4) == 0 {
		at += r.IntN(4096)
	} else {
		at += r.IntN(96)
	}
	if r.IntN(2) == 0 {
		b[at] ^= 1 << r.IntN(8)
		return
	}
	b[at] = byte(r.Uint32())
}

func checkWithBbolt(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatalf("bbolt cannot open what was accepted: %v", err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		var found []error
		for err := range tx.Check() {
			found = append(found, err)
		}
		return errors.Join(found...)
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Errorf("bbolt finds what was accepted damaged: %v", err)
	}
}

// bbolt without etcd's option persists its list of free pages.
func TestFilesWithAListOfFreePages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			return b.Put([]byte{byte(i % 7)}, make([]byte, 5000*(i%3)))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = etcdfile.Inspect(t.Context(), path, nil)
	var corrupt *etcdfile.CorruptError
	if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "lacks etcd's buckets") {
		t.Fatalf("a sound bbolt file that is not etcd's: %v", err)
	}
}
