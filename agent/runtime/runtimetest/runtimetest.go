// Package runtimetest is the suite that every runtime passes: it runs a real etcd through the runtime
// under test, stops it, kills it, swaps its data and breaks it.
package runtimetest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// patience is how long anything may take; generous, for slow machines under -race.
const patience = 60 * time.Second

// Subject is a runtime under test and the etcd that it runs: one member, alone in its cluster, which
// serves clients without TLS.
type Subject struct {
	// Open returns a new value of the runtime on the same state, as an agent does that was restarted.
	Open func(t *testing.T) runtime.Runtime
}

// Run runs the suite. subject is called for every test and sees to it that its etcd is stopped when the
// test ends.
func Run(t *testing.T, subject func(t *testing.T) Subject) {
	for _, test := range []struct {
		name string
		run  func(*bench)
	}{
		{"inspect tells the configuration and whether etcd runs", testInspect},
		{"start and stop can be repeated", testRepeat},
		{"stop leaves data and ports free", testStopFrees},
		{"a restarted agent finds its etcd", testAgentRestart},
		{"after a swap etcd serves the other data", testSwap},
		{"a killed etcd is seen, stopped and started", testKilled},
		{"an etcd that dies of its data is seen", testBadData},
		{"a call ends with its context", testContext},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := subject(t)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			test.run(&bench{t: t, ctx: ctx, s: s, r: s.Open(t)})
		})
	}
}

type bench struct {
	t   *testing.T
	ctx context.Context
	s   Subject
	r   runtime.Runtime
}

func testInspect(b *bench) {
	m := b.inspect(false)
	if m.Name == "" || !filepath.IsAbs(m.DataDir) || len(m.ListenClientURLs) == 0 || len(m.AdvertiseClientURLs) == 0 || len(m.ListenPeerURLs) == 0 || len(m.AdvertisePeerURLs) == 0 {
		b.t.Errorf("inspect before the first start: %+v", m)
	}
	if b.r.Name() == "" {
		b.t.Error("the runtime has no name")
	}
	b.start()
	b.inspect(true)
	b.stop()
	if after := b.inspect(false); after.UID != m.UID || after.GID != m.GID {
		b.t.Errorf("owner %d:%d, before the first start it was %d:%d", after.UID, after.GID, m.UID, m.GID)
	}
}

func testRepeat(b *bench) {
	b.stop() // what never ran
	b.start()
	b.put("k", "v")
	holder := b.holder()
	b.start()
	if again := b.holder(); again != holder {
		b.t.Errorf("the second start left process %d, the first one %d", again, holder)
	}
	b.stop()
	b.stop()
	b.start()
	b.expect("k", "v")
}

func testStopFrees(b *bench) {
	b.start()
	b.put("k", "v")
	m := b.inspect(true)
	b.stop()
	if err := datadir.Free(b.ctx, m.DataDir, m.WALDir, m.ListenURLs()); err != nil {
		b.t.Errorf("after stop: %v", err)
	}
}

func testAgentRestart(b *bench) {
	b.start()
	b.put("k", "v")
	holder := b.holder()
	b.r = b.s.Open(b.t)
	b.inspect(true)
	b.alive()
	b.start()
	if again := b.holder(); again != holder {
		b.t.Errorf("process %d, before the agent's restart it was %d", again, holder)
	}
	b.r = b.s.Open(b.t)
	b.stop()
	b.r = b.s.Open(b.t)
	b.inspect(false)
}

func testSwap(b *bench) {
	b.start()
	b.put("k", "in the snapshot")
	snapshot := b.save()
	b.put("k", "after it")
	m := b.inspect(true)
	d, err := datadir.Open(m, "01J0RESTORE")
	b.must(err)
	task := &agentv1.Stage{
		RestoreId: "01J0RESTORE", MemberName: m.Name, PeerUrls: m.AdvertisePeerURLs,
		InitialCluster: m.Name + "=" + m.AdvertisePeerURLs[0], ClusterToken: "fresh", BumpRevision: 1000,
	}
	_, err = d.Stage(b.ctx, datadir.StageSpec{SnapshotPath: snapshot, Task: task, UID: m.UID, GID: m.GID}, nil)
	b.must(err)
	b.stop()
	_, err = d.Swap(b.ctx)
	b.must(err)
	b.start()
	b.expect("k", "in the snapshot")
	b.stop()
	b.must(d.SwapBack(b.ctx))
	b.start()
	b.expect("k", "after it")
}

func testKilled(b *bench) {
	b.start()
	b.put("k", "v")
	b.alive()
	b.must(syscall.Kill(b.holder(), syscall.SIGKILL))
	b.waitEnd()
	b.stop()
	b.inspect(false)
	b.start()
	b.expect("k", "v")
}

func testBadData(b *bench) {
	b.start()
	b.put("k", "v")
	b.stop()
	m := b.inspect(false)
	db := filepath.Join(m.DataDir, "member", "snap", "db")
	b.must(os.WriteFile(db, []byte("not a database"), 0o600))
	b.must(b.r.Start(b.ctx))
	b.waitEnd()
	b.stop()
}

func testContext(b *bench) {
	b.start()
	b.put("k", "v")
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	began := time.Now()
	if err := b.r.Stop(ended); err != nil && !errors.Is(err, context.Canceled) {
		b.t.Errorf("stop with an ended context: %v", err)
	}
	if took := time.Since(began); took > patience/2 {
		b.t.Errorf("stop took %s although its context had ended", took)
	}
	b.stop() // and what was begun is carried through
	b.inspect(false)
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) start() {
	b.t.Helper()
	b.must(b.r.Start(b.ctx))
}

func (b *bench) stop() {
	b.t.Helper()
	b.must(b.r.Stop(b.ctx))
}

func (b *bench) inspect(running bool) runtime.Member {
	b.t.Helper()
	m, err := b.r.Inspect(b.ctx)
	b.must(err)
	if m.Running != running {
		b.t.Fatalf("inspect says running %v, expected %v", m.Running, running)
	}
	return m
}

// holder returns the process that holds the data.
func (b *bench) holder() int {
	b.t.Helper()
	m, err := b.r.Inspect(b.ctx)
	b.must(err)
	err = datadir.Free(b.ctx, m.DataDir, m.WALDir, nil)
	var held *datadir.HeldError
	if !errors.As(err, &held) || held.PID == 0 || held.PID == os.Getpid() {
		b.t.Fatalf("nobody seems to hold the data of a running etcd: %v", err)
	}
	return held.PID
}

func (b *bench) alive() {
	b.t.Helper()
	if l, ok := b.r.(runtime.Liveness); ok {
		b.must(l.Alive(b.ctx))
	}
}

// waitEnd waits until the runtime tells that etcd has ended by itself, with its last lines if it can.
func (b *bench) waitEnd() {
	b.t.Helper()
	l, ok := b.r.(runtime.Liveness)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		if ok {
			if err := l.Alive(b.ctx); err != nil && b.ctx.Err() == nil {
				if !strings.Contains(err.Error(), "\n") {
					b.t.Errorf("no log lines in %q", err)
				}
				return
			}
		} else if m, err := b.r.Inspect(b.ctx); err == nil && !m.Running {
			return
		}
		select {
		case <-look.C:
		case <-b.ctx.Done():
			b.t.Fatal("etcd's end went unseen")
		}
	}
}

func (b *bench) client() *clientv3.Client {
	b.t.Helper()
	m, err := b.r.Inspect(b.ctx)
	b.must(err)
	c, err := clientv3.New(clientv3.Config{Endpoints: m.AdvertiseClientURLs, Context: b.ctx, DialTimeout: patience, Logger: zap.NewNop()})
	b.must(err)
	b.t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			b.t.Error(err)
		}
	})
	return c
}

// put puts a key once etcd serves.
func (b *bench) put(key, value string) {
	b.t.Helper()
	b.retry(func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Put(ctx, key, value)
		return err
	})
}

func (b *bench) expect(key, want string) {
	b.t.Helper()
	b.retry(func(ctx context.Context, c *clientv3.Client) error {
		got, err := c.Get(ctx, key)
		if err != nil {
			return err
		}
		if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != want {
			b.t.Fatalf("etcd answers %v, expected %q", got.Kvs, want)
		}
		return nil
	})
}

// retry asks until etcd answers.
func (b *bench) retry(ask func(context.Context, *clientv3.Client) error) {
	b.t.Helper()
	c := b.client()
	for {
		ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
		err := ask(ctx, c)
		cancel()
		if err == nil {
			return
		}
		if b.ctx.Err() != nil {
			b.t.Fatalf("etcd does not serve: %v", err)
		}
		b.alive()
	}
}

// save streams a snapshot into a file.
func (b *bench) save() string {
	b.t.Helper()
	stream, err := b.client().Snapshot(b.ctx)
	b.must(err)
	f, err := os.Create(filepath.Join(b.t.TempDir(), "snapshot.db"))
	b.must(err)
	_, err = io.Copy(f, stream)
	b.must(errors.Join(err, stream.Close(), f.Close()))
	return f.Name()
}
