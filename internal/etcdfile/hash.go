package etcdfile

import (
	"context"
	"fmt"
)

// HashKV computes what a member that holds the file's keys answers to Maintenance.HashKV at revision rev with
// the compact revision compactRev; a compactRev of 0 or less means that there was no compaction. Entries above
// rev are left out, so that the hash at the snapshot's revision can still be computed after etcdutl has bumped
// the revision of the restored file. rev must not be below compactRev.
func HashKV(ctx context.Context, path string, rev, compactRev int64, tick func(n int64)) (hash uint32, err error) {
	v, err := newView(path, rev, compactRev)
	if err != nil {
		return 0, err
	}
	if _, err := run(ctx, path, tick, func(bounds) []*view { return []*view{v} }, nil); err != nil {
		return 0, err
	}
	return v.hash, nil
}

func newView(path string, rev, compactRev int64) (*view, error) {
	if rev < compactRev {
		return nil, fmt.Errorf("hash %s at revision %d, compacted at %d: %w", path, rev, compactRev, errCompacted)
	}
	return &view{revision: rev, compacted: compactRev}, nil
}

// Started is what a member answers that was started on a database file.
type Started struct {
	Revision        int64
	CompactRevision int64 // 0 if never compacted
	Hash            uint32
}

// StartedHash computes what a member answers once it has been started on the file: its first revision, its
// compact revision, and its HashKV at them. The member's first revision is the largest of the file's entries
// and its scheduled and finished compactions; its compact revision the larger of those two, because a
// compaction that is scheduled and not finished, such as etcdutl's --mark-compacted leaves, is resumed at the
// start. The hash does not depend on whether that compaction has finished; and as it was not begun by the
// member itself, the member does not keep its own hash of it for that revision.
//
// etcdutl bumps the largest revision of an entry. In files of etcd up to 3.5.15 that may be below the
// snapshot's revision, if the latest entry was a tombstone and compacted: Started says what really comes out.
func StartedHash(ctx context.Context, path string, tick func(n int64)) (Started, error) {
	s, err := run(ctx, path, tick, func(b bounds) []*view { return []*view{b.view()} }, nil)
	if err != nil {
		return Started{}, err
	}
	return s.views[0].started(), nil
}

// Hashes computes HashKV and StartedHash of a file in one go.
func Hashes(ctx context.Context, path string, rev, compactRev int64, tick func(n int64)) (hash uint32, started Started, err error) {
	v, err := newView(path, rev, compactRev)
	if err != nil {
		return 0, Started{}, err
	}
	s, err := run(ctx, path, tick, func(b bounds) []*view { return []*view{v, b.view()} }, nil)
	if err != nil {
		return 0, Started{}, err
	}
	return v.hash, s.views[1].started(), nil
}

// view is what a member sees that is started on the file.
func (b bounds) view() *view { return &view{revision: b.revision, compacted: b.compacted} }

func (v *view) started() Started {
	return Started{Revision: v.revision, CompactRevision: v.compacted, Hash: v.hash}
}
