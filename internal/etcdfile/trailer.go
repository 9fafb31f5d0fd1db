package etcdfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// sectorSize divides the size of every database; a size that leaves a remainder of one SHA-256 has a trailer.
const sectorSize = 512

// HasTrailer tells whether a file of size bytes ends in the SHA-256 that etcd appends to a snapshot stream.
func HasTrailer(size int64) bool { return size%sectorSize == sha256.Size }

// Trailer tells whether the file ends in the SHA-256 that etcd appends to a snapshot stream, and whether it
// fits the bytes before it. A file without one is read only as far as its size.
func Trailer(ctx context.Context, path string, tick func(n int64)) (present, fits bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return false, false, err
	}
	if !HasTrailer(info.Size()) {
		return false, false, nil
	}
	sum := sha256.New()
	p := &progress{ctx: ctx, tick: tick}
	body := io.LimitReader(f, info.Size()-sha256.Size)
	if _, err := io.CopyBuffer(sum, readerFunc(func(b []byte) (int, error) {
		n, err := body.Read(b)
		if cancelled := p.did(int64(n)); cancelled != nil {
			return n, cancelled
		}
		return n, err
	}), make([]byte, 256<<10)); err != nil {
		return true, false, fmt.Errorf("read %s: %w", path, err)
	}
	trailer, err := io.ReadAll(f)
	if err != nil {
		return true, false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, bytes.Equal(trailer, sum.Sum(nil)), p.flush()
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
