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
)

const (
	suffix  = ".files"
	tarMode = 0o600
)

// MaxTar is the most bytes that a bundle has, with headers and padding.
const MaxTar = maxTotal + maxFiles*4096

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
// for what may not be kept. Node is the caller's to fill in.
func (k *Keeper) Pack(ctx context.Context, name string, sets []string) (*requorumv1.Bundle, error) {
	path, err := k.path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+durable.PartSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, tarMode)
	if err != nil {
		return nil, err
	}
	b, err := k.packInto(ctx, f, sets)
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

func (k *Keeper) packInto(ctx context.Context, f *os.File, sets []string) (*requorumv1.Bundle, error) {
	if err := f.Chmod(tarMode); err != nil {
		return nil, err
	}
	sets = slices.Compact(slices.Sorted(slices.Values(sets)))
	sum := sha256.New()
	found, err := k.Sets.pack(ctx, sets, io.MultiWriter(f, sum))
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	return &requorumv1.Bundle{Size: size, Sha256: hex.EncodeToString(sum.Sum(nil)), Sets: sets, Files: uint32(found)}, err
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

// Read reads a bundle back from the disk. It fails with ErrNotFound, or with a *CorruptError for another one than b. A
// bundle is bounded, so it is held in memory: what was verified is what is written.
func (k *Keeper) Read(name string, b *requorumv1.Bundle) ([]byte, error) {
	path, err := k.path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxTar+1))
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

// open reads a bundle back from the disk and takes it apart.
func (k *Keeper) open(name string, b *requorumv1.Bundle) ([]entry, error) {
	data, err := k.Read(name, b)
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
