package vault

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"hash"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

const (
	trailerSize = sha256.Size
	pageUnit    = 512 // every bbolt file is a multiple of it, so that a rest of 32 is etcd's trailer
)

// digest computes what identifies a file as its bytes pass: size, MD5, SHA-256, and whether the last 32
// bytes are the SHA-256 of everything before them. One SHA-256 does for both: it lags 32 bytes behind,
// so that at the end it is first compared with the bytes held back and then fed with them.
type digest struct {
	size int64
	md5  hash.Hash
	lag  hash.Hash
	tail [trailerSize]byte
	held int // bytes in tail
	sums *agentv1.CopyFacts
}

func newDigest() *digest { return &digest{md5: md5.New(), lag: sha256.New()} }

// Write never fails.
func (d *digest) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	d.md5.Write(p)
	if len(p) >= trailerSize {
		d.lag.Write(d.tail[:d.held])
		d.lag.Write(p[:len(p)-trailerSize])
		d.held = copy(d.tail[:], p[len(p)-trailerSize:])
		return len(p), nil
	}
	over := max(0, d.held+len(p)-trailerSize)
	d.lag.Write(d.tail[:over])
	d.held = copy(d.tail[:], d.tail[over:d.held])
	d.held += copy(d.tail[d.held:], p)
	return len(p), nil
}

// facts ends the digest: nothing may be written afterwards.
func (d *digest) facts() *agentv1.CopyFacts {
	if d.sums != nil {
		return d.sums
	}
	fits := string(d.lag.Sum(nil)) == string(d.tail[:d.held])
	d.lag.Write(d.tail[:d.held])
	d.sums = &agentv1.CopyFacts{
		Size:       d.size,
		Md5:        hex.EncodeToString(d.md5.Sum(nil)),
		Sha256:     hex.EncodeToString(d.lag.Sum(nil)),
		HasTrailer: fits && hasTrailerSize(d.size),
	}
	return d.sums
}

// hasTrailerSize tells whether by its size a file ends in etcd's trailing SHA-256.
func hasTrailerSize(size int64) bool { return size > trailerSize && size%pageUnit == trailerSize }

func sumsOf(f *agentv1.CopyFacts) Sums {
	return Sums{Size: f.GetSize(), MD5: f.GetMd5(), SHA256: f.GetSha256()}
}
