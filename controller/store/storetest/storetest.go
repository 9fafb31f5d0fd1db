// Package storetest is the conformance suite that every implementation of store.Store passes.
package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/store"
)

// Run runs the suite. open returns an empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"what was put is got until it is deleted", putGetDelete},
		{"an empty value is not a missing one", emptyValue},
		{"every bucket exists and is its own", buckets},
		{"an unknown bucket and an empty key are refused", refusals},
		{"a failed update leaves no trace", failedUpdate},
		{"a view cannot write", viewCannotWrite},
		{"each goes through the prefix in order", eachInOrder},
		{"each ends at the first error", eachEnds},
		{"each bears changes made on the way", eachWithChanges},
		{"down goes through the keys in reverse order", downInOrder},
		{"down bears changes made on the way", downWithChanges},
		{"the store keeps its own copy of a value", ownCopy},
		{"records are loaded as saved", records},
		{"concurrent updates do not lose each other", concurrentUpdates},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.test(t, s)
		})
	}
}

func putGetDelete(t *testing.T, s store.Store) {
	expect(t, s, "k", "", store.ErrNotFound)
	put(t, s, "k", "one")
	expect(t, s, "k", "one", nil)
	put(t, s, "k", "two")
	expect(t, s, "k", "two", nil)
	remove := func(tx store.Tx) error { return tx.Delete(store.Nodes, "k") }
	update(t, s, remove)
	expect(t, s, "k", "", store.ErrNotFound)
	update(t, s, remove) // again is no error
	update(t, s, func(tx store.Tx) error {
		if err := tx.Put(store.Nodes, "k", []byte("three")); err != nil {
			return err
		}
		value, err := tx.Get(store.Nodes, "k")
		if err != nil || string(value) != "three" {
			t.Errorf("within the update: %q, %v", value, err)
		}
		return nil
	})
}

func emptyValue(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		return errors.Join(tx.Put(store.Nodes, "nil", nil), tx.Put(store.Nodes, "empty", []byte{}))
	})
	expect(t, s, "nil", "", nil)
	expect(t, s, "empty", "", nil)
}

func buckets(t *testing.T, s store.Store) {
	update(t, s, func(tx store.Tx) error {
		for _, b := range store.Buckets {
			if err := tx.Put(b, "k", []byte(b)); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, s, func(tx store.Tx) error {
		for _, b := range store.Buckets {
			if value, err := tx.Get(b, "k"); err != nil || string(value) != string(b) {
				t.Errorf("%s has %q, %v", b, value, err)
			}
		}
		return nil
	})
}

func refusals(t *testing.T, s store.Store) {
	err := s.Update(func(tx store.Tx) error { return tx.Put("elsewhere", "k", nil) })
	if err == nil {
		t.Error("wrote to an unknown bucket")
	}
	err = s.View(func(tx store.Tx) error { _, err := tx.Get("elsewhere", "k"); return err })
	if err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("reading an unknown bucket: %v", err)
	}
	if err := s.Update(func(tx store.Tx) error { return tx.Put(store.Nodes, "", nil) }); err == nil {
		t.Error("wrote an empty key")
	}
}

func failedUpdate(t *testing.T, s store.Store) {
	put(t, s, "kept", "old")
	failure := errors.New("second thoughts")
	err := s.Update(func(tx store.Tx) error {
		return errors.Join(tx.Put(store.Nodes, "kept", []byte("new")), tx.Put(store.Nodes, "added", nil), failure)
	})
	if !errors.Is(err, failure) {
		t.Errorf("Update returned %v", err)
	}
	expect(t, s, "kept", "old", nil)
	expect(t, s, "added", "", store.ErrNotFound)
}

func viewCannotWrite(t *testing.T, s store.Store) {
	if err := s.View(func(tx store.Tx) error { return tx.Put(store.Nodes, "k", nil) }); err == nil {
		t.Error("Put within View is accepted")
	}
	if err := s.View(func(tx store.Tx) error { return tx.Delete(store.Nodes, "k") }); err == nil {
		t.Error("Delete within View is accepted")
	}
	expect(t, s, "k", "", store.ErrNotFound)
}

func eachInOrder(t *testing.T, s store.Store) {
	for _, key := range []string{"prod/b", "prod/a", "prod-2/a", "prod", "dev/z", "prod/c", "prod0"} {
		put(t, s, key, "v:"+key)
	}
	for prefix, want := range map[string][]string{
		"prod/": {"prod/a", "prod/b", "prod/c"},
		"":      {"dev/z", "prod", "prod-2/a", "prod/a", "prod/b", "prod/c", "prod0"},
		"none/": nil,
		"zzz":   nil,
	} {
		if got := keys(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("prefix %q: %q, want %q", prefix, got, want)
		}
	}
}

func eachEnds(t *testing.T, s store.Store) {
	put(t, s, "a", "")
	put(t, s, "b", "")
	stop := errors.New("enough")
	calls := 0
	err := s.View(func(tx store.Tx) error {
		return tx.Each(store.Nodes, "", func(string, []byte) error { calls++; return stop })
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func eachWithChanges(t *testing.T, s store.Store) {
	const n = 300
	seen := 0
	update(t, s, func(tx store.Tx) error {
		for i := range n { // in the same transaction, where a cursor is the easiest to upset
			if err := tx.Put(store.Nodes, fmt.Sprintf("k%03d", i), []byte("old")); err != nil {
				return err
			}
		}
		return tx.Each(store.Nodes, "k", func(key string, _ []byte) error {
			seen++
			if seen%2 == 0 {
				return tx.Delete(store.Nodes, key)
			}
			return tx.Put(store.Nodes, key, []byte("a longer new value"))
		})
	})
	if seen != n {
		t.Errorf("saw %d of %d keys", seen, n)
	}
	if left := keys(t, s, "k"); len(left) != n/2 || left[0] != "k000" {
		t.Errorf("%d keys are left: %v", len(left), left)
	}
	expect(t, s, "k000", "a longer new value", nil)
}

func downInOrder(t *testing.T, s store.Store) {
	for _, key := range []string{"c", "a", "d", "b"} {
		put(t, s, key, "v:"+key)
	}
	for before, want := range map[string][]string{
		"": {"d", "c", "b", "a"}, "d": {"c", "b", "a"}, "bb": {"b", "a"}, "z": {"d", "c", "b", "a"}, "a": nil, "A": nil,
	} {
		if got := down(t, s, before); !slices.Equal(got, want) {
			t.Errorf("before %q: %q, want %q", before, got, want)
		}
	}
	stop := errors.New("enough")
	calls := 0
	err := s.View(func(tx store.Tx) error {
		return tx.Down(store.Nodes, "", func(key string, value []byte) error {
			if calls++; key != "d" || string(value) != "v:d" {
				t.Errorf("the last one is %s with %q", key, value)
			}
			return stop
		})
	})
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func downWithChanges(t *testing.T, s store.Store) {
	const n = 300
	seen := 0
	update(t, s, func(tx store.Tx) error {
		for i := range n {
			if err := tx.Put(store.Nodes, fmt.Sprintf("k%03d", i), []byte("old")); err != nil {
				return err
			}
		}
		return tx.Down(store.Nodes, "", func(key string, _ []byte) error {
			seen++
			return tx.Delete(store.Nodes, key)
		})
	})
	if left := down(t, s, ""); seen != n || len(left) != 0 {
		t.Errorf("saw %d of %d keys, %d are left", seen, n, len(left))
	}
}

func down(t *testing.T, s store.Store, before string) (found []string) {
	t.Helper()
	view(t, s, func(tx store.Tx) error {
		return tx.Down(store.Nodes, before, func(key string, _ []byte) error {
			found = append(found, key)
			return nil
		})
	})
	return found
}

func ownCopy(t *testing.T, s store.Store) {
	buffer := []byte("first")
	update(t, s, func(tx store.Tx) error {
		if err := tx.Put(store.Nodes, "1", buffer); err != nil {
			return err
		}
		copy(buffer, "other")
		return tx.Put(store.Nodes, "2", buffer)
	})
	expect(t, s, "1", "first", nil)
	expect(t, s, "2", "other", nil)
}

func records(t *testing.T, s store.Store) {
	var loaded journalv1.NodeRecord
	err := s.View(func(tx store.Tx) error { return store.Load(tx, store.Nodes, "prod/n1", &loaded) })
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Load of nothing: %v", err)
	}
	update(t, s, func(tx store.Tx) error {
		return store.Save(tx, store.Nodes, "prod/n1", &journalv1.NodeRecord{Name: "n1", RevokedKeys: []string{"a", "b"}})
	})
	view(t, s, func(tx store.Tx) error { return store.Load(tx, store.Nodes, "prod/n1", &loaded) })
	if loaded.GetName() != "n1" || len(loaded.GetRevokedKeys()) != 2 {
		t.Errorf("loaded %v", &loaded)
	}
}

func concurrentUpdates(t *testing.T, s store.Store) {
	put(t, s, "n", "")
	const writers, rounds = 4, 5
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				if err := s.Update(appendOne); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	view(t, s, func(tx store.Tx) error {
		value, err := tx.Get(store.Nodes, "n")
		if len(value) != writers*rounds {
			t.Errorf("%d of %d updates are there", len(value), writers*rounds)
		}
		return err
	})
}

func appendOne(tx store.Tx) error {
	value, err := tx.Get(store.Nodes, "n")
	if err != nil {
		return err
	}
	return tx.Put(store.Nodes, "n", append(slices.Clone(value), 'x'))
}

func put(t *testing.T, s store.Store, key, value string) {
	t.Helper()
	update(t, s, func(tx store.Tx) error { return tx.Put(store.Nodes, key, []byte(value)) })
}

func update(t *testing.T, s store.Store, f func(store.Tx) error) {
	t.Helper()
	if err := s.Update(f); err != nil {
		t.Fatalf("update: %v", err)
	}
}

func view(t *testing.T, s store.Store, f func(store.Tx) error) {
	t.Helper()
	if err := s.View(f); err != nil {
		t.Fatalf("view: %v", err)
	}
}

func expect(t *testing.T, s store.Store, key, want string, wantErr error) {
	t.Helper()
	err := s.View(func(tx store.Tx) error {
		value, err := tx.Get(store.Nodes, key)
		if string(value) != want {
			t.Errorf("%s has %q, want %q", key, value, want)
		}
		return err
	})
	if !errors.Is(err, wantErr) {
		t.Errorf("get %s: %v, want %v", key, err, wantErr)
	}
}

func keys(t *testing.T, s store.Store, prefix string) (found []string) {
	t.Helper()
	view(t, s, func(tx store.Tx) error {
		return tx.Each(store.Nodes, prefix, func(key string, value []byte) error {
			found = append(found, key)
			return nil
		})
	})
	return found
}
