package etcdfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

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

// noteMeta takes an entry of the bucket meta.
func (b *bounds) noteMeta(key, value []byte) error {
	if !bytes.Equal(key, schema.FinishedCompactKeyName) && !bytes.Equal(key, schema.ScheduledCompactKeyName) {
		return nil
	}
	r, err := parseRevision(value)
	if err != nil {
		return err
	}
	b.revision, b.compacted = max(b.revision, r.main), max(b.compacted, r.main)
	return nil
}

var errCompacted = errors.New("the revision is below the compact revision")
