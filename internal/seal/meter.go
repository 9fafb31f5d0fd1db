package seal

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
)

// Meter counts and hashes what it passes on.
type Meter struct {
	Moved func(done int64) // told of all bytes so far; may be nil

	to   io.Writer
	hash hash.Hash
	size int64
}

// NewMeter returns a Meter that passes on to w.
func NewMeter(w io.Writer) *Meter { return &Meter{to: w, hash: sha256.New()} }

// Write passes b on. It fails as what it passes on to.
func (m *Meter) Write(b []byte) (int, error) {
	n, err := m.to.Write(b)
	m.hash.Write(b[:n])
	m.size += int64(n)
	if m.Moved != nil {
		m.Moved(m.size)
	}
	return n, err
}

// Size returns how many bytes have passed.
func (m *Meter) Size() int64 { return m.size }

// SHA256 returns the sum of what has passed, in hexadecimal digits.
func (m *Meter) SHA256() string { return hex.EncodeToString(m.hash.Sum(nil)) }
