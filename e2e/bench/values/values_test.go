package values_test

import (
	"bytes"
	"compress/flate"
	"testing"

	"github.com/requorum/requorum/e2e/bench/values"
)

func TestTheSameSeedMakesTheSameValues(t *testing.T) {
	one, same, other := values.New(1, 2), values.New(1, 2), values.New(1, 3)
	for range 100 {
		a, b, c := one.Next(), same.Next(), other.Next()
		if !bytes.Equal(a, b) {
			t.Fatal("the same seed made two values")
		}
		if bytes.Equal(a, c) {
			t.Fatal("two streams made one value")
		}
	}
}

func TestValuesAreOfAllSizesAndHardToCompress(t *testing.T) {
	source := values.New(1, 1)
	var all bytes.Buffer
	smallest, largest := values.Largest, values.Smallest
	for range 2000 {
		v := source.Next()
		smallest, largest = min(smallest, len(v)), max(largest, len(v))
		all.Write(v)
	}
	if smallest < values.Smallest || largest > values.Largest || smallest > values.Smallest+100 || largest < values.Largest-100 {
		t.Errorf("sizes are from %d to %d", smallest, largest)
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(all.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if ratio := float64(packed.Len()) / float64(all.Len()); ratio < 0.55 || ratio > 0.9 {
		t.Errorf("compressed they are %.2f of their size", ratio)
	}
}
