package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/e2e/harness"
)

const (
	mebibyte  = 1 << 20
	chunk     = mebibyte // of a value of the filling
	bigQuota  = "--quota-backend-bytes=17179869184"
	fillEvery = 256 // small keys of one transaction; etcd is told to take as many
)

// sizes are small where nobody waits for them. REQUORUM_BIG=1, which make e2e-big sets, asks for a large cluster, and
// more than 1 for so many MiB. Three nodes on one machine hold each database three times: live, staged, and as a snapshot.
func sizes(t *testing.T) (mebibytes, keys int) {
	t.Helper()
	asked := os.Getenv("REQUORUM_BIG")
	if asked == "" {
		return 64, 20_000
	}
	n, err := strconv.Atoi(asked)
	must(t, err)
	if n == 1 {
		return 4096, 2_000_000
	}
	return n, 20_000
}

// A database of some size, with keys as large as etcd takes them and larger, and many small ones, is saved, distributed,
// restored and verified.
func TestBig(t *testing.T) {
	t.Parallel()
	mebibytes, keys := sizes(t)
	c := harness.Start(t, harness.Options{
		Patience: time.Hour,
		Etcd: []string{
			bigQuota, "--max-request-bytes=16777216", fmt.Sprintf("--max-txn-ops=%d", fillEvery), "--unsafe-no-fsync", // nobody cuts the power here
			"--snapshot-count=100", "--snapshot-catchup-entries=100", // a member keeps its log in memory: 10,000 entries of 1 MiB by default
		},
		Control: func(cc *controller.Config) { // as it is shipped: the disk is busy with three copies of everything
			cc.Heartbeat, cc.OfflineAfter, cc.StalledAfter = 0, 0, 0
		},
	})
	client := patientClient(t, c)
	large := map[string][]byte{"/large/etcd": randomBytes(1, 3*mebibyte/2-1024), "/large/allowed": randomBytes(2, 8*mebibyte)}
	for key, value := range large {
		put(t, client, clientv3.OpPut(key, string(value)))
	}
	for n := range mebibytes - 10 {
		put(t, client, clientv3.OpPut(fmt.Sprintf("/fill/%06d", n), string(randomBytes(uint64(n), chunk))))
	}
	for n := 0; n < keys; n += fillEvery {
		var puts []clientv3.Op
		for k := range fillEvery {
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("/small/%08d", n+k), "value"))
		}
		put(t, client, puts...)
	}
	want := count(t, c)
	save(t, c, "before")
	if size := show(t, c, "before").GetManifest().GetSize(); size < int64(mebibytes-10)*mebibyte {
		t.Errorf("the snapshot has %d bytes", size)
	}
	put(t, client, clientv3.OpPut("/later", "later"))
	put(t, client, clientv3.OpDelete("/large/etcd"))
	restore(t, c, "before")
	serving(t, c)
	if now := count(t, c); now != want {
		t.Errorf("there are %d keys, %d were saved", now, want)
	}
	for key, value := range large {
		for _, node := range c.NodeNames() {
			resp, err := c.Client(node).Get(t.Context(), key, clientv3.WithSerializable())
			must(t, err)
			if len(resp.Kvs) != 1 || !bytes.Equal(resp.Kvs[0].Value, value) {
				t.Errorf("%s is not as it was on %s", key, node)
			}
		}
	}
	nothingLeft(t, c)
}

// patientClient sends what etcd was told to take.
func patientClient(t *testing.T, c *harness.Cluster) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.Endpoint("etcd-1")}, DialTimeout: harness.Patience, MaxCallSendMsgSize: 32 * mebibyte, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { _ = client.Close() }) // says only that its context ended
	return client
}

// put puts, again where the disk is so busy that etcd does not know in time what became of it: it counts for nothing here
// that a key was put twice.
func put(t *testing.T, client *clientv3.Client, ops ...clientv3.Op) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	for {
		_, err := client.Txn(ctx).Then(ops...).Commit()
		if !errors.Is(err, rpctypes.ErrTimeout) {
			must(t, err)
			return
		}
	}
}

func count(t *testing.T, c *harness.Cluster) int64 {
	t.Helper()
	resp, err := c.Client("etcd-1").Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	must(t, err)
	return resp.Count
}

// randomBytes are the same for the same seed, and cannot be compressed.
func randomBytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	return data
}
