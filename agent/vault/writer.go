package vault

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/durable"
)

// Writer writes a new copy whose content is not known beforehand. Readers may follow it. It is ended by Commit, Keep
// or Discard.
type Writer struct {
	part    *part
	growth  *growth
	created time.Time
	ended   bool
}

// Create starts a new copy. It fails with ErrExists if a complete one is there, with ErrBusy while one is
// being written, and with a *NoSpaceError if less than Headroom is free. A partial file that a crash
// left behind is replaced.
func (v *Vault) Create(name string) (*Writer, error) {
	w := &Writer{growth: newGrowth(), created: time.Now()}
	if err := v.claim(name, w); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if err := w.open(v, name); err != nil {
		v.release(name)
		return nil, fmt.Errorf("create: %w", err)
	}
	return w, nil
}

// Follow is Create for a copy that another node is still writing: Keep leaves it to the Receiver that is told what
// the file is. MD5 is not computed, as by a Receiver.
func (v *Vault) Follow(name string) (*Writer, error) {
	w, err := v.Create(name)
	if err == nil {
		w.part.digest.md5 = nil
	}
	return w, err
}

func (w *Writer) open(v *Vault, name string) error {
	p, err := v.startPart(name)
	if err != nil {
		return err
	}
	if err := w.growth.open(v.partPath(name), p.f); err != nil {
		return errors.Join(err, p.f.Close())
	}
	w.part = p
	return nil
}

func (w *Writer) growing() *growth { return w.growth }

func (w *Writer) isFile(string, int64) bool { return false }

// startPart opens an empty partial file for a name that is claimed and has no complete copy.
func (v *Vault) startPart(name string) (*part, error) {
	if err := v.absent(name); err != nil {
		return nil, err
	}
	v.takeKept(name)
	p, err := v.openPart(name)
	if err != nil {
		return nil, err
	}
	// What belonged to an earlier file of that name must not be taken to describe this one.
	err = errors.Join(durable.Remove(v.expectedPath(name)), durable.Remove(v.manifestPath(name)), p.clear())
	if err == nil {
		err = p.reserve(1)
	}
	if err != nil { // nothing is in it, and on a full disk nobody may come to remove it
		return nil, errors.Join(err, p.remove(), p.f.Close())
	}
	return p, nil
}

// Expect fails with a *NoSpaceError if a file of size bytes would not fit, and reserves the space if the
// file system can. A file that turns out shorter or longer is no error.
func (w *Writer) Expect(size int64) error { return w.part.reserve(size) }

// Write appends to the file. When the disk is full it fails with a *NoSpaceError.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.part.write(p)
	w.growth.grow(w.part.digest.size)
	return n, err
}

// Offset returns where the next byte goes: how many bytes of the file are there.
func (w *Writer) Offset() int64 { return w.part.digest.size }

// Facts tells size, digests and whether etcd's trailing SHA-256 is there and fits. It ends the writing:
// only Commit and Discard may follow. EtcdVersion is the caller's to fill in.
func (w *Writer) Facts() *agentv1.CopyFacts {
	if w.part.err == nil {
		w.part.err = fmt.Errorf("snapshot %s: %w", w.part.name, ErrEnded)
	}
	facts := proto.CloneOf(w.part.facts())
	facts.Created = timestamppb.New(w.created)
	return facts
}

// Commit makes the file durable, gives it its final name and returns its facts. It fails, and discards
// the file, if a write failed before.
func (w *Writer) Commit() (*agentv1.CopyFacts, error) {
	if w.ended {
		return nil, fmt.Errorf("commit snapshot %s: %w", w.part.name, ErrEnded)
	}
	if err := w.part.err; err != nil && !errors.Is(err, ErrEnded) {
		return nil, errors.Join(err, w.Discard())
	}
	facts := w.Facts()
	err := w.part.finish(facts.GetSize())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("commit snapshot %s: %w", w.part.name, err), w.Discard())
	}
	w.ended = true
	w.part.v.log.Info("snapshot file written", "snapshot", w.part.name, "size", facts.GetSize(), "sha256", facts.GetSha256())
	return facts, w.end(nil)
}

// Keep leaves the bytes for a Receiver of the same vault, which continues them without reading them again. After
// Commit, Keep or Discard it does nothing.
func (w *Writer) Keep() error {
	if w.ended {
		return nil
	}
	if w.part.err != nil {
		return w.Discard()
	}
	w.ended = true
	if err := w.part.f.Truncate(w.part.digest.size); err != nil { // space may have been reserved beyond
		return errors.Join(err, w.end(ErrInterrupted))
	}
	w.part.v.keep(w.part.name, w.part.digest)
	return w.end(nil)
}

// end tells the Readers how it ended and gives the name free.
func (w *Writer) end(cause error) error {
	return errors.Join(w.growth.end(cause), w.part.close())
}

// finish gives back space that was reserved beyond size and commits the file.
func (p *part) finish(size int64) error {
	if err := p.f.Truncate(size); err != nil {
		return err
	}
	return p.commit(func() error { return nil })
}

// Discard removes the file. After Commit, Keep or Discard it does nothing.
func (w *Writer) Discard() error {
	if w.ended {
		return nil
	}
	w.ended = true
	if err := errors.Join(w.part.remove(), w.end(ErrDiscarded)); err != nil {
		return fmt.Errorf("discard snapshot %s: %w", w.part.name, err)
	}
	return nil
}
