package vault_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/requorum/requorum/agent/vault"
	"github.com/requorum/requorum/internal/names"
)

func TestManifestWithAnyBitFlippedIsRefused(t *testing.T) {
	good := mustEncode(t, describe("a", snapshot(1)))
	for at := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[at] ^= 1 << bit
			if m, err := vault.DecodeManifest(bad); err == nil {
				t.Errorf("bit %d of byte %d: read as %v", bit, at, m)
			}
		}
	}
}

func TestManifestCutAtAnyByteIsRefused(t *testing.T) {
	good := mustEncode(t, describe("a", snapshot(1)))
	for size := range good {
		if m, err := vault.DecodeManifest(good[:size]); err == nil {
			t.Errorf("cut at %d: read as %v", size, m)
		}
	}
	if _, err := vault.DecodeManifest(good); err != nil {
		t.Errorf("the whole one: %v", err)
	}
}

// sealed is a manifest's file with a digest that fits, whatever it says.
func sealed(rest []byte) []byte {
	sum := sha256.Sum256(rest)
	return append([]byte("{\n  \"digest\": \""+hex.EncodeToString(sum[:])+"\","), rest...)
}

// A digest keeps damage out, not a program that writes nonsense.
func FuzzManifestWithADigestThatFits(f *testing.F) {
	_, good, _ := bytes.Cut(mustEncode(&testing.T{}, describe("a", snapshot(1))), []byte(","))
	f.Add(good)
	f.Add([]byte(`"formatVersion":1,"name":"../a","size":"1"}`))
	f.Add([]byte(`"formatVersion":1,"name":"a","size":"-1","new":{"x":[1]}}`))
	f.Add([]byte(`"digest":"","formatVersion":1}`))
	f.Fuzz(func(t *testing.T, rest []byte) {
		m, err := vault.DecodeManifest(sealed(rest))
		if err != nil {
			return
		}
		if names.Check("snapshot", m.GetName()) != nil || m.GetSize() <= 0 || len(m.GetSha256()) != 64 {
			t.Fatalf("accepted %v", m)
		}
		again, err := vault.DecodeManifest(mustEncode(t, m))
		if err != nil || !proto.Equal(m, again) {
			t.Fatalf("%v does not survive being written: %v", m, err)
		}
	})
}
