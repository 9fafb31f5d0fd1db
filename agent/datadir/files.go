package datadir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// verifySnapshot reads the snapshot once and compares it with its trailing SHA-256 and with the
// manifest, unless the check is skipped.
func verifySnapshot(ctx context.Context, spec StageSpec, m *meter) error {
	if spec.Task.GetSkipHashCheck() {
		return nil
	}
	f, err := os.Open(spec.SnapshotPath)
	if err != nil {
		return err
	}
	content, trailer, whole, err := snapshotSums(ctx, f, m)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	corrupt := func(reason string) error { return &CorruptError{Path: spec.SnapshotPath, Reason: reason} }
	switch want := spec.Task.GetManifest().GetSha256(); {
	case m.size%512 != sha256.Size:
		return corrupt("does not end in a SHA-256, so it is no snapshot that etcd saved, or it is cut off; skip the hash check (--skip-hash-check) to restore it all the same")
	case content != trailer:
		return corrupt("does not fit the SHA-256 at its end: it was damaged after etcd sent it; use another copy")
	case want != "" && want != whole:
		return corrupt(fmt.Sprintf("has SHA-256 %s, its manifest says %s; use another copy", whole, want))
	}
	return nil
}

// snapshotSums returns the SHA-256 of all but the last 32 bytes, those bytes, and the SHA-256 of the whole.
func snapshotSums(ctx context.Context, f io.Reader, m *meter) (content, trailer, whole string, err error) {
	h := sha256.New()
	head := max(m.size-sha256.Size, 0)
	r := &progressReader{ctx: ctx, r: f, report: func(n int64) { m.at(phaseVerify, n) }}
	if _, err := io.CopyN(h, r, head); err != nil {
		return "", "", "", err
	}
	content = hex.EncodeToString(h.Sum(nil))
	tail, err := io.ReadAll(r)
	if err != nil {
		return "", "", "", err
	}
	h.Write(tail)
	return content, hex.EncodeToString(tail), hex.EncodeToString(h.Sum(nil)), nil
}

// checkWAL compares the IDs in the staged WAL with those that were computed.
func (d *Dirs) checkWAL(log hclog.Logger, want *agentv1.Staged) error {
	dir := filepath.Join(d.slots[0].staging, memberEntry, "wal")
	if len(d.slots) > 1 {
		dir = d.slots[1].staging
	}
	w, err := wal.OpenForRead(restoreLog(log), dir, &walpb.Snapshot{})
	if err != nil {
		return fmt.Errorf("open staged WAL: %w", err)
	}
	data, _, _, err := w.ReadAll()
	if cerr := w.Close(); !errors.Is(cerr, os.ErrInvalid) { // which it returns whenever it was opened for reading
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return fmt.Errorf("read staged WAL: %w", err)
	}
	var ids etcdserverpb.Metadata
	if err := proto.Unmarshal(data, &ids); err != nil {
		return fmt.Errorf("read staged WAL: %w", err)
	}
	if got := hexID(ids.GetNodeID()); got != want.GetMemberId() {
		return fmt.Errorf("staged WAL is of member %s, expected %s", got, want.GetMemberId())
	}
	if got := hexID(ids.GetClusterID()); got != want.GetClusterId() {
		return fmt.Errorf("staged WAL is of cluster %s, expected %s", got, want.GetClusterId())
	}
	return nil
}

func hexID(id uint64) string { return fmt.Sprintf("%x", id) }

// flushChunk is how much of a file is handed to the disk at a time, so that progress can be seen and a
// serving etcd's own writes do not queue behind all of it.
const flushChunk = 32 << 20

// flush writes a file's dirty pages to disk, chunk by chunk.
func flush(ctx context.Context, path string, m *meter) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	for off := int64(0); off < info.Size(); off += flushChunk {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := unix.SyncFileRange(int(f.Fd()), off, flushChunk, all)
		if err == unix.ENOSYS || err == unix.EINVAL || err == unix.ESPIPE {
			break // the fsync that follows does it all
		}
		if err != nil {
			return &fs.PathError{Op: "sync_file_range", Path: path, Err: err}
		}
		m.at(phaseFlush, off)
	}
	return f.Sync()
}

// own sets owner and mode.
func own(path string, uid, gid int, mode fs.FileMode) error {
	if err := os.Lchown(path, uid, gid); err != nil {
		return fmt.Errorf("give the data to etcd's user (run the agent as root or as that user): %w", err)
	}
	return os.Chmod(path, mode)
}

const labelAttr = "security.selinux"

// labelOf returns the SELinux label of the live data, or of its directory where there is none; empty
// where nothing is labelled.
func labelOf(dir string, entries []string) ([]byte, error) {
	for _, e := range append(entries, ".") {
		label := make([]byte, 1024)
		n, err := unix.Getxattr(filepath.Join(dir, e), labelAttr, label)
		switch {
		case err == nil:
			return label[:n], nil
		case err == unix.ENOENT, noLabels(err):
			continue
		}
		return nil, fmt.Errorf("SELinux label of %s: %w", filepath.Join(dir, e), err)
	}
	return nil, nil
}

func setLabel(path string, label []byte) error {
	if len(label) == 0 {
		return nil
	}
	if err := unix.Lsetxattr(path, labelAttr, label, 0); err != nil && !noLabels(err) {
		return fmt.Errorf("SELinux label of %s: %w", path, err)
	}
	return nil
}

func noLabels(err error) bool {
	return errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOSYS)
}

// progressReader reports how much was read and ends with its context.
type progressReader struct {
	ctx    context.Context
	r      io.Reader
	read   int64
	report func(read int64)
}

func (p *progressReader) Read(b []byte) (int, error) {
	if err := context.Cause(p.ctx); err != nil {
		return 0, err
	}
	n, err := p.r.Read(b)
	p.read += int64(n)
	if n > 0 {
		p.report(p.read)
	}
	return n, err
}

// The phases of staging, each about as many bytes long as the snapshot.
const (
	phaseVerify = iota
	phaseRestore
	phaseFlush
	phases
)

// meter turns the phases' progress into one number that only grows.
type meter struct {
	size int64
	done int64
	tick func(done, total int64)
}

func newMeter(size int64, tick func(done, total int64)) *meter {
	if tick == nil {
		tick = func(int64, int64) {}
	}
	return &meter{size: size, tick: tick}
}

// meterGrain keeps the ticks of a large file to a sensible number.
const meterGrain = 1 << 20

func (m *meter) at(phase, bytes int64) {
	done := phase*m.size + min(bytes, m.size)
	if done >= m.done+meterGrain || (done > m.done && bytes >= m.size) {
		m.done = done
		m.tick(done, phases*m.size)
	}
}

func (m *meter) finish() {
	m.done = phases * m.size
	m.tick(m.done, m.done)
}
