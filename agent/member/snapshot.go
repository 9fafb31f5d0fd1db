package member

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Snapshot streams the member's database and the SHA-256 of it that etcd appends. It also returns the version
// of the member's etcd. The caller closes the stream, early if it likes: that frees the member. A read fails
// with ctx's end, and does not fail for slowness: the caller watches the progress.
func (m *Member) Snapshot(ctx context.Context) (stream io.ReadCloser, etcdVersion string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &snapshotStream{cancel: cancel, endpoint: m.endpoints()}
	s.conn, err = m.connect(ctx, "snapshot", func(ctx context.Context, conn *grpc.ClientConn) error {
		maintenance := pb.NewMaintenanceClient(conn)
		soon, cancel := context.WithTimeout(ctx, m.cfg.DialTimeout)
		defer cancel()
		state, err := maintenance.Status(soon, &pb.StatusRequest{})
		if err != nil {
			return err
		}
		etcdVersion = state.Version
		if s.stream, err = maintenance.Snapshot(ctx, &pb.SnapshotRequest{}); err != nil {
			return err
		}
		first, err := s.stream.Recv() // a refusal comes only here
		s.rest = first.GetBlob()
		return err
	})
	if err != nil {
		cancel()
		return nil, "", err
	}
	return s, etcdVersion, nil
}

type snapshotStream struct {
	stream   grpc.ServerStreamingClient[pb.SnapshotResponse]
	conn     *grpc.ClientConn
	cancel   context.CancelFunc
	endpoint string
	rest     []byte // received and not read yet
}

// Read returns io.EOF after the last byte of a whole stream only.
func (s *snapshotStream) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		r, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fmt.Errorf("snapshot stream of etcd at %s: %w", s.endpoint, etcdError(err))
		}
		s.rest = r.Blob
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// gathered is how much is written at once, in bytes; etcd sends 32 KiB at a time.
const gathered = 512 << 10

// WriteTo writes the whole stream. io.Copy uses it.
func (s *snapshotStream) WriteTo(w io.Writer) (int64, error) {
	pieces := bufio.NewWriterSize(struct{ io.Writer }{w}, gathered)
	n, err := pieces.ReadFrom(struct{ io.Reader }{s})
	if err != nil {
		return n, err
	}
	return n, pieces.Flush()
}

// Close ends the stream.
func (s *snapshotStream) Close() error {
	s.cancel()
	return s.conn.Close()
}
