//go:build faultinject

package simulated_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/task"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/etcdfile"
	"github.com/requorum/requorum/internal/fault"
)

const plenty = 100 << 30

// data is a data directory of a member. Like a real one it keeps its identity when it is renamed.
type data struct {
	cluster, member string
	db              *database
}

// staged is a staging directory.
type staged struct {
	data     *data
	complete bool
}

// kept is a quarantine directory; marked tells that all the old data is in it.
type kept struct {
	data   *data
	marked bool
}

// disk is a node's disk. The world's lock guards it.
type disk struct {
	full       bool
	copies     map[string][]byte
	manifests  map[string]*requorumv1.Manifest
	parts      map[string][]byte
	live       *data
	staging    map[string]*staged
	quarantine map[string]*kept
}

func newDisk() *disk {
	return &disk{
		copies: map[string][]byte{}, manifests: map[string]*requorumv1.Manifest{}, parts: map[string][]byte{},
		staging: map[string]*staged{}, quarantine: map[string]*kept{},
	}
}

func (d *disk) free() uint64 {
	if d.full {
		return 0
	}
	return plenty
}

// mounted is a node's disk as one process of the node sees it.
type mounted struct {
	*node
	p       *process
	claimed map[string]bool // names of copies that are being written; guarded by the world's lock
}

// access runs f on the disk unless the process is dead.
func (m *mounted) access(f func(*disk) error) error {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if err := m.p.live(); err != nil {
		return err
	}
	return f(m.disk)
}

// change is access that writes, which a full disk does not take.
func (m *mounted) change(f func(*disk) error) error {
	return m.access(func(d *disk) error {
		if d.full {
			return &vault.NoSpaceError{Path: m.Dir(), Needed: fileSize}
		}
		return f(d)
	})
}

// The vault.

func (m *mounted) Dir() string { return "/simulated/" + m.name + "/snapshots" }

func (m *mounted) path(name string) string { return m.Dir() + "/" + name + ".db" }

func (m *mounted) FreeBytes() (free uint64, err error) {
	err = m.access(func(d *disk) error { free = d.free(); return nil })
	return free, err
}

func (m *mounted) Path(name string) (string, error) {
	err := m.access(func(d *disk) error {
		if d.copies[name] == nil {
			return fmt.Errorf("snapshot %s: %w", name, vault.ErrNotFound)
		}
		return nil
	})
	return m.path(name), err
}

// vaulted is a node's disk as its vault.
type vaulted struct{ *mounted }

func (m vaulted) Open(name string) (file io.ReadCloser, err error) {
	if _, err := m.Path(name); err != nil {
		return nil, err
	}
	err = m.access(func(d *disk) error { file = io.NopCloser(bytes.NewReader(d.copies[name])); return nil })
	return file, err
}

func (m *mounted) List() (all []*requorumv1.Manifest, err error) {
	err = m.access(func(d *disk) error {
		for _, name := range slices.Sorted(maps.Keys(d.copies)) {
			if known := d.manifests[name]; known != nil {
				all = append(all, proto.CloneOf(known))
			}
		}
		return nil
	})
	return all, err
}

func (m *mounted) Manifest(name string) (found *requorumv1.Manifest, err error) {
	err = m.access(func(d *disk) error {
		if d.copies[name] == nil || d.manifests[name] == nil {
			return fmt.Errorf("manifest of snapshot %s: %w", name, vault.ErrNotFound)
		}
		found = proto.CloneOf(d.manifests[name])
		return nil
	})
	return found, err
}

func (m *mounted) WriteManifest(manifest *requorumv1.Manifest) error {
	return m.change(func(d *disk) error {
		if d.copies[manifest.GetName()] == nil {
			return fmt.Errorf("snapshot %s: %w", manifest.GetName(), vault.ErrNotFound)
		}
		d.manifests[manifest.GetName()] = proto.CloneOf(manifest)
		return nil
	})
}

func (m *mounted) Drop(name string) error { return m.drop(name, true) }

func (m *mounted) DropPartial(name string) error { return m.drop(name, false) }

func (m *mounted) drop(name string, whole bool) error {
	return m.access(func(d *disk) error {
		if m.claimed[name] {
			return fmt.Errorf("drop: snapshot %s: %w", name, vault.ErrBusy)
		}
		delete(d.parts, name)
		if whole {
			delete(d.copies, name)
			delete(d.manifests, name)
		}
		return nil
	})
}

func (m *mounted) Hash(ctx context.Context, want *requorumv1.Manifest, tick func(done, total int64)) *requorumv1.Copy {
	c := &requorumv1.Copy{State: requorumv1.CopyState_COPY_STATE_UNKNOWN, Checked: timestamppb.New(time.Now())}
	tick(0, want.GetSize())
	if m.p.work(ctx, 100*time.Millisecond) != nil {
		return c
	}
	err := m.access(func(d *disk) error {
		content := d.copies[want.GetName()]
		if content == nil {
			c.State, c.Detail = requorumv1.CopyState_COPY_STATE_MISSING, "no file"
			return nil
		}
		f := factsOf(content)
		c.Size, c.Md5, c.Sha256 = f.GetSize(), f.GetMd5(), f.GetSha256()
		c.State = requorumv1.CopyState_COPY_STATE_GOOD
		if c.GetSha256() != want.GetSha256() {
			c.State = requorumv1.CopyState_COPY_STATE_DIFFERENT
		}
		return nil
	})
	if err == nil {
		tick(want.GetSize(), want.GetSize())
	}
	return c
}

func (m *mounted) Import(ctx context.Context, name, path string, _ bool, tick func(done, total int64)) (*agentv1.CopyFacts, error) {
	var content []byte
	err := m.access(func(d *disk) error { content = d.copies[strings.TrimPrefix(path, "/")]; return nil })
	if err != nil {
		return nil, err
	}
	w, err := m.Create(name)
	if err != nil {
		return nil, err
	}
	tick(0, int64(len(content)))
	if err := m.p.work(ctx, 100*time.Millisecond); err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	if _, err := w.Write(content); err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	return w.Commit()
}

// writing is a copy that is being written.
type writing struct {
	m     *mounted
	name  string
	ended bool
}

func (m *mounted) Create(name string) (task.Writer, error) {
	err := m.change(func(d *disk) error {
		switch {
		case m.claimed[name]:
			return fmt.Errorf("create: snapshot %s: %w", name, vault.ErrBusy)
		case d.copies[name] != nil:
			return fmt.Errorf("create: snapshot %s: %w", name, vault.ErrExists)
		}
		m.claimed[name] = true
		d.parts[name] = []byte{}
		delete(d.manifests, name)
		return nil
	})
	return &writing{m: m, name: name}, err
}

func (w *writing) Expect(int64) error { return w.m.change(func(*disk) error { return nil }) }

func (w *writing) Write(b []byte) (int, error) {
	err := w.m.change(func(d *disk) error {
		d.parts[w.name] = append(d.parts[w.name], b...)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (w *writing) Facts() *agentv1.CopyFacts {
	facts := &agentv1.CopyFacts{}
	if err := w.m.access(func(d *disk) error { facts = factsOf(d.parts[w.name]); return nil }); err != nil {
		return &agentv1.CopyFacts{}
	}
	return facts
}

func (w *writing) Commit() (*agentv1.CopyFacts, error) {
	facts := w.Facts()
	err := w.m.change(func(d *disk) error {
		d.copies[w.name] = d.parts[w.name]
		delete(d.parts, w.name)
		delete(w.m.claimed, w.name)
		w.ended = true
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	return facts, nil
}

func (w *writing) Discard() error {
	if w.ended {
		return nil
	}
	w.ended = true
	return w.m.access(func(d *disk) error {
		delete(d.parts, w.name)
		delete(w.m.claimed, w.name)
		return nil
	})
}

// What task.Disk wants.

func (m *mounted) Open(_ runtime.Member, restoreID string) (task.Dirs, error) {
	return &dirs{mounted: m, id: restoreID}, nil
}

func (m *mounted) Free(context.Context, runtime.Member) error {
	return m.access(func(*disk) error { return m.unheld() })
}

// unheld fails while etcd holds the data directory. The caller holds the world's lock.
func (m *mounted) unheld() error {
	if m.etcd.running {
		return &datadir.HeldError{What: m.dataDir(), Process: "etcd"}
	}
	return nil
}

func (m *mounted) Facts(runtime.Member, string, int64) (*agentv1.NodeFacts, error) {
	f := &agentv1.NodeFacts{SharedFileSystem: true, DataNeededBytes: 1 << 20, QuarantinePaths: []string{m.quarantinePath("%s")}}
	err := m.access(func(d *disk) error { f.DataFreeBytes = d.free(); return nil })
	return f, err
}

func (m *mounted) quarantinePath(id string) string { return m.dataDir() + ".quarantine-" + id }

func (m *mounted) RemoveQuarantine(_ context.Context, path string) error {
	return m.access(func(d *disk) error {
		delete(d.quarantine, strings.TrimPrefix(path, m.quarantinePath("")))
		return nil
	})
}

func (m *mounted) DropCache(string) error { return nil }

func (m *mounted) Size(runtime.Member) (size int64) {
	if m.access(func(d *disk) error {
		if d.live != nil {
			size = fileSize
		}
		return nil
	}) != nil {
		return 0
	}
	return size
}

// read returns the database in the file at path.
func (m *mounted) read(ctx context.Context, path string, tick func(int64)) (db *database, err error) {
	tick(0)
	if err := m.p.work(ctx, 50*time.Millisecond); err != nil {
		return nil, err
	}
	var content []byte
	err = m.access(func(d *disk) error {
		for id, s := range d.staging {
			if path == m.stagedPath(id) && s.data != nil {
				db = s.data.db
			}
		}
		content = d.copies[strings.TrimSuffix(strings.TrimPrefix(path, m.Dir()+"/"), ".db")]
		return nil
	})
	if db != nil || err != nil {
		return db, err
	}
	if db, err = m.w.files.decode(content); err != nil {
		return nil, &datadir.CorruptError{Path: path, Reason: err.Error()}
	}
	return db, nil
}

func (m *mounted) Inspect(ctx context.Context, path string, tick func(n int64)) (*requorumv1.Manifest, error) {
	db, err := m.read(ctx, path, tick)
	if err != nil {
		return nil, err
	}
	return db.manifest(), nil
}

func (m *mounted) Hashes(ctx context.Context, path string, revision, compact int64, tick func(n int64)) (uint32, etcdfile.Started, error) {
	db, err := m.read(ctx, path, tick)
	if err != nil {
		return 0, etcdfile.Started{}, err
	}
	started := etcdfile.Started{Revision: db.revision, Hash: db.hash(db.revision, db.compact), CompactRevision: db.compact}
	return db.hash(revision, compact), started, nil
}

// dirs are the directories of one restore. Like those of package datadir, every change is made in steps
// between which the process may die, and looks at the disk for what is left to do.
type dirs struct {
	*mounted
	id string
}

func (m *mounted) stagedPath(id string) string {
	return m.dataDir() + ".staging-" + id + "/member/snap/db"
}

func (d *dirs) StagedDB() string { return d.stagedPath(d.id) }

func (d *dirs) QuarantinePaths() []string { return []string{d.quarantinePath(d.id)} }

func (d *dirs) HasQuarantine() (has bool, err error) {
	err = d.access(func(k *disk) error { has = k.quarantine[d.id] != nil; return nil })
	return has, err
}

func (d *dirs) Unstage(context.Context) error {
	return d.access(func(k *disk) error { delete(k.staging, d.id); return nil })
}

func (d *dirs) Stage(ctx context.Context, spec datadir.StageSpec, tick func(done, total int64)) (*agentv1.Staged, error) {
	err := d.change(func(k *disk) error {
		if q := k.quarantine[d.id]; q != nil && q.marked {
			return datadir.ErrSwapped
		}
		k.staging[d.id] = &staged{}
		return nil
	})
	if err != nil {
		return nil, noSpace(err)
	}
	result, err := d.fill(ctx, spec, tick)
	if err != nil {
		return nil, errors.Join(noSpace(err), d.Unstage(ctx))
	}
	return result, nil
}

func noSpace(err error) error {
	if full := new(vault.NoSpaceError); errors.As(err, &full) {
		return &datadir.NoSpaceError{Path: full.Path, Needed: full.Needed}
	}
	return err
}

func (d *dirs) fill(ctx context.Context, spec datadir.StageSpec, tick func(done, total int64)) (*agentv1.Staged, error) {
	from, err := d.read(ctx, spec.SnapshotPath, func(int64) { tick(0, 2) })
	if err != nil {
		return nil, err
	}
	result, restored := restoredFrom(from, spec.Task)
	for part := range int64(2) {
		if err := d.p.work(ctx, 300*time.Millisecond); err != nil {
			return nil, err
		}
		tick(part+1, 2)
		err := d.change(func(k *disk) error {
			k.staging[d.id] = &staged{data: &data{cluster: result.GetClusterId(), member: result.GetMemberId(), db: restored}, complete: part == 1}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return result, nil
}

// restoredFrom is what etcdutl and datadir.Stage make of a snapshot: one member of a new cluster.
func restoredFrom(from *database, spec *agentv1.Stage) (*agentv1.Staged, *database) {
	result := &agentv1.Staged{ClusterId: hexID(spec.GetClusterToken(), spec.GetInitialCluster())}
	var members []*requorumv1.ListedMember
	for _, pair := range strings.Split(spec.GetInitialCluster(), ",") {
		name, url, _ := strings.Cut(pair, "=")
		listed := &requorumv1.ListedMember{Id: hexID(result.GetClusterId(), name), Name: name, PeerUrls: []string{url}}
		members = append(members, listed)
		if name == spec.GetMemberName() {
			result.MemberId = listed.GetId()
		}
	}
	restored := from.next(func(n *database) {
		n.cluster, n.members, n.index = result.GetClusterId(), members, 1
		if bump := int64(spec.GetBumpRevision()); bump > 0 {
			n.revision += bump
			n.compact = n.revision
		}
	})
	gate(result, restored)
	return result, restored
}

func (d *dirs) Swap(ctx context.Context) (*agentv1.Swapped, error) {
	swapped := &agentv1.Swapped{QuarantinePaths: d.QuarantinePaths()}
	done := false
	err := d.access(func(k *disk) error {
		q, s := k.quarantine[d.id], k.staging[d.id]
		switch {
		case q != nil && q.marked:
			done = s == nil
			return nil
		case s == nil || !s.complete:
			return datadir.ErrNotStaged
		}
		return d.unheld()
	})
	if err != nil || done {
		return swapped, err
	}
	if err := d.quarantineOld(ctx); err != nil {
		return nil, err
	}
	return swapped, d.step(ctx, func(k *disk) {
		if s := k.staging[d.id]; s != nil {
			k.live = s.data
			delete(k.staging, d.id)
		}
	})
}

// quarantineOld moves the old data aside, then marks that it is complete there.
func (d *dirs) quarantineOld(ctx context.Context) error {
	marked := false
	err := d.step(ctx, func(k *disk) {
		q := k.quarantine[d.id]
		if marked = q != nil && q.marked; marked {
			return
		}
		if q == nil {
			q = &kept{}
			k.quarantine[d.id] = q
		}
		if k.live != nil {
			q.data, k.live = k.live, nil
		}
	})
	if err != nil || marked {
		return err
	}
	if err := d.step(ctx, func(k *disk) { k.quarantine[d.id].marked = true }); err != nil {
		return err
	}
	return fault.At(ctx, "agent/datadir/swap/half")
}

func (d *dirs) SwapBack(ctx context.Context) error {
	var marked, pending bool
	err := d.access(func(k *disk) error {
		q := k.quarantine[d.id]
		if pending = q != nil; !pending {
			return nil
		}
		marked = q.marked
		return d.unheld()
	})
	if err != nil || !pending {
		return err
	}
	if marked {
		if err := d.takeOut(ctx); err != nil {
			return err
		}
	}
	return d.step(ctx, func(k *disk) {
		if q := k.quarantine[d.id]; q.data != nil {
			k.live = q.data
		}
		delete(k.quarantine, d.id)
	})
}

// takeOut puts the restored data back to staging, then removes the mark.
func (d *dirs) takeOut(ctx context.Context) error {
	err := d.step(ctx, func(k *disk) {
		if k.live != nil {
			k.staging[d.id] = &staged{data: k.live, complete: true}
			k.live = nil
		}
	})
	if err != nil {
		return err
	}
	if err := d.step(ctx, func(k *disk) { k.quarantine[d.id].marked = false }); err != nil {
		return err
	}
	return fault.At(ctx, "agent/datadir/swap-back/half")
}

// step is one rename, durable at once. Renames work on a full disk. One beneath a running etcd is never right.
func (d *dirs) step(ctx context.Context, f func(*disk)) error {
	if err := d.p.work(ctx, 20*time.Millisecond); err != nil {
		return err
	}
	return d.access(func(k *disk) error {
		if d.etcd.running {
			d.w.wrong("%s: data is renamed beneath a running etcd", d.name)
		}
		f(k)
		return nil
	})
}
