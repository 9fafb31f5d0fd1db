package files

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
	"github.com/requorum/requorum/internal/seal"
)

const (
	suffix  = ".files"
	tarMode = 0o600
)

// MaxTar is the most bytes that a bundle has, with headers and padding.
const MaxTar = maxTotal + maxFiles*4096

// MaxStored is the most bytes that a file or object has which holds a bundle: encryption makes it a little larger.
const MaxStored = MaxTar + MaxTar/64

// CorruptError says that a bundle on the disk is not the one of its manifest.
type CorruptError struct{ Path, Detail string }

func (e *CorruptError) Error() string { return fmt.Sprintf("%s: %s", e.Path, e.Detail) }

// ErrNotFound says that this node does not hold its files of a snapshot.
var ErrNotFound = errors.New("this node does not hold its files of the snapshot")

// Keeper keeps files of this node with its snapshots.
type Keeper struct {
	Sets    Sets
	Dir     string // of the snapshots
	Records string // directory for what restores have changed
}

// Names returns the names of the sets in order.
func (k *Keeper) Names() []string { return k.Sets.Names() }

// Pack puts the files of sets beside a snapshot's copy, in place of those that are there. It fails with a *RefusedError
// for what may not be kept. Node is the caller's to fill in. With recipients the tar is encrypted, and never on the disk in
// the clear.
func (k *Keeper) Pack(ctx context.Context, name string, sets []string, recipients ...string) (*requorumv1.Bundle, error) {
	path, err := k.path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+durable.PartSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, tarMode)
	if err != nil {
		return nil, err
	}
	b, err := k.packInto(ctx, f, sets, recipients)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = durable.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, durable.Remove(f.Name()))
	}
	return b, nil
}

func (k *Keeper) packInto(ctx context.Context, f *os.File, sets, recipients []string) (*requorumv1.Bundle, error) {
	if err := f.Chmod(tarMode); err != nil {
		return nil, err
	}
	sets = slices.Compact(slices.Sorted(slices.Values(sets)))
	stored := seal.NewMeter(f)
	sealing, err := seal.Writer(stored, seal.Options{Recipients: recipients})
	if err != nil {
		return nil, err
	}
	tar := seal.NewMeter(sealing)
	found, err := k.Sets.pack(ctx, sets, tar)
	if err == nil {
		err = sealing.Close()
	}
	if err != nil {
		return nil, err
	}
	b := &requorumv1.Bundle{Size: tar.Size(), Sha256: tar.SHA256(), Sets: sets, Files: uint32(found)}
	if len(recipients) > 0 {
		b.Local = &requorumv1.StoredObject{Size: stored.Size(), Sha256: stored.SHA256(), Recipients: recipients}
	}
	return b, nil
}

func (k *Keeper) path(name string) (string, error) {
	return filepath.Join(k.Dir, name+suffix), names.Check("snapshot", name)
}

// Drop removes the files of a snapshot; what is gone already is no error.
func (k *Keeper) Drop(name string) error {
	path, err := k.path(name)
	if err != nil {
		return err
	}
	return errors.Join(durable.Remove(path+durable.PartSuffix), durable.Remove(path))
}

// Read reads a bundle back from the disk as it lies there. It fails with ErrNotFound, or with a *CorruptError for another
// one than b. A bundle is bounded, so it is held in memory: what was verified is what is written.
func (k *Keeper) Read(name string, b *requorumv1.Bundle) ([]byte, error) {
	path, err := k.path(name)
	if err != nil {
		return nil, err
	}
	return readVerified(path, onDisk(b))
}

// onDisk describes the file that holds a bundle: the encrypted one, where there is one.
func onDisk(b *requorumv1.Bundle) *requorumv1.Bundle {
	if l := b.GetLocal(); l != nil {
		return &requorumv1.Bundle{Size: l.GetSize(), Sha256: l.GetSha256()}
	}
	return b
}

func readVerified(path string, b *requorumv1.Bundle) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxStored))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return data, verify(path, b, data)
}

func verify(from string, b *requorumv1.Bundle, data []byte) error {
	if int64(len(data)) != b.GetSize() || digest(data) != b.GetSha256() {
		return &CorruptError{from, fmt.Sprintf("it is not what the manifest says: %s instead of %s, or another SHA-256", humanize.IBytes(uint64(len(data))), humanize.IBytes(uint64(b.GetSize())))}
	}
	return nil
}

// Put puts a bundle that came from elsewhere beside a snapshot's copy. It fails with a *CorruptError, and writes nothing,
// unless data is b and can be taken apart.
func (k *Keeper) Put(name string, b *requorumv1.Bundle, data []byte) error {
	path, err := k.path(name)
	if err != nil {
		return err
	}
	if _, err := opened(path, b, data); err != nil {
		return err
	}
	return durable.WriteFile(path, data, tarMode)
}

// PutSealed puts an encrypted bundle that came from elsewhere beside a snapshot's copy. It fails with a *CorruptError, and
// writes nothing, unless data is the encrypted b.
func (k *Keeper) PutSealed(name string, b *requorumv1.Bundle, data []byte) error {
	path, err := k.path(name)
	if err != nil {
		return err
	}
	if err := verify(path, onDisk(b), data); err != nil {
		return err
	}
	return durable.WriteFile(path, data, tarMode)
}

// Open reads a bundle back from the disk in the clear. identity is the text of key files of age. It fails as Read does, and
// with seal.ErrNoIdentity.
func (k *Keeper) Open(name string, b *requorumv1.Bundle, identity string) ([]byte, error) {
	data, err := k.Read(name, b)
	if err != nil || b.GetLocal() == nil {
		return data, err
	}
	r, err := seal.Reader(bytes.NewReader(data), seal.Options{Recipients: b.GetLocal().GetRecipients()}, identity)
	if errors.Is(err, seal.ErrNoIdentity) {
		return nil, err
	}
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(r, MaxTar+1))
	}
	if err != nil {
		return nil, &CorruptError{name + suffix, fmt.Sprintf("it cannot be opened: %v", err)}
	}
	return data, verify(name+suffix, b, data)
}

// PutOpened keeps a bundle in the clear for the restore with that ID, until DropOpened. It fails as Put does.
func (k *Keeper) PutOpened(id string, b *requorumv1.Bundle, data []byte) error {
	path, err := k.openedPath(id)
	if err != nil {
		return err
	}
	if _, err := opened(path, b, data); err != nil {
		return err
	}
	if err := durable.MkdirAll(k.Records, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, data, tarMode)
}

// DropOpened removes what PutOpened has kept; what is gone already is no error.
func (k *Keeper) DropOpened(id string) error {
	path, err := k.openedPath(id)
	if err != nil {
		return err
	}
	return errors.Join(durable.Remove(path), durable.Remove(path+durable.PartSuffix))
}

// KeepOpened removes what PutOpened has kept for every other restore than the one with that ID.
func (k *Keeper) KeepOpened(id string) error {
	kept, err := k.openedPath(id)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(k.Records)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(k.Records, e.Name())
		if whole := strings.TrimSuffix(path, durable.PartSuffix); whole != kept && strings.HasSuffix(whole, suffix) {
			err = errors.Join(err, durable.Remove(path))
		}
	}
	return err
}

func (k *Keeper) openedPath(id string) (string, error) {
	return filepath.Join(k.Records, id+suffix), names.Check("restore", id)
}

// toRestore takes the bundle apart that a restore writes back: the one that was opened for it, or else the one beside the
// copy.
func (k *Keeper) toRestore(id, name string, b *requorumv1.Bundle) ([]entry, error) {
	path, err := k.openedPath(id)
	if err != nil {
		return nil, err
	}
	data, err := readVerified(path, b)
	if errors.Is(err, ErrNotFound) {
		data, err = k.Open(name, b, "")
	}
	if err != nil {
		return nil, err
	}
	return opened(name+suffix, b, data)
}

// opened takes a bundle apart, unless it is another one than b.
func opened(from string, b *requorumv1.Bundle, data []byte) ([]entry, error) {
	if err := verify(from, b, data); err != nil {
		return nil, err
	}
	all, err := entries(data)
	if err != nil {
		return nil, &CorruptError{from, err.Error()}
	}
	return all, nil
}

// entries takes a tar apart.
func entries(data []byte) ([]entry, error) {
	r := tar.NewReader(bytes.NewReader(data))
	var all []entry
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeDir {
			return nil, fmt.Errorf("%q in it is neither a file nor a directory", h.Name)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		all = append(all, entry{
			path: "/" + strings.TrimSuffix(h.Name, "/"), directory: h.Typeflag == tar.TypeDir,
			mode: fs.FileMode(h.Mode).Perm(), uid: h.Uid, gid: h.Gid, data: content,
		})
	}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
