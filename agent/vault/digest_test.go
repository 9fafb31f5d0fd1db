package vault_test

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/vault"
)

// The trailing SHA-256 may lie in one block of what is hashed at once, or in two.
func TestDigestsOfFilesThatEndAroundABlock(t *testing.T) {
	random := rand.NewChaCha8([32]byte{})
	for _, size := range []int{
		vault.BlockSize - 1, vault.BlockSize, vault.BlockSize + 1, vault.BlockSize + 31, vault.BlockSize + 32,
		vault.BlockSize + 33, 2 * vault.BlockSize, 3*vault.BlockSize + 32,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			data := make([]byte, size)
			_, _ = random.Read(data) // never fails
			trailer := sha256.Sum256(data[:size-sha256.Size])
			copy(data[size-sha256.Size:], trailer[:])
			m, s := md5.Sum(data), sha256.Sum256(data)
			for _, piece := range []int{7777, size} {
				gotSize, gotMD5, gotSHA, fits := vault.HasTrailer(data, []int{piece})
				if gotSize != int64(size) || gotMD5 != hex.EncodeToString(m[:]) || gotSHA != hex.EncodeToString(s[:]) {
					t.Errorf("in pieces of %d: size %d, MD5 %s, SHA-256 %s; expected %d, %x, %x", piece, gotSize, gotMD5, gotSHA, size, m, s)
				}
				if want := size%512 == sha256.Size; fits != want {
					t.Errorf("in pieces of %d: trailer fits: %v, expected %v", piece, fits, want)
				}
			}
		})
	}
}

const benchmarked = 64 << 20

func BenchmarkWriteAndCommit(b *testing.B) {
	v, data := benchmarkVault(b), make([]byte, 512<<10)
	for b.Loop() {
		w, err := v.Create("snapshot")
		if err != nil {
			b.Fatal(err)
		}
		for range benchmarked / len(data) {
			if _, err := w.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := w.Commit(); err != nil {
			b.Fatal(err)
		}
		if err := v.Drop("snapshot"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFacts(b *testing.B) {
	v := benchmarkVault(b)
	w, err := v.Create("snapshot")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := w.Write(make([]byte, benchmarked)); err != nil {
		b.Fatal(err)
	}
	if _, err := w.Commit(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := v.Facts(b.Context(), "snapshot", nil); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkVault(b *testing.B) *vault.Vault {
	b.Helper()
	v, err := vault.Open(b.TempDir(), hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(benchmarked)
	return v
}
