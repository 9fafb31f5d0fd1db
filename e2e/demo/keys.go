package main

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	keysBefore = 1000 // in the snapshot
	keysLater  = 500  // written after it
	perTxn     = 100  // below etcd's limit of 128 operations
	readWithin = 5 * time.Second
)

// entry is all that etcd keeps of a key, but for its lease.
type entry struct {
	Value                      string
	Version, Created, Modified int64
}

// dial connects to members. A connection that broke is tried again soon, so that what a prober measures is
// the cluster and not the client's patience.
func dial(endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(), // what fails is told in the story
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: time.Second,
		})},
	})
}

// put writes keys first to last-1 in transactions.
func put(ctx context.Context, c *clientv3.Client, first, last int, value string) error {
	var ops []clientv3.Op
	for i := first; i < last; i++ {
		ops = append(ops, clientv3.OpPut(keyName(i), fmt.Sprintf("%s %d", value, i)))
	}
	return commit(ctx, c, ops)
}

func remove(ctx context.Context, c *clientv3.Client, first, last int) error {
	var ops []clientv3.Op
	for i := first; i < last; i++ {
		ops = append(ops, clientv3.OpDelete(keyName(i)))
	}
	return commit(ctx, c, ops)
}

func commit(ctx context.Context, c *clientv3.Client, ops []clientv3.Op) error {
	for part := range slices.Chunk(ops, perTxn) {
		if _, err := c.Txn(ctx).Then(part...).Commit(); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

func keyName(i int) string { return fmt.Sprintf("demo/%05d", i) }

// content is all that one member holds.
type content struct {
	keys      map[string]entry
	revision  int64
	clusterID uint64
	compacted bool // the revisions before a restore cannot be read or watched any more
}

// readAll asks one member for all that it holds. The member first catches up with the others, unless the
// read is serializable: then it tells what it holds itself and asks nobody.
func readAll(ctx context.Context, endpoint string, how ...clientv3.OpOption) (content, error) {
	c, err := dial(endpoint)
	if err != nil {
		return content{}, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	resp, err := c.Get(ctx, "\x00", append(how, clientv3.WithFromKey())...)
	if err != nil {
		return content{}, fmt.Errorf("read from %s: %w", endpoint, err)
	}
	keys := make(map[string]entry, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		keys[string(kv.Key)] = entry{Value: string(kv.Value), Version: kv.Version, Created: kv.CreateRevision, Modified: kv.ModRevision}
	}
	_, err = c.Get(ctx, keyName(0), clientv3.WithSerializable(), clientv3.WithRev(1))
	header := resp.Header
	return content{keys, header.GetRevision(), header.GetClusterId(), errors.Is(err, rpctypes.ErrCompacted)}, nil
}

// compare returns an error that names the first key which is not as it was, is missing, or was not there.
// Keys that were created at or after the revision fresh are the prober's, written since the restore.
func compare(want, have map[string]entry, fresh int64) error {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		got, ok := have[key]
		if !ok {
			return fmt.Errorf("key %s of the snapshot is missing", key)
		}
		if got != want[key] {
			return fmt.Errorf("key %s is %+v, in the snapshot it was %+v", key, got, want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[key]; !ok && have[key].Created < fresh {
			return fmt.Errorf("key %s is there, and was not in the snapshot: %+v", key, have[key])
		}
	}
	return nil
}

// md5Of reads a file and returns its MD5.
func md5Of(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := md5.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
