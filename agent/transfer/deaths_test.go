package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/agent/transfer"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/grpcserver"
)

// at calls what once so many percent of the file are here.
func at(percent int64, what func()) func(done, total int64) {
	var once sync.Once
	return func(done, total int64) {
		if done*100 >= total*percent {
			once.Do(what)
		}
	}
}

// The node that sends the file to a chain dies. Another holder goes on, at the offset that was reached, so that every
// byte is sent to the chain once.
func TestAnotherHolderGoesOnWhereTheSourceDied(t *testing.T) {
	for _, percent := range []int64{0, 10, 50, 90} {
		t.Run(fmt.Sprintf("at %d percent", percent), func(t *testing.T) {
			nodes, data := cluster(t, 5), random(4<<20)
			m := nodes[0].hold(t, "s", data)
			nodes[1].hold(t, "s", data)
			died, heir := nodes[0], nodes[1]
			var group errgroup.Group
			for i := 2; i < len(nodes); i++ {
				sources := append(before(nodes[2:], i-2), died, heir)
				var progress func(done, total int64)
				if i == 2 {
					progress = at(percent, died.grpc.Stop)
				}
				group.Go(func() error {
					fetched, err := nodes[i].fetch(t.Context(), m, patient, progress, sources...)
					if i == 2 && err == nil && fetched.GetWireBytes() != m.GetSize() {
						t.Errorf("%d bytes of %d came to the chain from %v", fetched.GetWireBytes(), m.GetSize(), fetched.GetNodes())
					}
					return err
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			for _, n := range nodes[2:] {
				n.expectGood(t, m)
			}
			if sent, missing := heir.server.Sent("s"), m.GetSize()*(100-percent)/100; sent > missing {
				t.Errorf("%d bytes were sent again, at most %d were missing", sent, missing)
			}
		})
	}
}

// The only node that has the file dies and comes back, as an agent that is updated. Its successor waits, and goes on
// where it stood.
func TestFetchGoesOnWhereItStoodWhenTheSourceRestarts(t *testing.T) {
	for _, percent := range []int64{10, 50, 90} {
		t.Run(fmt.Sprintf("at %d percent", percent), func(t *testing.T) {
			nodes, data := cluster(t, 2), random(4<<20)
			m := nodes[0].hold(t, "s", data)
			fetched, err := nodes[1].fetch(t.Context(), m, patient, at(percent, func() { nodes[0].restart(t) }), nodes[0])
			if err != nil || fetched.GetWireBytes() != m.GetSize() {
				t.Errorf("%v, %v", fetched, err)
			}
			nodes[1].expectGood(t, m)
		})
	}
}

// restart ends the node's service and starts it at the same address.
func (n *node) restart(t *testing.T) {
	t.Helper()
	n.grpc.Stop()
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		t.Error(err)
		return
	}
	again := grpc.NewServer()
	agentv1.RegisterTransferServiceServer(again, n.server)
	served := make(chan error, 1)
	go func() { served <- grpcserver.Serve(again, l) }()
	t.Cleanup(func() {
		again.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// A source whose agent is away is left long before one that says that its task has not begun.
func TestFetchLeavesASourceThatCannotBeReachedSoon(t *testing.T) {
	took := map[string]time.Duration{}
	for what, code := range map[string]codes.Code{"away": codes.Unavailable, "not begun": codes.PermissionDenied} {
		nodes, data := cluster(t, 2), random(64<<10)
		m := nodes[0].hold(t, "s", data)
		absent := &node{name: "etcd-9"}
		absent.serve(t, refuser{code: code})
		began := time.Now()
		fetched, err := nodes[1].fetch(t.Context(), m, 6*impatient, nil, absent, nodes[0])
		if err != nil || !slices.Equal(fetched.GetNodes(), []string{"etcd-1"}) {
			t.Errorf("%v, %v", fetched, err)
		}
		took[what] = time.Since(began)
	}
	if took["away"] > took["not begun"]/3 {
		t.Errorf("%v", took)
	}
}

// refuser answers every call with a code.
type refuser struct {
	agentv1.UnimplementedTransferServiceServer
	code codes.Code
}

func (r refuser) Fetch(*agentv1.FetchRequest, agentv1.TransferService_FetchServer) error {
	return status.Error(r.code, "not now")
}

// halfway sends the first part of the file and then nothing, or only that it lives.
func halfway(data []byte, alive bool) *stuck {
	s := &stuck{alive: alive}
	const size = 256 << 10
	for offset := 0; offset < len(data)/2; offset += size {
		s.chunks = append(s.chunks, chunk(int64(offset), data[offset:offset+size]))
	}
	return s
}

func chunk(offset int64, raw []byte) *agentv1.FetchResponse {
	return &agentv1.FetchResponse{Offset: offset, Data: raw, Crc32C: crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli))}
}

// A neighbour that answers and sends no more is given up when nothing came for the progress timeout. What it sent is
// kept: the next holder is asked for the rest only.
func TestStalledTransferGoesOnFromAnotherHolder(t *testing.T) {
	for what, alive := range map[string]bool{"silent": false, "says that it lives": true} {
		t.Run(what, func(t *testing.T) {
			nodes, data := cluster(t, 2), random(4<<20)
			m := nodes[0].hold(t, "s", data)
			stalled := &node{name: "etcd-9"}
			stalled.serve(t, halfway(data, alive))
			nodes[1].rounds = 1000 // so that only asking the others helps in time
			fetched, err := nodes[1].fetch(t.Context(), m, 4*impatient, nil, stalled, nodes[0])
			if err != nil || !slices.Equal(fetched.GetNodes(), []string{"etcd-9", "etcd-1"}) || fetched.GetWireBytes() != m.GetSize() {
				t.Errorf("%v, %v", fetched, err)
			}
			if sent := nodes[0].server.Sent("s"); sent != m.GetSize()/2 {
				t.Errorf("%d bytes were asked for, half of %d were missing", sent, m.GetSize())
			}
			nodes[1].expectGood(t, m)
		})
	}
}

// A bit that flips on the disk of a node in the middle of a chain reaches the node behind it. That one notices, and
// turns to the node that saved the file.
func TestSuccessorNoticesABitThatFlipsOnTheDiskInTheMiddle(t *testing.T) {
	nodes, data := cluster(t, 3), random(8<<20)
	m := nodes[0].hold(t, "s", data)
	middle := nodes[1]
	half := make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		_, err := middle.fetch(t.Context(), m, patient, at(50, func() {
			flip(t, partial(t, middle.dir), 1<<20)
			close(half)
		}), nodes[0])
		return err
	})
	<-half
	fetched, err := nodes[2].fetch(t.Context(), m, patient, nil, middle, nodes[0])
	if err != nil || !slices.Equal(fetched.GetNodes(), []string{"etcd-1"}) {
		t.Errorf("%v, %v", fetched, err)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	nodes[2].expectGood(t, m)
	if c := middle.vault.Hash(t.Context(), m, nil); c.GetSha256() == m.GetSha256() {
		t.Error("the copy in the middle is good: the test flips nothing")
	}
}

// partial returns the file that is being received.
func partial(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.part"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	return found[0]
}

// flip changes one bit of a file.
func flip(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, errRead := f.ReadAt(b, offset)
	b[0] ^= 0x10
	_, errWrite := f.WriteAt(b, offset)
	if err := errors.Join(errRead, errWrite, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A link that damages every chunk lets nothing through: none is written, and the error names the node and the reason.
func TestLinkThatDamagesEveryChunkIsNamed(t *testing.T) {
	nodes, data := cluster(t, 2), random(1<<20)
	m := nodes[0].hold(t, "s", data)
	nodes[1].wrap = func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := next(ctx, desc, cc, method, opts...)
		var first atomic.Int32
		first.Store(1)
		return corrupter{stream, &first}, err
	}
	_, err := nodes[1].fetch(t.Context(), m, patient, nil, nodes[0])
	var sources *transfer.SourcesError
	if !errors.As(err, &sources) || sources.Offset != 0 || !strings.Contains(err.Error(), "etcd-1: bad chunk at offset 0: CRC-32C") {
		t.Errorf("%v", err)
	}
}
