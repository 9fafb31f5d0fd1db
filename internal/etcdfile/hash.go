package etcdfile

import (
	"context"
	"fmt"
	"hash/crc32"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// HashKV computes what a member that holds the file's keys answers to Maintenance.HashKV at revision rev with
// the compact revision compactRev; a compactRev of 0 or less means that there was no compaction. Entries above
// rev are left out, so that the hash at the snapshot's revision can still be computed after etcdutl has bumped
// the revision of the restored file. rev must not be below compactRev.
func HashKV(ctx context.Context, path string, rev, compactRev int64, tick func(n int64)) (hash uint32, err error) {
	if rev < compactRev {
		return 0, fmt.Errorf("hash %s at revision %d, compacted at %d: %w", path, rev, compactRev, errCompacted)
	}
	p := &progress{ctx: ctx, tick: tick}
	err = view(path, p, func(tx *bolt.Tx, _ int64) error {
		if _, err := readBounds(path, tx); err != nil {
			return err
		}
		keys := tx.Bucket(schema.Key.Name())
		l, err := readLiveness(path, keys, rev, compactRev, p)
		if err != nil {
			return err
		}
		hash, err = hashKV(path, keys, rev, compactRev, l, p)
		return err
	})
	return hash, err
}

// hashKV walks the bucket forwards, which is the order of revisions.
func hashKV(path string, keys *bolt.Bucket, rev, compactRev int64, l *liveness, p *progress) (uint32, error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	write := func(b []byte) { _, _ = h.Write(b) } // never fails
	write(schema.Key.Name())
	c := keys.Cursor()
	i := uint64(0)
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := p.did(int64(len(k) + len(v))); err != nil {
			return 0, err
		}
		r, err := parseRevision(k)
		if err != nil {
			return 0, corrupt(path, "%v", err)
		}
		if r.main > rev {
			break
		}
		compacted := r.main <= compactRev && l.live > 0 && !l.keeps(i)
		i++
		if compacted || (r.main == compactRev && r.tombstone) {
			continue
		}
		write(k)
		write(v)
	}
	return h.Sum32(), p.flush()
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
func StartedHash(ctx context.Context, path string, tick func(n int64)) (s Started, err error) {
	p := &progress{ctx: ctx, tick: tick}
	err = view(path, p, func(tx *bolt.Tx, _ int64) error {
		b, err := readBounds(path, tx)
		if err != nil {
			return err
		}
		keys := tx.Bucket(schema.Key.Name())
		l, err := readLiveness(path, keys, b.revision, b.compacted, p)
		if err != nil {
			return err
		}
		s.Revision, s.CompactRevision = b.revision, b.compacted
		s.Hash, err = hashKV(path, keys, b.revision, b.compacted, l, p)
		return err
	})
	return s, err
}
