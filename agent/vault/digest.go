package vault

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"sync"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

const (
	trailerSize = sha256.Size
	pageUnit    = 512 // every bbolt file is a multiple of it, so that a rest of 32 is etcd's trailer
)

// blockSize is how much of a file is hashed at once, in bytes.
const blockSize = 1 << 20

// digest computes what identifies a file as its bytes pass: size, MD5, SHA-256, and whether the last 32
// bytes are the SHA-256 of everything before them. One SHA-256 does for both: it lags 32 bytes behind,
// so that at the end it is first compared with the bytes held back and then fed with them.
//
// The bytes are gathered in blocks. MD5 and SHA-256 of a block are computed beside each other while the
// next one comes in, so that the slower one, MD5, is all that a writer may have to wait for. Two blocks are
// all the memory that this takes.
type digest struct {
	size int64
	md5  hash.Hash // nil if it is not asked for
	lag  hash.Hash
	tail [trailerSize]byte
	held int // bytes in tail
	sums *agentv1.CopyFacts

	next, hashed []byte // blocks: the one that fills, the one that is being hashed
	hashing      sync.WaitGroup
}

func newDigest() *digest { return &digest{md5: md5.New(), lag: sha256.New()} }

// Write never fails.
func (d *digest) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	for left := p; len(left) > 0; {
		if d.next == nil {
			d.next = make([]byte, 0, blockSize)
		}
		n := min(len(left), cap(d.next)-len(d.next))
		d.next = append(d.next, left[:n]...)
		left = left[n:]
		if len(d.next) == cap(d.next) {
			d.hashBlock()
		}
	}
	return len(p), nil
}

// hashBlock begins to hash the block that has filled, once the one before it is done.
func (d *digest) hashBlock() {
	d.hashing.Wait()
	block := d.next
	d.next, d.hashed = d.hashed[:0], block
	d.hashing.Go(func() { d.lagBehind(block) })
	if d.md5 != nil {
		d.hashing.Go(func() { d.md5.Write(block) })
	}
}

func (d *digest) lagBehind(p []byte) {
	if len(p) >= trailerSize {
		d.lag.Write(d.tail[:d.held])
		d.lag.Write(p[:len(p)-trailerSize])
		d.held = copy(d.tail[:], p[len(p)-trailerSize:])
		return
	}
	over := max(0, d.held+len(p)-trailerSize)
	d.lag.Write(d.tail[:over])
	d.held = copy(d.tail[:], d.tail[over:d.held])
	d.held += copy(d.tail[d.held:], p)
}

// facts ends the digest: nothing may be written afterwards.
func (d *digest) facts() *agentv1.CopyFacts {
	if d.sums != nil {
		return d.sums
	}
	d.hashBlock()
	d.hashing.Wait()
	fits := string(d.lag.Sum(nil)) == string(d.tail[:d.held])
	d.lag.Write(d.tail[:d.held])
	d.sums = &agentv1.CopyFacts{
		Size:       d.size,
		Sha256:     hex.EncodeToString(d.lag.Sum(nil)),
		HasTrailer: fits && hasTrailerSize(d.size),
	}
	if d.md5 != nil {
		d.sums.Md5 = hex.EncodeToString(d.md5.Sum(nil))
	}
	return d.sums
}

// hasTrailerSize tells whether by its size a file ends in etcd's trailing SHA-256.
func hasTrailerSize(size int64) bool { return size > trailerSize && size%pageUnit == trailerSize }

func sumsOf(f *agentv1.CopyFacts) Sums {
	return Sums{Size: f.GetSize(), MD5: f.GetMd5(), SHA256: f.GetSha256()}
}
