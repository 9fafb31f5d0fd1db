package olddata

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
)

// lockWait is how long to wait for somebody who has the database open.
const lockWait = time.Second

// view calls read with a read-only transaction. What bbolt answers with a panic, or the memory map with a fault,
// comes back as an error.
func view(path string, read func(tx *bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("%s is damaged: %v", path, cause)
		}
	}()
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true, Timeout: lockWait})
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return errors.Join(db.View(read), db.Close())
}

// sized is a writer that wants to know what comes, as the vault's does: a live etcd writes on the same disk.
type sized interface{ Expect(size int64) error }

// stream writes the database and its SHA-256, which is what makes a snapshot of it (etcd's Maintenance.Snapshot).
func stream(ctx context.Context, path string, w io.Writer, tick func(done, total int64)) error {
	return view(path, func(tx *bolt.Tx) error {
		if s, ok := w.(sized); ok {
			if err := s.Expect(tx.Size() + sha256.Size); err != nil {
				return err
			}
		}
		sum := sha256.New()
		counted := &progress{ctx: ctx, w: io.MultiWriter(w, sum), total: tx.Size(), tick: tick}
		if _, err := tx.WriteTo(counted); err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		_, err := w.Write(sum.Sum(nil))
		return err
	})
}

// progress counts what passes, and ends with its context.
type progress struct {
	ctx         context.Context //nolint:containedctx // a Writer takes none
	w           io.Writer
	done, total int64
	tick        func(done, total int64)
}

func (p *progress) Write(b []byte) (int, error) {
	if p.ctx.Err() != nil {
		return 0, context.Cause(p.ctx)
	}
	n, err := p.w.Write(b)
	p.done += int64(n)
	p.tick(p.done, p.total)
	return n, err
}
