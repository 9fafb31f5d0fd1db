package etcdfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/encoding/protowire"
)

// revision is what a key of etcd's key bucket says: the revision's main part, and whether it is a tombstone.
type revision struct {
	main      int64
	tombstone bool
}

const (
	revisionSize  = 8 + 1 + 8 // main, '_', sub
	tombstoneSize = revisionSize + 1
)

func parseRevision(k []byte) (revision, error) {
	if (len(k) != revisionSize && len(k) != tombstoneSize) || k[8] != '_' {
		return revision{}, fmt.Errorf("%x is no revision", k)
	}
	main, sub := int64(binary.BigEndian.Uint64(k)), int64(binary.BigEndian.Uint64(k[9:]))
	if main < 0 || sub < 0 {
		return revision{}, fmt.Errorf("%x is a negative revision", k)
	}
	return revision{main: main, tombstone: len(k) == tombstoneSize && k[revisionSize] == 't'}, nil
}

// keyOf returns the key in a marshalled mvccpb.KeyValue, without touching its value.
func keyOf(v []byte) (key []byte, err error) {
	for len(v) > 0 {
		field, wire, n := protowire.ConsumeTag(v)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		v = v[n:]
		if n = protowire.ConsumeFieldValue(field, wire, v); n < 0 {
			return nil, protowire.ParseError(n)
		}
		if field == 1 && wire == protowire.BytesType {
			key, _ = protowire.ConsumeBytes(v)
		}
		v = v[n:]
	}
	return key, nil
}

// bounds are the revisions that an etcd starts with on a file.
type bounds struct {
	revision  int64 // as etcd restores it: compaction may have removed the entry of the latest revision
	compacted int64 // scheduled or finished; 0 if never
}

func readBounds(path string, tx *bolt.Tx) (bounds, error) {
	b := bounds{revision: 1} // of an empty store
	keys, meta := tx.Bucket(schema.Key.Name()), tx.Bucket(schema.Meta.Name())
	if keys == nil || meta == nil {
		return b, corrupt(path, "it lacks etcd's buckets")
	}
	last, _ := keys.Cursor().Last()
	for _, k := range [][]byte{last, meta.Get(schema.FinishedCompactKeyName), meta.Get(schema.ScheduledCompactKeyName)} {
		if k == nil {
			continue
		}
		r, err := parseRevision(k)
		if err != nil {
			return b, corrupt(path, "%v", err)
		}
		b.revision = max(b.revision, r.main)
	}
	for _, name := range [][]byte{schema.FinishedCompactKeyName, schema.ScheduledCompactKeyName} {
		if r, err := parseRevision(meta.Get(name)); err == nil { // absent before the first compaction
			b.compacted = max(b.compacted, r.main)
		}
	}
	return b, nil
}

// liveness tells which entries of the key bucket are live at a revision.
type liveness struct {
	live int64 // keys whose newest entry is not a tombstone
	keys int64 // the same without the empty key, which only etcdutl's revision bump writes

	newest bitset // of the entries at or below the compact revision, from the last to the first: is it live
	n      uint64 // number of such entries
}

// keeps tells whether the i-th entry of the bucket, which is at or below the compact revision, is live.
func (l *liveness) keeps(i uint64) bool { return l.newest.get(l.n - 1 - i) }

// readLiveness walks the bucket backwards: the first entry met of a key is its newest.
func readLiveness(path string, b *bolt.Bucket, rev, compactRev int64, p *progress) (*liveness, error) {
	l := &liveness{}
	seen := make(map[[2]uint64]struct{})
	seeds := [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	c := b.Cursor()
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		if err := p.did(int64(len(k) + len(v))); err != nil {
			return nil, err
		}
		r, err := parseRevision(k)
		if err != nil {
			return nil, corrupt(path, "%v", err)
		}
		if r.main > rev {
			continue
		}
		key, err := keyOf(v)
		if err != nil {
			return nil, corrupt(path, "revision %d: %v", r.main, err)
		}
		sum := [2]uint64{maphash.Bytes(seeds[0], key), maphash.Bytes(seeds[1], key)}
		_, superseded := seen[sum]
		if !superseded {
			seen[sum] = struct{}{}
		}
		l.note(r, key, !superseded && !r.tombstone, compactRev)
	}
	return l, p.flush()
}

func (l *liveness) note(r revision, key []byte, live bool, compactRev int64) {
	if live {
		l.live++
	}
	if live && len(key) > 0 {
		l.keys++
	}
	if r.main <= compactRev {
		l.newest = l.newest.append(l.n, live)
		l.n++
	}
}

var errCompacted = errors.New("the revision is below the compact revision")
