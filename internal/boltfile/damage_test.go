package boltfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/internal/boltfile"
)

const pageSize = 4096

// used is a file that was in use for a while: with branches, overflow pages, free pages and a bucket that is empty.
type used struct {
	whole   []byte
	earlier []byte // the file as it was some transactions before
	records map[string]string
	dir     string // for damaged ones
	written int
}

func use(t *testing.T) *used {
	t.Helper()
	path := name(t)
	f := open(t, path)
	u := &used{dir: t.TempDir()}
	for i := range 120 {
		put(t, f, "big", fmt.Sprintf("%03d", i), strings.Repeat("x", 10*i))
		put(t, f, "small", fmt.Sprint(i%9), fmt.Sprint("value ", i))
		if i%4 == 0 {
			must(t, f.Update(func(tx *boltfile.Tx) error { return tx.Delete("big", fmt.Sprintf("%03d", i/2)) }))
		}
		if i == 115 {
			u.earlier = read(t, path)
		}
	}
	put(t, f, "big", "large", strings.Repeat("y", 3*pageSize))
	var err error
	u.records, err = records(f)
	must(t, err)
	must(t, f.Close())
	u.whole = read(t, path)
	return u
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

// outcome is what became of a damaged file: refused, or as good as whole. There is no third.
type outcome string

const (
	refusal  outcome = "refused"
	harmless outcome = "harmless"
)

// judge opens a damaged file.
func (u *used) judge(t *testing.T, what string, data []byte) outcome {
	t.Helper()
	path := filepath.Join(u.dir, "damaged.db")
	must(t, os.WriteFile(path, data, 0o600))
	return u.judgeFile(t, what, path)
}

func (u *used) judgeFile(t *testing.T, what, path string) outcome {
	t.Helper()
	f, err := boltfile.Open(path, advice, buckets...)
	if err != nil {
		var damaged *boltfile.DamagedError
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), advice) {
			t.Errorf("%s: told as %v", what, err)
		}
		if f, locked := os.OpenFile(path, os.O_RDWR, 0); locked != nil || unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || f.Close() != nil {
			t.Errorf("%s: the file stays locked (%v)", what, locked)
		}
		return refusal
	}
	got, err := records(f)
	if err != nil || !maps.Equal(got, u.records) {
		t.Errorf("%s: opened, with %d records of %d: %v", what, len(got), len(u.records), err)
	}
	if u.written++; u.written%20 != 0 { // writing costs much
		must(t, f.Close())
		return harmless
	}
	put(t, f, "small", "new", what)
	must(t, f.Close())
	f, err = boltfile.Open(path, advice, buckets...)
	if err != nil {
		t.Fatalf("%s: after another write: %v", what, err)
	}
	must(t, f.Close())
	return harmless
}

// tally expects that at least so many of the damages were refused, so that a test which damages nothing is noticed.
func tally(t *testing.T, all map[outcome]int, atLeast int) {
	t.Helper()
	t.Logf("%v", all)
	if all[refusal] < atLeast {
		t.Errorf("only %d were refused, want at least %d", all[refusal], atLeast)
	}
}

func TestFileCutAtAnyByte(t *testing.T) {
	u, all, path := use(t), map[outcome]int{}, name(t)
	must(t, os.WriteFile(path, u.whole, 0o600))
	for size := len(u.whole) - 1; size >= 0; size-- {
		if size%pageSize > 2 && size%pageSize < pageSize-2 && size%61 != 0 && size > 2*pageSize {
			continue // within a page every 61st byte will do
		}
		must(t, os.Truncate(path, int64(size)))
		end := u.judgeFile(t, fmt.Sprintf("cut at %d", size), path)
		all[end]++
		if end == harmless { // it was written to since
			must(t, os.WriteFile(path, u.whole, 0o600))
		}
	}
	tally(t, all, len(u.whole)/61/2)
}

func TestBitFlippedAnywhere(t *testing.T) {
	u, all := use(t), map[outcome]int{}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 1000 {
		at, bit := rng.IntN(len(u.whole)), byte(1)<<rng.IntN(8)
		u.whole[at] ^= bit
		all[u.judge(t, fmt.Sprintf("bit %#x of byte %d (page %d)", bit, at, at/pageSize), u.whole)]++
		u.whole[at] ^= bit
	}
	tally(t, all, 150)
}

// Headers of pages and elements are few among all bytes, and what a flip does there is the most surprising.
func TestBitFlippedInTheHeadersOfPages(t *testing.T) {
	u, all := use(t), map[outcome]int{}
	for page := 0; page < len(u.whole); page += pageSize {
		for at := page; at < page+48; at++ {
			u.whole[at] ^= 1
			all[u.judge(t, fmt.Sprintf("lowest bit of byte %d of page %d", at-page, page/pageSize), u.whole)]++
			u.whole[at] ^= 1
		}
	}
	tally(t, all, 100)
}

func TestPageReplaced(t *testing.T) {
	u := use(t)
	pages := len(u.whole) / pageSize
	page := func(data []byte, i int) []byte { return data[i*pageSize:][:pageSize] }
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for name, by := range map[string]func(i int) []byte{
		"zeros":                 func(int) []byte { return make([]byte, pageSize) },
		"ones":                  func(int) []byte { return bytes.Repeat([]byte{0xff}, pageSize) },
		"another page":          func(int) []byte { return page(u.whole, rng.IntN(pages)) },
		"another page, renamed": func(i int) []byte { return renamed(page(u.whole, rng.IntN(pages)), i) },
		"what it was":           func(i int) []byte { return page(u.earlier, min(i, len(u.earlier)/pageSize-1)) },
		"half of what it was": func(i int) []byte {
			return slicesOf(page(u.whole, i), page(u.earlier, min(i, len(u.earlier)/pageSize-1)))
		},
		"a sector of zeros in it": func(i int) []byte { return slicesOf(page(u.whole, i), make([]byte, pageSize)) },
	} {
		t.Run(name, func(t *testing.T) {
			all := map[outcome]int{}
			for i := range pages {
				data := bytes.Clone(u.whole)
				copy(page(data, i), by(i))
				all[u.judge(t, fmt.Sprintf("page %d", i), data)]++
			}
			tally(t, all, 1)
		})
	}
}

// renamed is a page that claims to be page i, as a misdirected write of bbolt's own would leave it.
func renamed(page []byte, i int) []byte {
	page = bytes.Clone(page)
	binary.NativeEndian.PutUint64(page, uint64(i))
	return page
}

// slicesOf is a page of which only some sectors were written.
func slicesOf(a, b []byte) []byte { return append(bytes.Clone(a[:1024]), b[1024:]...) }

func TestMetaPagesReplacedByEachOther(t *testing.T) {
	u := use(t)
	for from := range 2 {
		for _, rename := range []bool{false, true} {
			data := bytes.Clone(u.whole)
			meta := data[from*pageSize:][:pageSize]
			if rename {
				meta = renamed(meta, 1-from)
			}
			copy(data[(1-from)*pageSize:], meta)
			if u.judge(t, fmt.Sprintf("meta page %d twice", from), data) != refusal {
				t.Errorf("meta page %d twice, renamed %v: opened", from, rename)
			}
		}
	}
}

func TestFileCutWhileItIsOpen(t *testing.T) {
	path := name(t)
	must(t, os.WriteFile(path, use(t).whole, 0o600))
	f, err := boltfile.Open(path, advice, buckets...)
	must(t, err)
	must(t, os.Truncate(path, 2*pageSize))
	_, err = records(f)
	var damaged *boltfile.DamagedError
	if !errors.As(err, &damaged) {
		t.Errorf("read: %v", err)
	}
	if err := f.Update(func(tx *boltfile.Tx) error { return tx.Put("small", "k", nil) }); !errors.As(err, &damaged) {
		t.Errorf("written: %v", err)
	}
	must(t, f.Close())
}
