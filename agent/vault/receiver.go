package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
)

// Receiver writes a copy whose manifest is known. Readers may follow it. It is ended by Commit, Discard
// or Close.
type Receiver struct {
	part    *part
	want    *requorumv1.Manifest
	resumed int64
	growth  *growth
	ended   bool
}

// Receive is Resume without a way to stop or to watch the reading of what is there already.
func (v *Vault) Receive(m *requorumv1.Manifest) (*Receiver, error) {
	return v.Resume(context.Background(), m, nil)
}

// Resume starts or resumes the receiving of the copy that m describes. What an earlier Receiver of the
// same file left is read and hashed again, which tick is told of, and kept: Offset says how much that is.
// Readers can already follow while that is done. A partial file of anything else is replaced.
//
// It fails with ErrExists if a complete copy is there, which is a *ConflictError if that copy's manifest
// is another's; with ErrBusy while the name is being written; with a *NoSpaceError if the rest of the
// file does not fit.
func (v *Vault) Resume(ctx context.Context, m *requorumv1.Manifest, tick func(done, total int64)) (*Receiver, error) {
	return v.receive(ctx, m, tick, v.vacant)
}

// Replace is Resume for a complete copy that was found not to be good: that one stays until Commit puts
// the new one in its place.
func (v *Vault) Replace(ctx context.Context, m *requorumv1.Manifest, tick func(done, total int64)) (*Receiver, error) {
	return v.receive(ctx, m, tick, v.replaceable)
}

func (v *Vault) receive(ctx context.Context, m *requorumv1.Manifest, tick func(done, total int64), admit func(*requorumv1.Manifest) error) (*Receiver, error) {
	if err := checkManifest(m); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	r := &Receiver{want: proto.CloneOf(m), growth: newGrowth()}
	if err := v.claim(m.GetName(), r); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	err := admit(m)
	if err == nil {
		err = r.open(v)
	}
	if err != nil {
		v.release(m.GetName())
		return nil, fmt.Errorf("receive: %w", err)
	}
	if err := r.readBack(ctx, tick); err != nil {
		return nil, errors.Join(fmt.Errorf("receive: %w", err), r.Close())
	}
	return r, nil
}

// vacant fails unless there is no complete copy under m's name.
func (v *Vault) vacant(m *requorumv1.Manifest) error {
	err := v.absent(m.GetName())
	if !errors.Is(err, ErrExists) {
		return err
	}
	if conflict := v.conflict(m); conflict != nil {
		return conflict
	}
	return err
}

// replaceable fails unless the complete copy under m's name, if there is one, was meant to be m.
func (v *Vault) replaceable(m *requorumv1.Manifest) error {
	err := v.absent(m.GetName())
	if !errors.Is(err, ErrExists) {
		return err
	}
	if _, err := os.Lstat(v.manifestPath(m.GetName())); errors.Is(err, fs.ErrNotExist) {
		return &ConflictError{Name: m.GetName(), Path: v.filePath(m.GetName()), Detail: "it has no manifest"}
	}
	return v.conflict(m)
}

// conflict tells whether the manifest beside the complete copy is another snapshot's. One that is
// missing or cannot be read conflicts with nothing: only the file itself can tell.
func (v *Vault) conflict(m *requorumv1.Manifest) error {
	there, err := readManifest(v.manifestPath(m.GetName()), m.GetName())
	if err != nil {
		v.log.Warn("manifest beside a complete copy is of no use", "snapshot", m.GetName(), "error", err)
		return nil
	}
	if there.GetSha256() == m.GetSha256() && there.GetSize() == m.GetSize() {
		return nil // the same snapshot, if not sealed in the same way
	}
	if detail := difference(FileOf(m), FileOf(there)); detail != "" {
		return &ConflictError{Name: m.GetName(), Path: v.filePath(m.GetName()), Detail: detail}
	}
	return nil
}

// open opens the partial file, empties it unless it is a beginning of the same file, and opens it a
// second time for Readers: their reading must not depend on the descriptor that holds the lock.
func (r *Receiver) open(v *Vault) error {
	p, err := v.openPart(r.want.GetName())
	if err != nil {
		return err
	}
	r.part = p
	p.suffix = suffixOf(r.want)
	err = r.keepOrClear()
	p.digest.md5 = nil // Commit says why
	if err == nil {
		r.growth.grow(p.digest.size)
		err = p.reserve(FileOf(r.want).Size)
	}
	if err == nil {
		err = r.growth.open(v.partPath(p.name), p.f)
	}
	if err != nil {
		return errors.Join(err, p.f.Close())
	}
	return nil
}

func (r *Receiver) keepOrClear() error {
	v, name := r.part.v, r.part.name
	info, err := r.part.f.Stat()
	if err != nil {
		return err
	}
	if d := v.takeKept(name); d != nil && d.size == info.Size() && d.size <= FileOf(r.want).Size {
		return r.goOn(d)
	}
	expected, err := readManifest(v.expectedPath(name), name)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		v.log.Warn("partial file starts anew", "snapshot", name, "error", err)
	case err == nil && info.Size() <= FileOf(r.want).Size && FileOf(expected) == FileOf(r.want):
		r.resumed = info.Size()
		return nil
	}
	data, err := EncodeManifest(r.want)
	if err != nil {
		return err
	}
	// Emptied first: the old bytes must never stand beside the new expectation.
	if err := errors.Join(r.part.clear(), r.part.f.Sync()); err != nil {
		return err
	}
	return durable.WriteFile(v.expectedPath(name), data, fileMode)
}

// goOn continues what Keep has left, whose bytes were hashed as they came: Commit tells whether they are the file's.
func (r *Receiver) goOn(d *digest) error {
	data, err := EncodeManifest(r.want)
	if err != nil {
		return err
	}
	if _, err := r.part.f.Seek(d.size, 0); err != nil {
		return err
	}
	r.part.digest, r.resumed = d, d.size
	return durable.WriteFile(r.part.v.expectedPath(r.part.name), data, fileMode)
}

// readBack hashes what an earlier Receiver left. Bytes that cannot be read are received again.
func (r *Receiver) readBack(ctx context.Context, tick func(done, total int64)) error {
	total := FileOf(r.want).Size
	err := readAll(ctx, r.part.f, func(b []byte) error {
		if _, err := r.part.digest.Write(b); err != nil {
			return err
		}
		r.growth.grow(r.part.digest.size)
		if tick != nil {
			tick(r.part.digest.size, total)
		}
		return nil
	})
	if ctx.Err() != nil {
		return fmt.Errorf("read back partial file of %s: %w", r.part.name, context.Cause(ctx))
	}
	if err != nil {
		r.part.v.log.Warn("partial file cannot be read back to its end and is continued before that", "snapshot", r.part.name,
			"offset", r.part.digest.size, "error", err)
		if err := r.part.f.Truncate(r.part.digest.size); err != nil {
			return err
		}
	}
	r.resumed = r.part.digest.size
	r.part.flushed = r.resumed
	_, err = r.part.f.Seek(r.resumed, 0)
	return err
}

// Offset returns where the next byte goes: how many bytes of the file are there.
func (r *Receiver) Offset() int64 { return r.part.digest.size }

// Resumed returns how many of those bytes were there when the Receiver was made.
func (r *Receiver) Resumed() int64 { return r.resumed }

// Write appends to the file. It refuses bytes beyond the manifest's size; when the disk is full it fails
// with a *NoSpaceError.
func (r *Receiver) Write(b []byte) (int, error) {
	if over := r.Offset() + int64(len(b)) - FileOf(r.want).Size; over > 0 {
		return 0, fmt.Errorf("write snapshot %s: %d bytes more than its manifest says", r.want.GetName(), over)
	}
	n, err := r.part.write(b)
	r.growth.grow(r.part.digest.size)
	return n, err
}

// Commit checks the file against its manifest, makes both durable and gives the file its final name. A
// file that does not fit is removed and a *MismatchError returned; so is a file that could not be made
// durable, since what can then be read from it need not be on the disk.
//
// The size and the SHA-256 tell whether it fits. MD5 would take longer than both and could tell nothing more;
// Hash computes it when the file is read back.
func (r *Receiver) Commit() (*agentv1.CopyFacts, error) {
	if r.ended {
		return nil, fmt.Errorf("commit snapshot %s: %w", r.want.GetName(), ErrEnded)
	}
	if err := r.part.err; err != nil {
		return nil, errors.Join(err, r.Close())
	}
	facts, want := r.part.facts(), FileOf(r.want)
	facts.Md5 = want.MD5
	if got := sumsOf(facts); got != want {
		return nil, errors.Join(&MismatchError{Name: r.want.GetName(), Want: want, Got: got}, r.Discard())
	}
	if err := r.part.commit(r.describe); err != nil {
		return nil, errors.Join(fmt.Errorf("commit snapshot %s: %w", r.want.GetName(), err), r.Discard())
	}
	r.part.v.log.Info("snapshot file received", "snapshot", r.part.name, "size", want.Size, "sha256", want.SHA256, "resumed_at", r.resumed)
	return proto.CloneOf(facts), r.end(nil)
}

// describe puts the manifest in place.
func (r *Receiver) describe() error {
	data, err := EncodeManifest(r.want)
	if err != nil {
		return err
	}
	return durable.WriteFile(r.part.v.manifestPath(r.part.name), data, fileMode)
}

// Discard removes the file. After Commit, Discard or Close it does nothing.
func (r *Receiver) Discard() error {
	if r.ended {
		return nil
	}
	if err := errors.Join(r.part.remove(), r.end(ErrDiscarded)); err != nil {
		return fmt.Errorf("discard snapshot %s: %w", r.want.GetName(), err)
	}
	return nil
}

// Close ends the Receiver and keeps the bytes for a later one. After Commit, Discard or Close it does
// nothing.
func (r *Receiver) Close() error {
	if r.ended {
		return nil
	}
	if err := r.end(ErrInterrupted); err != nil {
		return fmt.Errorf("close snapshot %s: %w", r.want.GetName(), err)
	}
	return nil
}

// end tells the Readers how it ended and gives the name free.
func (r *Receiver) end(cause error) error {
	r.ended = true
	err := r.growth.end(cause)
	if cause == nil {
		err = errors.Join(err, durable.Remove(r.part.v.expectedPath(r.part.name)))
	}
	return errors.Join(err, r.part.close())
}

// isFile tells whether a Receiver is of the file that sha256 and size describe.
func (r *Receiver) growing() *growth { return r.growth }

func (r *Receiver) isFile(sha256 string, size int64) bool {
	want := FileOf(r.want)
	return want.SHA256 == sha256 && want.Size == size
}

// openNoFollow opens a file for reading, and neither follows a link nor waits for a pipe's other end.
func openNoFollow(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}
