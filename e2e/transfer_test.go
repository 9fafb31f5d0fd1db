package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// An agent that dies while a file goes from node to node ends nothing: those behind it go on from another node that has
// the file, it goes on itself when it is back, and every node has the same file in the end.
func TestDistributionOutlivesAnAgent(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Members: 4})
	fill(t, c, 8)
	save(t, c, "before")
	good, err := os.ReadFile(c.Copy("etcd-1", "before"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		name    string
		lacking []string // the first of them is in the middle of its fetch when
		dies    string   // this one's agent is killed
		late    string   // serves its copy only from then on
	}{
		{"the source, where another node has the file", []string{"etcd-3", "etcd-4"}, "etcd-1", "etcd-2"},
		{"the source, which alone has the file", []string{"etcd-2", "etcd-3", "etcd-4"}, "etcd-1", ""},
		{"one in the middle of the chain", []string{"etcd-2", "etcd-3", "etcd-4"}, "etcd-2", ""},
	} {
		t.Run(s.name, func(t *testing.T) {
			c.On(t)
			for _, node := range s.lacking {
				if err := os.Remove(c.Copy(node, "before")); err != nil {
					t.Fatal(err)
				}
			}
			if s.late != "" {
				c.Arm("agent/serve-copy/before", s.late, "hang")
			}
			c.Arm("agent/fetch-copy/middle", s.lacking[0], "hang")
			c.Do("snapshot", "distribute", "before", "--detach")
			c.WaitFired("agent/fetch-copy/middle", s.lacking[0])
			if err := c.Process(s.dies).Kill(); err != nil {
				t.Fatal(err)
			}
			c.Disarm()
			c.StartAgain(s.dies)
			if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
				t.Errorf("the distribution ended as %s", format(op))
			}
			sameFile(t, c, good)
		})
	}
	c.On(t)
	nothingLeft(t, c)
}

// fill writes so many values of 1 MiB that do not compress, so that the file goes over the wire in many parts.
func fill(t *testing.T, c *harness.Cluster, values int) {
	t.Helper()
	noise := rand.NewChaCha8([32]byte{1})
	for i := range values {
		value := make([]byte, 1<<20)
		_, _ = noise.Read(value) // never fails
		if _, err := c.Client("etcd-1").Put(t.Context(), fmt.Sprintf("/e2e/large/%d", i), string(value)); err != nil {
			t.Fatal(err)
		}
	}
}

// A bit that flips on a node's disk while its neighbour fetches from it is noticed before anybody relies on the copy, the
// node is named, and another distribution heals it.
func TestBitThatFlipsDuringADistributionIsNoticed(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	fill(t, c, 4)
	save(t, c, "before")
	good, err := os.ReadFile(c.Copy("etcd-1", "before"))
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"etcd-2", "etcd-3"} {
		if err := os.Remove(c.Copy(node, "before")); err != nil {
			t.Fatal(err)
		}
	}
	c.Arm("agent/fetch-copy/after", "etcd-2", "hang")
	c.Do("snapshot", "distribute", "before", "--detach")
	c.WaitFired("agent/fetch-copy/after", "etcd-2")
	if err := flip(c.Copy("etcd-2", "before"), 1<<20); err != nil {
		t.Fatal(err)
	}
	c.Disarm()
	if op := c.Settle(); op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED || !mentions(op, "etcd-2 different") {
		t.Errorf("nobody noticed: %s", format(op))
	}
	c.Do("snapshot", "distribute", "before")
	sameFile(t, c, good)
	nothingLeft(t, c)
}

func mentions(op *requorumv1.Operation, text string) bool {
	return strings.Contains(op.GetFailure().GetMessage(), text)
}
