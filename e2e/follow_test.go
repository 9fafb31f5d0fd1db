package e2e

import (
	"os"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// The other nodes have the file as soon as it is saved: before anybody knows its hash, and before any node is told to
// fetch it. If the saver then begins anew, which makes another file, they hold that one in the end.
func TestNodesFollowASave(t *testing.T) {
	t.Parallel()
	for name, saverDies := range map[string]bool{"to its end": false, "that begins anew": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Members: 4})
			fill(t, c, 8)
			for _, node := range c.NodeNames() {
				c.Arm("agent/save-copy/after", node, "hang") // the file is complete there, and nobody is told
			}
			c.Do("snapshot", "save", "--name", "before", "--detach")
			saver := ""
			must(t, c.Until("nobody saved", func() bool {
				for _, node := range c.NodeNames() {
					if _, err := os.Stat(c.Copy(node, "before")); err == nil {
						saver = node
					}
				}
				return saver != ""
			}))
			whole, err := os.Stat(c.Copy(saver, "before"))
			must(t, err)
			for _, node := range c.NodeNames() {
				if node == saver {
					continue
				}
				must(t, c.Until(node+" does not follow", func() bool {
					part, err := os.Stat(c.Copy(node, "before") + ".part")
					return err == nil && part.Size() == whole.Size()
				}))
			}
			if saverDies {
				must(t, c.Process(saver).Kill())
				fill(t, c, 9)
			}
			c.Disarm()
			if saverDies {
				c.StartAgain(saver)
			}
			if op := c.Settle(); op.GetState() != requorumv1.OperationState_OPERATION_STATE_SUCCEEDED {
				t.Fatalf("the save ended as %s", format(op))
			}
			good, err := os.ReadFile(c.Copy(saver, "before"))
			must(t, err)
			if again := int64(len(good)) != whole.Size(); again != saverDies {
				t.Errorf("the file had %d bytes and has %d", whole.Size(), len(good))
			}
			sameFile(t, c, good)
			nothingLeft(t, c)
		})
	}
}
