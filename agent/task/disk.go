package task

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/etcdfile"
)

// Vault is where the node keeps its copies of snapshots. What its methods promise, and how they fail, is
// written in package vault; OnDisk makes one of a vault.Vault.
type Vault interface {
	Copies
	Files
	Dir() string
	FreeBytes() (uint64, error)
}

// Copies are complete copies by their manifests.
type Copies interface {
	List() ([]*requorumv1.Manifest, error)
	Manifest(name string) (*requorumv1.Manifest, error)
	WriteManifest(m *requorumv1.Manifest) error
	Drop(name string) error
	DropPartial(name string) error
}

// Files are the copies' files.
type Files interface {
	Create(name string) (Writer, error)
	Import(ctx context.Context, name, path string, skipHashCheck bool, tick func(done, total int64)) (*agentv1.CopyFacts, error)
	Hash(ctx context.Context, m *requorumv1.Manifest, tick func(done, total int64)) *requorumv1.Copy
	Path(name string) (string, error)
	Open(name string) (io.ReadCloser, error)
}

// Writer writes a new copy, as vault.Writer does.
type Writer interface {
	io.Writer
	Expect(size int64) error
	Facts() *agentv1.CopyFacts
	Commit() (*agentv1.CopyFacts, error)
	Discard() error
}

// OnDisk returns the copies that v keeps.
func OnDisk(v *vault.Vault) Vault { return vaultOnDisk{v} }

type vaultOnDisk struct{ *vault.Vault }

func (v vaultOnDisk) Create(name string) (Writer, error) {
	w, err := v.Vault.Create(name)
	if err != nil {
		return nil, err
	}
	return w, nil
}

func (v vaultOnDisk) Open(name string) (io.ReadCloser, error) {
	path, err := v.Path(name)
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// Fetcher fetches copies from neighbours, as transfer.Fetcher does.
type Fetcher interface {
	Fetch(ctx context.Context, spec *agentv1.FetchCopy, progress func(done, total int64)) (*agentv1.Fetched, error)
	Follow(ctx context.Context, spec *agentv1.FollowCopy, progress func(done, total int64)) error
}

// Disk is where etcd's data lies.
type Disk interface {
	// Open finds the directories of a restore.
	Open(m runtime.Member, restoreID string) (Dirs, error)
	// Free fails with a *datadir.HeldError while etcd holds the data.
	Free(ctx context.Context, m runtime.Member) error
	// Facts tells about space and layout; snapshot is the size of what would be staged.
	Facts(m runtime.Member, vaultDir string, snapshot int64) (*agentv1.NodeFacts, error)
	// RemoveQuarantine removes old data for good.
	RemoveQuarantine(ctx context.Context, path string) error
	// Databases reads etcd's files.
	Databases
}

// Databases reads etcd's database files, as package etcdfile does.
type Databases interface {
	Inspect(ctx context.Context, path string, tick func(n int64)) (*requorumv1.Manifest, error)
	Hashes(ctx context.Context, path string, revision, compactRevision int64, tick func(n int64)) (uint32, etcdfile.Started, error)
	// Size returns the size of the member's live database, 0 if there is none.
	Size(m runtime.Member) int64
	// DropCache asks the kernel to forget what it keeps of a file in memory.
	DropCache(path string) error
}

// Dirs are the directories of one restore of one member, as datadir.Dirs has them.
type Dirs interface {
	Stage(ctx context.Context, spec datadir.StageSpec, tick func(done, total int64)) (*agentv1.Staged, error)
	Unstage(ctx context.Context) error
	Swap(ctx context.Context) (*agentv1.Swapped, error)
	SwapBack(ctx context.Context) error
	Places
}

// Places tells where the data of a restore lies.
type Places interface {
	StagedDB() string
	HasQuarantine() (bool, error)
	QuarantinePaths() []string
}

// realDisk is the node's own.
type realDisk struct{}

func (realDisk) Open(m runtime.Member, restoreID string) (Dirs, error) {
	d, err := datadir.Open(m, restoreID)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (realDisk) Free(ctx context.Context, m runtime.Member) error {
	return datadir.Free(ctx, m.DataDir, m.WALDir, nil)
}

func (realDisk) RemoveQuarantine(ctx context.Context, path string) error {
	return datadir.RemoveQuarantine(ctx, path)
}

func (realDisk) Inspect(ctx context.Context, path string, tick func(n int64)) (*requorumv1.Manifest, error) {
	return etcdfile.Inspect(ctx, path, tick)
}

func (realDisk) Hashes(ctx context.Context, path string, revision, compactRevision int64, tick func(n int64)) (uint32, etcdfile.Started, error) {
	return etcdfile.Hashes(ctx, path, revision, compactRevision, tick)
}

func (realDisk) DropCache(path string) error { return durable.DropCacheOf(path) }

// Facts leaves out what cannot be told once something fails.
func (d realDisk) Facts(m runtime.Member, vaultDir string, snapshot int64) (*agentv1.NodeFacts, error) {
	f := &agentv1.NodeFacts{}
	dirs, err := datadir.Open(m, "preflight")
	if err != nil {
		return f, err
	}
	if err := dirs.CheckWritable(); err != nil {
		return f, err
	}
	if f.DataFreeBytes, f.WalFreeBytes, err = dirs.FreeBytes(); err != nil {
		return f, err
	}
	if f.DataNeededBytes, f.WalNeededBytes, err = needed(m, snapshot); err != nil {
		return f, err
	}
	if f.SharedFileSystem, err = durable.SameFileSystem(m.DataDir, vaultDir); err != nil {
		return f, err
	}
	f.QuarantinePaths, err = datadir.QuarantinePatterns(m)
	return f, err
}

func (realDisk) Size(m runtime.Member) int64 {
	info, err := os.Stat(filepath.Join(m.DataDir, "member", "snap", "db"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// disk returns where etcd's data lies.
func (n *Node) disk() Disk {
	if n.Disk == nil {
		return realDisk{}
	}
	return n.Disk
}
