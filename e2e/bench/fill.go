package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/e2e/bench/probe"
	"github.com/requorum/requorum/e2e/bench/values"
	"github.com/requorum/requorum/internal/loopback"
)

const (
	writers  = 8
	txnBytes = 1 << 20 // of values in one transaction; etcd takes 1.5 MiB
	txnOps   = 100     // etcd takes 128
)

// fill writes the data into one member that does not wait for its disk, and saves a snapshot of it to b.seed.
func (b *Bed) fill(ctx context.Context) (err error) {
	maker, err := b.maker()
	if err != nil {
		return err
	}
	if err := maker.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, maker.kill(), os.RemoveAll(maker.dataDir)) }()
	if err := maker.healthy(ctx); err != nil {
		return err
	}
	if err := write(ctx, maker.clientURL, b.r.Settings.Seed, b.Size); err != nil {
		return err
	}
	b.seed = filepath.Join(b.dir, "seed.db")
	return command(ctx, b.r.Settings.Etcdctl, "--endpoints="+maker.clientURL, "snapshot", "save", b.seed)
}

func (b *Bed) maker() (*member, error) {
	ports, err := loopback.Ports(2)
	if err != nil {
		return nil, err
	}
	etcd := filepath.Join(b.dir, "etcd") // the name by which the binary is etcd
	if err := os.Symlink(b.r.Settings.Binary, etcd); err != nil {
		return nil, err
	}
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	return newMember("maker", []string{
		etcd, "--name=maker", "--data-dir=" + filepath.Join(b.dir, "maker"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=maker=" + peer,
		"--unsafe-no-fsync", "--log-level=error", fmt.Sprintf("--quota-backend-bytes=%d", int64(quota)),
	}, filepath.Join(b.dir, "maker.log")), nil
}

// write puts keys until their values are as large as asked for.
func write(ctx context.Context, endpoint string, seed uint64, size Size) error {
	client, err := probe.Dial(endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	group, ctx := errgroup.WithContext(ctx)
	for w := range writers {
		group.Go(func() error { return writeShare(ctx, client, values.New(seed, uint64(w)), w, int64(size)/writers) })
	}
	return group.Wait()
}

func writeShare(ctx context.Context, client *clientv3.Client, source *values.Values, writer int, share int64) error {
	for n := 0; share > 0; {
		var ops []clientv3.Op
		for in := 0; in < txnBytes && len(ops) < txnOps && share > 0; n++ {
			value := source.Next()
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("bench/%02d/%08d", writer, n), string(value)))
			in, share = in+len(value), share-int64(len(value))
		}
		if _, err := client.Txn(ctx).Then(ops...).Commit(); err != nil {
			return err
		}
	}
	return nil
}
