// Package objectstoretest is the suite that every back end of package objectstore passes. Only tests use it.
package objectstoretest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/internal/objectstore"
)

// Run runs the suite. Each call of open returns an empty store.
func Run(t *testing.T, open func(*testing.T) objectstore.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, objectstore.Store){
		"what is put is got":                  roundTrip,
		"what is missing is told":             missing,
		"a failing source leaves nothing":     failingSource,
		"a cancelled put leaves nothing":      cancelled,
		"an object is replaced as a whole":    replaced,
		"lists are exact and in order":        lists,
		"delete removes one object":           deletes,
		"bad keys are refused":                badKeys,
		"several goroutines use it":           concurrent,
		"reading ends with its context":       readingEnds,
		"with patience lists are the same":    func(t *testing.T, s objectstore.Store) { lists(t, objectstore.Retry(s, objectstore.Patience{})) },
		"with patience what is missing is so": func(t *testing.T, s objectstore.Store) { missing(t, objectstore.Retry(s, objectstore.Patience{})) },
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// Bytes returns n bytes that do not repeat, the same ones for the same seed.
func Bytes(n int, seed byte) []byte {
	data := make([]byte, n)
	source := rand.NewChaCha8([32]byte{seed})
	source.Read(data)
	return data
}

// Put puts bytes.
func Put(ctx context.Context, s objectstore.Store, key string, data []byte) error {
	return s.Put(ctx, key, func(w io.Writer) error {
		_, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(data)})
		return err
	})
}

// Get gets bytes.
func Get(ctx context.Context, s objectstore.Store, key string, offset int64) ([]byte, error) {
	r, err := s.Get(ctx, key, offset)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

func put(t *testing.T, s objectstore.Store, key string, data []byte) {
	t.Helper()
	if err := Put(t.Context(), s, key, data); err != nil {
		t.Fatal(err)
	}
}

func wantObject(t *testing.T, s objectstore.Store, key string, want []byte, offset int64) {
	t.Helper()
	got, err := Get(t.Context(), s, key, offset)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(want[min(offset, int64(len(want))):]) {
		t.Errorf("%s from %d: got %d bytes that differ from what was put", key, offset, len(got))
	}
}

func wantNothing(t *testing.T, s objectstore.Store, prefix string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix) {
		t.Errorf("there is %s, %v", info.Key, err)
	}
}

// Sizes around those of S3's parts.
var sizes = []int{0, 1, 4096, 8 << 20, 8<<20 + 1, 27<<20 + 7}

func roundTrip(t *testing.T, s objectstore.Store) {
	for i, size := range sizes {
		key, data := fmt.Sprintf("folder/prod/size-%d.db", size), Bytes(size, byte(i))
		put(t, s, key, data)
		wantObject(t, s, key, data, 0)
		wantObject(t, s, key, data, int64(size-size/8))
		wantObject(t, s, key, data, int64(size))
		wantObject(t, s, key, data, int64(size+10))
		info, err := s.Stat(t.Context(), key)
		if err != nil || info.Key != key || info.Size != int64(size) || info.Modified.IsZero() {
			t.Errorf("%+v, %v", info, err)
		}
	}
}

func missing(t *testing.T, s objectstore.Store) {
	put(t, s, "a/b", []byte("x"))
	for _, key := range []string{"a/c", "a", "nothing/at/all"} {
		if _, err := s.Get(t.Context(), key, 0); !errors.Is(err, objectstore.ErrNotFound) {
			t.Errorf("get %s: %v", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, objectstore.ErrNotFound) {
			t.Errorf("stat %s: %v", key, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	wantObject(t, s, "a/b", []byte("x"), 0)
}

var errSource = errors.New("the source has failed")

func failingSource(t *testing.T, s objectstore.Store) {
	for _, before := range []int{0, 100, 20 << 20} {
		err := s.Put(t.Context(), "a/object", func(w io.Writer) error {
			if _, err := w.Write(Bytes(before, 1)); err != nil {
				return err
			}
			return errSource
		})
		if source, is := errors.AsType[*objectstore.SourceError](err); !is || !errors.Is(source, errSource) || !objectstore.Permanent(err) {
			t.Errorf("after %d bytes: %v", before, err)
		}
	}
	wantNothing(t, s, "")
	if _, err := s.Stat(t.Context(), "a/object"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Error(err)
	}
}

var errEnough = errors.New("enough")

func cancelled(t *testing.T, s objectstore.Store) {
	for _, before := range []int{100, 30 << 20} {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := s.Put(ctx, "a/object", func(w io.Writer) error {
			if _, err := w.Write(Bytes(before, 1)); err != nil {
				return err
			}
			cancel(errEnough)
			_, err := w.Write(Bytes(1<<20, 2))
			return err
		})
		if !errors.Is(err, errEnough) {
			t.Errorf("after %d bytes: %v", before, err)
		}
	}
	wantNothing(t, s, "")
}

func replaced(t *testing.T, s objectstore.Store) {
	old, fresh := Bytes(10<<20, 1), Bytes(9<<20, 2)
	put(t, s, "a/object", old)
	err := s.Put(t.Context(), "a/object", func(w io.Writer) error {
		_, err := w.Write(fresh)
		return errors.Join(err, errSource)
	})
	if !errors.Is(err, errSource) {
		t.Error(err)
	}
	wantObject(t, s, "a/object", old, 0)
	put(t, s, "a/object", fresh)
	wantObject(t, s, "a/object", fresh, 0)
	put(t, s, "a/object", nil)
	wantObject(t, s, "a/object", nil, 0)
}

func lists(t *testing.T, s objectstore.Store) {
	keys := []string{"f/prod-2/x.json", "f/prod.json", "f/prod/name.json", "f/prod/name1.db", "f/prod/name1.json", "f/prodx/a.json", "g"}
	for _, key := range keys {
		put(t, s, key, []byte(key))
	}
	for prefix, want := range map[string][]string{
		"":               keys,
		"f/prod/":        keys[2:5],
		"f/prod/name1":   keys[3:5],
		"f/prod/name1.j": keys[4:5],
		"f/prod":         keys[:6],
		"g":              keys[6:],
		"f/none/":        nil,
		"none":           nil,
	} {
		var got []string
		for info, err := range s.List(t.Context(), prefix) {
			if err != nil || info.Size != int64(len(info.Key)) {
				t.Fatalf("list %q: %+v, %v", prefix, info, err)
			}
			got = append(got, info.Key)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("list %q:\n%s", prefix, diff)
		}
	}
	for range s.List(t.Context(), "f/") {
		break // a caller may stop
	}
}

func deletes(t *testing.T, s objectstore.Store) {
	for _, key := range []string{"a/name", "a/name1", "a/name.more"} {
		put(t, s, key, []byte(key))
	}
	for range 2 {
		if err := s.Delete(t.Context(), "a/name"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Stat(t.Context(), "a/name"); !errors.Is(err, objectstore.ErrNotFound) {
		t.Error(err)
	}
	wantObject(t, s, "a/name1", []byte("a/name1"), 0)
	wantObject(t, s, "a/name.more", []byte("a/name.more"), 0)
}

func badKeys(t *testing.T, s objectstore.Store) {
	for _, key := range []string{"", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.b", "a b", "a\x00", "ä", "a\\b", strings.Repeat("a", 901)} {
		if err := Put(t.Context(), s, key, nil); !errors.Is(err, objectstore.ErrInvalid) {
			t.Errorf("put %q: %v", key, err)
		}
		if _, err := s.Get(t.Context(), key, 0); !errors.Is(err, objectstore.ErrInvalid) {
			t.Errorf("get %q: %v", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, objectstore.ErrInvalid) {
			t.Errorf("stat %q: %v", key, err)
		}
		if err := s.Delete(t.Context(), key); !errors.Is(err, objectstore.ErrInvalid) {
			t.Errorf("delete %q: %v", key, err)
		}
	}
}

func concurrent(t *testing.T, s objectstore.Store) {
	group, ctx := errgroup.WithContext(t.Context())
	for i := range 4 {
		group.Go(func() error {
			key, data := fmt.Sprintf("a/%d/object", i%3), Bytes(9<<20, byte(i%3)) // two write the same
			if err := Put(ctx, s, key, data); err != nil {
				return err
			}
			got, err := Get(ctx, s, key, 0)
			if err == nil && !bytes.Equal(got, data) {
				err = fmt.Errorf("%s is not what was put", key)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func readingEnds(t *testing.T, s objectstore.Store) {
	put(t, s, "a/object", Bytes(20<<20, 1))
	ctx, cancel := context.WithCancelCause(t.Context())
	r, err := s.Get(ctx, "a/object", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel(errEnough)
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, errEnough) {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Log(err) // of a connection that has ended
	}
}
