package boltfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/requorum/requorum/internal/boltfile"
)

// FuzzOpenDamaged: whatever is written over a file, wherever and however often, it is refused as damaged, or nothing
// of it is lost.
func FuzzOpenDamaged(f *testing.F) {
	path := filepath.Join(f.TempDir(), "whole.db")
	file, err := boltfile.Open(path, advice, buckets...)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 300 {
		key := []byte{'k', byte('0' + i%60)}
		err := file.Update(func(tx *boltfile.Tx) error { return tx.Put("big", string(key), bytes.Repeat(key, 2*i)) })
		if err != nil {
			f.Fatal(err)
		}
	}
	want, err := records(file)
	if err := errors.Join(err, file.Close()); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0, 0, 0, 0, 0}, uint32(0))
	f.Add([]byte{0x10, 0x20, 0, 0, 0xff, 8, 0x30, 0, 0, 2}, uint32(5000))
	f.Add([]byte{}, uint32(1))
	f.Fuzz(func(t *testing.T, patches []byte, cut uint32) {
		data := bytes.Clone(whole)
		for ; len(patches) >= 5; patches = patches[5:] {
			data[binary.LittleEndian.Uint32(patches)%uint32(len(data))] ^= patches[4]
		}
		data = data[:len(data)-int(cut)%len(data)]
		path := filepath.Join(t.TempDir(), "damaged.db")
		must(t, os.WriteFile(path, data, 0o600))
		file, err := boltfile.Open(path, advice, buckets...)
		if err != nil {
			if !errors.As(err, new(*boltfile.DamagedError)) {
				t.Fatalf("told as %v", err)
			}
			return
		}
		got, err := records(file)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("opened, and holds something else: %v", err)
		}
		must(t, file.Close())
	})
}
