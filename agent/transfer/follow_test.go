package transfer_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/agent/transfer"
	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/seal"
)

// follow follows what source writes as an agent's task does.
func (n *node) follow(ctx context.Context, source *node, timeout time.Duration, progress func(done int64)) error {
	f := transfer.NewFetcher(n.vault, n.dial, hclog.NewNullLogger(), transfer.Options{
		ProgressTimeout: timeout, MinPause: time.Millisecond, MaxPause: 20 * time.Millisecond, NoZstd: true,
	})
	return f.Follow(ctx, &agentv1.FollowCopy{Name: "s", Source: source.source()}, func(done, _ int64) {
		if progress != nil {
			progress(done)
		}
	})
}

func (n *node) create(t *testing.T) *vault.Writer {
	t.Helper()
	w, err := n.vault.Create("s")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func write(t *testing.T, w *vault.Writer, data []byte) {
	t.Helper()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
}

// finish commits what was saved and puts its manifest beside it.
func (n *node) finish(t *testing.T, w *vault.Writer, data []byte) *requorumv1.Manifest {
	t.Helper()
	if _, err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	m := describe("s", data)
	if err := n.vault.WriteManifest(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNodesFollowASaveDownTheChain(t *testing.T) {
	nodes, data := cluster(t, 4), random(24<<20+77)
	w := nodes[0].create(t)
	half, follows := make(chan struct{}, len(nodes)), errgroup.Group{}
	for i := 1; i < len(nodes); i++ {
		told := false
		follows.Go(func() error {
			return nodes[i].follow(t.Context(), nodes[i-1], patient, func(done int64) {
				if !told && done == 12<<20 {
					told = true
					half <- struct{}{}
				}
			})
		})
	}
	write(t, w, data[:12<<20])
	for range nodes[1:] {
		<-half // everybody has what there is, long before anybody knows what it will be
	}
	write(t, w, data[12<<20:])
	m := nodes[0].finish(t, w, data)
	if err := follows.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(nodes); i++ {
		fetched, err := nodes[i].fetch(t.Context(), m, patient, nil, before(nodes, i)...)
		if err != nil || fetched.GetWireBytes() != 0 {
			t.Errorf("%s had to fetch %d bytes more: %v", nodes[i].name, fetched.GetWireBytes(), err)
		}
		nodes[i].expectGood(t, m)
		nodes[i-1].expectSentOnce(t, m)
	}
}

func TestFetchBringsWhatFollowingDidNot(t *testing.T) {
	nodes, data := cluster(t, 3), random(8<<20)
	w := nodes[0].create(t)
	ctx, cancel := context.WithCancel(t.Context())
	follows := errgroup.Group{}
	follows.Go(func() error {
		return nodes[1].follow(ctx, nodes[0], patient, func(done int64) {
			if done == 3<<20 {
				cancel() // as the controller does once the file is saved
			}
		})
	})
	write(t, w, data[:3<<20])
	if err := follows.Wait(); err != nil {
		t.Fatal(err)
	}
	write(t, w, data[3<<20:])
	m := nodes[0].finish(t, w, data)
	var from int64
	fetched, err := nodes[1].fetch(t.Context(), m, patient, func(done, _ int64) {
		if from == 0 {
			from = done
		}
	}, nodes[0])
	if err != nil || fetched.GetWireBytes() != m.GetSize()-3<<20 {
		t.Errorf("fetched %d bytes: %v", fetched.GetWireBytes(), err)
	}
	if from < 3<<20 {
		t.Errorf("fetching began at %d", from)
	}
	nodes[1].expectGood(t, m)
}

func TestASaveThatBeganAnewIsFetchedAnew(t *testing.T) {
	for name, size := range map[string]int{"of the same length": 4 << 20, "longer": 5 << 20, "shorter": 3 << 20} {
		t.Run(name, func(t *testing.T) {
			nodes := cluster(t, 2)
			w := nodes[0].create(t)
			follows := errgroup.Group{}
			ctx, followed := context.WithCancel(t.Context())
			follows.Go(func() error {
				return nodes[1].follow(t.Context(), nodes[0], patient, func(done int64) {
					if done == 4<<20 {
						followed()
					}
				})
			})
			write(t, w, random(4<<20))
			<-ctx.Done()
			if err := w.Discard(); err != nil { // as after a restart of the saver
				t.Fatal(err)
			}
			if err := follows.Wait(); err != nil {
				t.Fatal(err)
			}
			w, data := nodes[0].create(t), append([]byte("other"), random(size)[5:]...)
			write(t, w, data)
			m := nodes[0].finish(t, w, data)
			if _, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0]); err != nil {
				t.Fatal(err)
			}
			nodes[1].expectGood(t, m)
		})
	}
}

func TestFollowEndsWhereNobodyWrites(t *testing.T) {
	nodes := cluster(t, 2)
	if err := nodes[1].follow(t.Context(), nodes[0], 20*time.Millisecond, nil); err != nil {
		t.Error(err)
	}
	nodes[0].grpc.Stop()
	if err := nodes[1].follow(t.Context(), nodes[0], 20*time.Millisecond, nil); err != nil {
		t.Error(err)
	}
	if left, err := nodes[1].vault.List(); err != nil || len(left) != 0 {
		t.Errorf("there is %v: %v", left, err)
	}
}

func TestFollowLeavesASaverThatBringsNothing(t *testing.T) {
	nodes := cluster(t, 2)
	w := nodes[0].create(t)
	write(t, w, random(1<<20))
	if err := nodes[1].follow(t.Context(), nodes[0], impatient, nil); err != nil {
		t.Error(err)
	}
	if err := w.Discard(); err != nil {
		t.Error(err)
	}
}

func TestFollowNeedsAGrant(t *testing.T) {
	nodes := []*node{start(t, "etcd-1"), start(t, "etcd-2")}
	w := nodes[0].create(t)
	write(t, w, random(1<<20))
	err := nodes[1].follow(t.Context(), nodes[0], 20*time.Millisecond, func(done int64) {
		if done > 0 {
			t.Errorf("%d bytes came without a grant", done)
		}
	})
	if err != nil {
		t.Error(err)
	}
	if err := w.Discard(); err != nil {
		t.Error(err)
	}
}

// A copy that is sealed while it is saved goes down the chain as it is sealed, and only that counts.
func TestNodesFollowASealedSave(t *testing.T) {
	nodes, data := cluster(t, 3), random(6<<20+77)
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w, err := nodes[0].vault.CreateSealed("s", seal.Options{Level: 1, Recipients: []string{key.Recipient().String()}})
	if err != nil {
		t.Fatal(err)
	}
	follows := errgroup.Group{}
	came := make(chan struct{}, len(nodes))
	for i := 1; i < len(nodes); i++ {
		told := false
		follows.Go(func() error {
			return nodes[i].follow(t.Context(), nodes[i-1], patient, func(done int64) {
				if !told && done > 1<<20 {
					told = true
					came <- struct{}{}
				}
			})
		})
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	for range nodes[1:] {
		<-came
	}
	facts, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	m := describe("s", data)
	m.Local = facts.GetLocal()
	if err := errors.Join(follows.Wait(), nodes[0].vault.WriteManifest(m)); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(nodes); i++ {
		fetched, err := nodes[i].fetch(t.Context(), m, patient, nil, before(nodes, i)...)
		if err != nil || fetched.GetWireBytes() != 0 {
			t.Errorf("%s had to fetch %d bytes more: %v", nodes[i].name, fetched.GetWireBytes(), err)
		}
		if c := nodes[i].vault.Hash(t.Context(), m, nil); c.GetState() != requorumv1.CopyState_COPY_STATE_GOOD {
			t.Errorf("%s: %v", nodes[i].name, c)
		}
	}
	if err := nodes[2].vault.Drop("s"); err != nil {
		t.Fatal(err)
	}
	if fetched, err := nodes[2].fetch(t.Context(), m, patient, nil, nodes[0]); err != nil || fetched.GetWireBytes() == 0 {
		t.Errorf("%v, %v", fetched, err)
	}
}
