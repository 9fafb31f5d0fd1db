package drill

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// keysAtOnce bounds an answer: etcd takes values of 1.5 MiB unless it is told otherwise.
const keysAtOnce = 64

// answerBytes bounds the memory that an answer takes.
const answerBytes = 256 << 20

// readAll counts the keys and reads each of them with its value.
func (e *etcd) readAll(ctx context.Context, s *staged, m *requorumv1.Manifest, p Progress, found *agentv1.Drilled) (err error) {
	conn, err := grpc.NewClient("unix:"+e.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerBytes)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	kv := pb.NewKVClient(conn)
	everything := func() *pb.RangeRequest {
		return &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: s.GetRevision(), Serializable: true}
	}
	counting := everything()
	counting.CountOnly = true
	counted, err := kv.Range(ctx, counting)
	if err != nil {
		return fmt.Errorf("count the keys: %w", err)
	}
	if counted.GetCount() != m.GetKeys() {
		return corrupt(m, "restored has %d keys, the manifest says %d", counted.GetCount(), m.GetKeys())
	}
	p.Detail("reading every key")
	for page := everything(); ; {
		page.Limit = keysAtOnce
		got, err := kv.Range(ctx, page)
		if err != nil {
			return fmt.Errorf("read the keys from %q on: %w", page.GetKey(), err)
		}
		for _, pair := range got.GetKvs() {
			found.Keys++
			found.Bytes += int64(len(pair.GetKey()) + len(pair.GetValue()))
		}
		p.Bytes(found.GetBytes(), 0)
		if !got.GetMore() || len(got.GetKvs()) == 0 {
			break
		}
		page.Key = append(got.GetKvs()[len(got.GetKvs())-1].GetKey(), 0)
	}
	if found.GetKeys() != m.GetKeys() {
		return corrupt(m, "restored gives %d keys, the manifest says %d", found.GetKeys(), m.GetKeys())
	}
	return nil
}
