package e2e

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/s3test"
)

// Keys of a role expire while a snapshot is stored: those of the controller, which hands them to the node, and those that
// the node has itself. Nobody else has any.
func TestRolesOfTheControllerAndOfNodes(t *testing.T) {
	t.Parallel()
	for _, whose := range []string{"controller", "node"} {
		t.Run(whose, func(t *testing.T) {
			server := s3test.StartPlain(t, "backups")
			proxy := s3test.NewProxy(t, server.Address)
			roles := server.NewRoles(t, time.Second, time.Second)
			c := harness.Start(t, harness.Options{
				Env: func(name string) []string {
					if (name == "controller") == (whose == "controller") {
						return append(roles.Machine(), "AWS_SHARED_CREDENTIALS_FILE=/nonexistent")
					}
					return []string{"AWS_EC2_METADATA_DISABLED=true", "AWS_SHARED_CREDENTIALS_FILE=/nonexistent"}
				},
				Control: func(cc *controller.Config) {
					cc.Remotes = []remote.Config{{Name: "off-site", Kind: "s3", S3: remote.S3{Endpoint: "http://" + proxy.Address, Bucket: "backups", Credentials: whose}}}
				},
			})
			for i := range 16 { // more than a part, and nothing that could be compressed
				value := make([]byte, 1<<19)
				rand.Read(value)
				put(t, c.Client(c.NodeNames()[0]), clientv3.OpPut(fmt.Sprintf("large/%d", i), string(value)))
			}
			_, before, _ := roles.Counts()
			proxy.Slow(30 * time.Millisecond)
			s := save(t, c, "a", "--remote", "off-site")
			proxy.Slow(0)
			if _, after, _ := roles.Counts(); after < before+2 {
				t.Errorf("only %d keys have expired while %d bytes were stored", after-before, s.GetRemotes()[0].GetObject().GetSize())
			}
			if len(s.GetRemotes()) != 1 || s.GetRemotes()[0].GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
				t.Errorf("%v", s.GetRemotes())
			}
			roles.Break(true)
			roles.Outlive()
			says(t, c.Expect(3, "snapshot", "upload", "a", "--remote", "off-site"), "keys from the machine's metadata service: 500")
		})
	}
}
