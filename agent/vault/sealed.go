package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/seal"
)

// fileSuffixes are what the names of complete copies end in, by how they are sealed.
var fileSuffixes = []string{fileSuffix, fileSuffix + ".zst", fileSuffix + ".age", fileSuffix + ".zst.age"}

func suffixOf(m *requorumv1.Manifest) string {
	return fileSuffix + seal.OptionsOf(m.GetLocal()).Suffix()
}

func (v *Vault) scratchPath(name string) string {
	return filepath.Join(v.dir, name+fileSuffix+".plain")
}

// SealedWriter is a Writer of a copy that is sealed as it is written. Readers follow the sealed file.
//
// What was sealed can be read at PlainPath until Commit or Discard. It has no name, so that nothing is left of it
// after a crash.
type SealedWriter struct {
	sealed  *Writer
	sealing io.WriteCloser
	options seal.Options
	plain   *digest
	scratch *os.File
	err     error // the first failure
}

// CreateSealed is Create for a copy that is sealed.
func (v *Vault) CreateSealed(name string, o seal.Options) (*SealedWriter, error) {
	sealed, err := v.Create(name)
	if err != nil {
		return nil, err
	}
	sealed.part.suffix = fileSuffix + o.Suffix()
	sealed.part.digest.md5 = nil // nothing is compared by it
	w := &SealedWriter{sealed: sealed, options: o, plain: newDigest()}
	if w.scratch, err = v.scratch(name); err == nil {
		w.sealing, err = seal.Writer(sealed, o)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create: %w", err), w.Discard())
	}
	return w, nil
}

// scratch makes a file without a name in the vault.
func (v *Vault) scratch(name string) (*os.File, error) {
	f, err := os.OpenFile(v.scratchPath(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// pathOf is a path that leads to an open file, whether it has a name or not.
func pathOf(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// PlainPath returns a path of what was sealed.
func (w *SealedWriter) PlainPath() string { return pathOf(w.scratch) }

// Expect fails with a *NoSpaceError if a file of size bytes would not fit beside the sealed one, which may be as large.
func (w *SealedWriter) Expect(size int64) error {
	free, err := w.sealed.part.v.FreeBytes()
	if err != nil {
		return err
	}
	if needed := 2*uint64(max(0, size)) + Headroom; free < needed {
		return &NoSpaceError{Path: w.sealed.part.v.dir, Needed: needed, Free: free}
	}
	return w.sealed.Expect(size)
}

// Write seals what comes.
func (w *SealedWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.plain.Write(p) //nolint:errcheck // a hash takes everything
	_, w.err = w.scratch.Write(p)
	if errors.Is(w.err, unix.ENOSPC) {
		w.err = w.sealed.part.noSpace(uint64(len(p)))
	}
	if w.err == nil {
		_, w.err = w.sealing.Write(p)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// Facts tells size, digests and trailer of what was sealed. Only Commit and Discard may follow.
func (w *SealedWriter) Facts() *agentv1.CopyFacts {
	if w.err == nil {
		w.err = fmt.Errorf("snapshot %s: %w", w.sealed.part.name, ErrEnded)
	}
	return w.plain.facts()
}

// Commit makes the sealed file durable and gives it its final name. The facts are of what was sealed; Local describes the
// sealed file.
func (w *SealedWriter) Commit() (*agentv1.CopyFacts, error) {
	if w.err != nil && !errors.Is(w.err, ErrEnded) {
		return nil, errors.Join(w.err, w.Discard())
	}
	if err := w.sealing.Close(); err != nil {
		return nil, errors.Join(fmt.Errorf("seal snapshot %s: %w", w.sealed.part.name, err), w.Discard())
	}
	facts := w.Facts()
	stored, err := w.sealed.Commit()
	if err = errors.Join(err, w.closeScratch()); err != nil {
		return nil, err
	}
	facts.Created = stored.GetCreated()
	facts.Local = &requorumv1.StoredObject{
		Size: stored.GetSize(), Sha256: stored.GetSha256(), ZstdLevel: int32(w.options.Level), Recipients: w.options.Recipients,
	}
	return facts, nil
}

// Discard removes the file. After Commit or Discard it does nothing.
func (w *SealedWriter) Discard() error { return errors.Join(w.sealed.Discard(), w.closeScratch()) }

func (w *SealedWriter) closeScratch() error {
	if w.scratch == nil {
		return nil
	}
	err := w.scratch.Close()
	w.scratch = nil
	return err
}

// UnsealError says that a sealed copy cannot be opened, although an identity for it was given.
type UnsealError struct {
	Path string
	Err  error
}

func (e *UnsealError) Error() string {
	return fmt.Sprintf("%s cannot be opened: %v; it is damaged: take another copy of the snapshot", e.Path, e.Err)
}

// Unwrap returns what failed.
func (e *UnsealError) Unwrap() error { return e.Err }

// Open opens the copy that m describes for reading, in the clear. identity is the text of key files of age, of use only for
// an encrypted copy. It fails with ErrNotFound, and with seal.ErrNoIdentity; damage is an *UnsealError of Read or of Open.
func (v *Vault) Open(m *requorumv1.Manifest, identity string) (io.ReadCloser, error) {
	path, err := v.Path(m.GetName())
	if err != nil {
		return nil, err
	}
	f, err := openNoFollow(path)
	if err != nil || m.GetLocal() == nil {
		return f, err
	}
	r, err := seal.Reader(f, seal.OptionsOf(m.GetLocal()), identity)
	if err != nil {
		if !errors.Is(err, seal.ErrNoIdentity) {
			err = &UnsealError{Path: path, Err: err}
		}
		return nil, errors.Join(err, f.Close())
	}
	return &unsealed{r: r, f: f}, nil
}

// unsealed reads a sealed file in the clear.
type unsealed struct {
	r io.ReadCloser
	f *os.File
}

func (u *unsealed) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &UnsealError{Path: u.f.Name(), Err: err}
	}
	return n, err
}

func (u *unsealed) Close() error { return errors.Join(u.r.Close(), u.f.Close()) }

// Plain is a copy in the clear, as a file.
type Plain struct {
	Path string
	f    *os.File // that Path leads to; nil for a copy that is not sealed
}

// Plain gives the file of the copy that m describes: the copy itself, or a file without a name that it is opened into, for
// which there has to be space. That file is what the manifest says, or there is a *MismatchError. It fails as Open does.
func (v *Vault) Plain(ctx context.Context, m *requorumv1.Manifest, identity string, tick func(done, total int64)) (*Plain, error) {
	path, err := v.Path(m.GetName())
	if err != nil || m.GetLocal() == nil {
		return &Plain{Path: path}, err
	}
	from, err := v.Open(m, identity)
	if err != nil {
		return nil, err
	}
	p, err := v.unseal(ctx, m, from, tick)
	return p, errors.Join(err, from.Close())
}

func (v *Vault) unseal(ctx context.Context, m *requorumv1.Manifest, from io.Reader, tick func(done, total int64)) (*Plain, error) {
	free, err := v.FreeBytes()
	if err != nil {
		return nil, err
	}
	if needed := uint64(m.GetSize()) + Headroom; free < needed {
		return nil, &NoSpaceError{Path: v.dir, Needed: needed, Free: free}
	}
	f, err := v.scratch(m.GetName())
	if err != nil {
		return nil, err
	}
	if err := copyChecked(ctx, f, from, m, tick); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Plain{Path: pathOf(f), f: f}, nil
}

// copyChecked copies what must be the plain file of m.
func copyChecked(ctx context.Context, to io.Writer, from io.Reader, m *requorumv1.Manifest, tick func(done, total int64)) error {
	sum, want := sha256.New(), Sums{Size: m.GetSize(), SHA256: m.GetSha256()}
	got := Sums{}
	buf := make([]byte, readBuffer)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := from.Read(buf)
		sum.Write(buf[:n])
		got.Size += int64(n)
		if got.Size > want.Size { // it would fill the disk
			return &MismatchError{Name: m.GetName(), Want: want, Got: Sums{Size: got.Size}}
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return err
		}
		if tick != nil {
			tick(got.Size, want.Size)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	got.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if got != want {
		return &MismatchError{Name: m.GetName(), Want: want, Got: got}
	}
	return nil
}

// Close gives the space free.
func (p *Plain) Close() error {
	if p == nil || p.f == nil {
		return nil
	}
	return p.f.Close()
}
