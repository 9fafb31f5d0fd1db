package etcdfile

import (
	"hash/crc32"

	"go.etcd.io/etcd/server/v3/storage/schema"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// view is what HashKV sees at a revision and a compact revision.
type view struct {
	revision, compacted int64

	live int64 // keys whose newest entry is not a tombstone
	keys int64 // the same without the empty key, which only etcdutl's revision bump writes

	newest bitset // of the entries at or below the compact revision, from the last to the first: is it live
	n      uint64 // of those, how many this pass has come to
	hash   uint32
}

// note takes an entry at or below the view's revision, from the last to the first.
func (v *view) note(r revision, key []byte, live bool) {
	if live {
		v.live++
	}
	if live && len(key) > 0 {
		v.keys++
	}
	if r.main <= v.compacted {
		v.newest = v.newest.put(v.n, live)
		v.n++
	}
}

// begin starts the pass that hashes.
func (v *view) begin() { v.hash = crc32.Checksum(schema.Key.Name(), castagnoli) }

// add hashes an entry, unless it is left out; from the first to the last.
func (v *view) add(r revision, key, value []byte) {
	if r.main > v.revision || v.leavesOut(r) {
		return
	}
	v.hash = crc32.Update(crc32.Update(v.hash, castagnoli, key), castagnoli, value)
}

func (v *view) leavesOut(r revision) bool {
	if r.main > v.compacted {
		return false
	}
	v.n--
	superseded := v.live > 0 && !v.newest.get(v.n)
	return superseded || (r.main == v.compacted && r.tombstone)
}
