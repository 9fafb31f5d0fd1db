// Package sealtest makes keys for tests that seal.
package sealtest

import (
	"testing"

	"filippo.io/age"
)

// NewKey makes a key of age.
func NewKey(t testing.TB) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return key
}
