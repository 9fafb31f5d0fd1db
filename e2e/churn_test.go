package e2e

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/loopback"
)

// A snapshot that is saved while members come and go is ready and right, or refused with a clear error. A restore from it
// is of today's members, whoever was a member when it was saved.
func TestSaveWhileMembersChange(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(200)
	saved := c.Now()
	changes := churn(t, c)
	var ready []string
	for _, name := range []string{"first", "second", "third"} {
		changes.next(t)
		r := c.CLI("snapshot", "save", "--name", name)
		switch r.Code {
		case 0:
			ready = append(ready, name)
			if revision := show(t, c, name).GetManifest().GetRevision(); revision < int64(2) {
				t.Errorf("%s is of revision %d", name, revision)
			}
		case 3, 4:
			complains(t, r)
		default:
			t.Errorf("want exit code 0, 3 or 4\n%s", r)
		}
	}
	changes.stop(t)
	if len(ready) == 0 {
		ready = []string{"quiet"}
		save(t, c, "quiet")
	}
	c.Write(50)
	last := ready[len(ready)-1]
	c.Do("snapshot", "check", last)
	restore(t, c, last)
	holds(t, c, saved)
	if members := memberNames(t, c, "etcd-1"); members != "etcd-1 etcd-2 etcd-3" {
		t.Errorf("the restored cluster has the members %s", members)
	}
	nothingLeft(t, c)
}

// changing adds and removes a learner again and again.
type changing struct {
	cancel context.CancelFunc
	added  chan struct{}
	done   chan error
}

func churn(t *testing.T, c *harness.Cluster) *changing {
	t.Helper()
	ports, err := loopback.Ports(1)
	must(t, err)
	url := "http://127.0.0.1:" + strconv.Itoa(ports[0])
	client := c.Client("etcd-1")
	ctx, cancel := context.WithCancel(t.Context())
	ch := &changing{cancel: cancel, added: make(chan struct{}), done: make(chan error, 1)}
	t.Cleanup(cancel)
	go func() {
		for ctx.Err() == nil {
			added, err := client.MemberAddAsLearner(ctx, []string{url})
			if err != nil {
				continue // etcd refuses changes while members are not all heard of
			}
			select {
			case ch.added <- struct{}{}:
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			ch.remove(c, added.Member.ID)
		}
		ch.done <- nil
	}()
	return ch
}

// remove tries until the member is gone.
func (ch *changing) remove(c *harness.Cluster, id uint64) {
	for range 100 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := c.Client("etcd-1").MemberRemove(ctx, id)
		cancel()
		if err == nil || errors.Is(err, rpctypes.ErrMemberNotFound) {
			return
		}
	}
}

// next waits until a member is being added.
func (ch *changing) next(t *testing.T) {
	t.Helper()
	select {
	case <-ch.added:
	case <-time.After(harness.Patience):
		t.Fatal("no member can be added")
	}
}

func (ch *changing) stop(t *testing.T) {
	t.Helper()
	ch.cancel()
	must(t, <-ch.done)
}
