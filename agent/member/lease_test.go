package member_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
)

// Who asks may be content with another member's answer at any moment. No lease is left behind.
func TestConsensusWriteLeavesNoLease(t *testing.T) {
	c := etcdtest.Start(t, etcdtest.Options{})
	m := of(c, 0)
	cut := 0
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(rand.Int64N(int64(3*time.Millisecond))), cancel)
		err := m.ConsensusWrite(ctx)
		if ctx.Err() != nil { // before or while it wrote, which it then finishes
			cut++
		} else if err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	left, err := c.Client(t).Leases(t.Context())
	must(t, err)
	if len(left.Leases) > 0 {
		t.Errorf("%d leases are left; %d of 200 contexts ended before their write", len(left.Leases), cut)
	}
	if cut == 0 {
		t.Error("no context ended before its write: this test proves nothing")
	}
}
