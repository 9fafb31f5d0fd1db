package etcdfile_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/internal/etcdtest"
)

// history writes a random history to one real member.
type history struct {
	t      *testing.T
	rand   *rand.Rand
	client *clientv3.Client
	leases []clientv3.LeaseID

	revision   int64
	compacted  int64
	tombstones []int64 // revisions that deleted something
}

func newHistory(t *testing.T, seed uint64, c *etcdtest.Cluster) *history {
	return &history{t: t, rand: rand.New(rand.NewPCG(seed, 0)), client: c.Client(t), revision: 1}
}

func (h *history) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) key() string { return fmt.Sprintf("key-%02d", h.rand.IntN(20)) }

func (h *history) value() string { return fmt.Sprintf("%0*d", 1+h.rand.IntN(200), h.rand.IntN(1000)) }

// write does n random writes.
func (h *history) write(n int) {
	h.t.Helper()
	for range n {
		switch d := h.rand.IntN(20); {
		case d < 8:
			h.put()
		case d < 12:
			h.delete(h.key())
		case d < 13:
			h.delete("key-1", clientv3.WithPrefix())
		case d < 17:
			h.txn()
		case d < 19:
			h.putWithLease()
		default:
			h.revokeLease()
		}
	}
}

func (h *history) put(o ...clientv3.OpOption) {
	h.t.Helper()
	r, err := h.client.Put(h.t.Context(), h.key(), h.value(), o...)
	h.must(err)
	h.revision = r.Header.Revision
}

func (h *history) delete(key string, o ...clientv3.OpOption) {
	h.t.Helper()
	r, err := h.client.Delete(h.t.Context(), key, o...)
	h.must(err)
	h.noteTombstone(r.Header.Revision)
}

func (h *history) noteTombstone(revision int64) {
	if revision > h.revision {
		h.tombstones = append(h.tombstones, revision)
	}
	h.revision = revision
}

// txn touches several keys in one revision.
func (h *history) txn() {
	h.t.Helper()
	var ops []clientv3.Op
	for i := range 20 {
		key := fmt.Sprintf("key-%02d", i)
		switch h.rand.IntN(5) {
		case 0:
			ops = append(ops, clientv3.OpPut(key, h.value()))
		case 1:
			ops = append(ops, clientv3.OpDelete(key))
		}
	}
	r, err := h.client.Txn(h.t.Context()).Then(ops...).Commit()
	h.must(err)
	h.noteTombstone(r.Header.Revision)
}

func (h *history) putWithLease() {
	h.t.Helper()
	l, err := h.client.Grant(h.t.Context(), 3600)
	h.must(err)
	h.leases = append(h.leases, l.ID)
	h.put(clientv3.WithLease(l.ID))
}

func (h *history) revokeLease() {
	h.t.Helper()
	if len(h.leases) == 0 {
		return
	}
	r, err := h.client.Revoke(h.t.Context(), h.leases[0])
	h.must(err)
	h.leases = h.leases[1:]
	h.noteTombstone(r.Header.Revision)
}

// compact compacts at a revision of its choice: any, a tombstone's, or the latest.
func (h *history) compact(o ...clientv3.CompactOption) {
	h.t.Helper()
	at := h.compacted + 1 + h.rand.Int64N(max(h.revision-h.compacted, 1))
	switch h.rand.IntN(4) {
	case 0:
		at = h.revision
	case 1, 2:
		if len(h.tombstones) > 0 {
			at = h.tombstones[h.rand.IntN(len(h.tombstones))]
		}
	}
	if at <= h.compacted || at > h.revision {
		return
	}
	h.compactAt(at, o...)
}

func (h *history) compactAt(at int64, o ...clientv3.CompactOption) {
	h.t.Helper()
	_, err := h.client.Compact(h.t.Context(), at, o...)
	h.must(err)
	h.compacted = at
}

// liveHash asks the member. A member that never compacted says -1; the files' zero stands for that.
func (h *history) liveHash(rev int64) (hash uint32, compactRev int64) {
	h.t.Helper()
	return liveHash(h.t, h.client, rev)
}

func liveHash(t *testing.T, client *clientv3.Client, rev int64) (hash uint32, compactRev int64) {
	t.Helper()
	r, err := client.HashKV(context.Background(), client.Endpoints()[0], rev)
	if err != nil {
		t.Fatalf("HashKV at %d: %v", rev, rpctypes.Error(err))
	}
	return r.Hash, max(r.CompactRevision, 0)
}
