package vault_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// A flipped bit anywhere in a copy makes it a different one, and a flipped bit in the manifest beside it is noticed
// whatever the copy is.
func TestBitFlippedAnywhereInACopy(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	v := open(t, t.TempDir())
	data := snapshot(3)
	m := describe("a", data)
	receive(t, v, "a", data)
	path, err := v.Path("a")
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		at, bit := rng.IntN(len(data)), byte(1)<<rng.IntN(8)
		bad := bytes.Clone(data)
		bad[at] ^= bit
		write(t, path, bad)
		if got := v.Hash(t.Context(), m, nil); got.GetState() != requorumv1.CopyState_COPY_STATE_DIFFERENT {
			t.Errorf("bit %#x of byte %d: the copy is %v", bit, at, got.GetState())
		}
	}
	write(t, path, data)
	if got := v.Hash(t.Context(), m, nil); got.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
		t.Errorf("the whole copy is %v", got.GetState())
	}
	beside := filepath.Join(v.Dir(), "a.json")
	text, err := os.ReadFile(beside)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		bad := bytes.Clone(text)
		bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		write(t, beside, bad)
		if got, err := v.Manifest("a"); err == nil {
			t.Errorf("read as %v", got)
		}
	}
}
