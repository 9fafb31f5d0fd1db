package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/names"
)

// DefaultKeepAlive is how often a server that has nothing to send says that it lives.
const DefaultKeepAlive = 3 * time.Second

// Authoriser says who may read what. Grants is one.
type Authoriser interface {
	// MayRead fails unless peer, which is of the server's cluster, may read the snapshot called name.
	MayRead(ctx context.Context, peer Peer, name string) error
	// StillKnown fails once peer's certificate is revoked.
	StillKnown(ctx context.Context, peer Peer) error
}

// PeerFunc returns whom the caller's certificate names.
type PeerFunc func(ctx context.Context) (Peer, error)

// ServerOption changes a Server.
type ServerOption func(*Server)

// WithPeer says which cluster the server belongs to and how it learns who calls. Without it every call
// is refused.
func WithPeer(cluster string, peer PeerFunc) ServerOption {
	return func(s *Server) { s.cluster, s.peer = cluster, peer }
}

// WithKeepAlive replaces DefaultKeepAlive. It has to stay well below half of the fetchers' ProgressTimeout.
func WithKeepAlive(interval time.Duration) ServerOption {
	return func(s *Server) { s.keepAlive = interval }
}

// Server serves the files of a vault, complete or still growing, to the nodes of one cluster.
type Server struct {
	agentv1.UnimplementedTransferServiceServer

	vault     *vault.Vault
	authorise Authoriser
	log       hclog.Logger
	cluster   string
	peer      PeerFunc
	keepAlive time.Duration

	mu   sync.Mutex
	sent map[string]traffic
}

// traffic counts bytes: of the file, and on the wire.
type traffic struct{ raw, wire int64 }

// NewServer returns a server of v's files for those whom authorise lets read them.
func NewServer(v *vault.Vault, authorise Authoriser, log hclog.Logger, options ...ServerOption) *Server {
	s := &Server{
		vault: v, authorise: authorise, log: log, keepAlive: DefaultKeepAlive, sent: map[string]traffic{},
		peer: func(context.Context) (Peer, error) { return Peer{}, errors.New("callers cannot be told apart") },
	}
	for _, option := range options {
		option(s)
	}
	return s
}

// Sent returns how many bytes of the file called name were sent since the server was made, counted before
// compression and over all callers.
func (s *Server) Sent(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[name].raw
}

// SentOnWire is Sent counted after compression.
func (s *Server) SentOnWire(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[name].wire
}

func (s *Server) count(name string, raw, wire int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.sent[name]
	s.sent[name] = traffic{raw: t.raw + int64(raw), wire: t.wire + int64(wire)}
}

// Fetch streams a copy from an offset, and follows it while it grows. A caller that follows a file which is being
// written is sent what there is of it until the writing ends. Its status codes are:
// INVALID_ARGUMENT for a name, size or offset that cannot be; PERMISSION_DENIED for a caller of another
// cluster or without a grant; NOT_FOUND while the file is not here; FAILED_PRECONDITION when another
// snapshot has the name; UNAVAILABLE when this node stopped receiving the file; DATA_LOSS when it threw
// the file away or cannot read it.
func (s *Server) Fetch(req *agentv1.FetchRequest, stream agentv1.TransferService_FetchServer) error {
	ctx := stream.Context()
	peer, err := s.admit(ctx, req)
	if err != nil {
		return err
	}
	node := peer.Node
	r, err := s.open(req)
	if err != nil {
		return refusal(err)
	}
	defer r.Close() //nolint:errcheck // only read from
	s.log.Debug("sending", "snapshot", req.GetName(), "to", node, "offset", req.GetOffset())
	out := &outflow{server: s, peer: peer, stream: stream, reader: r, req: req, pace: newPace(req.GetAcceptZstd())}
	err = out.run(ctx)
	if closeErr := out.encoder.close(); closeErr != nil {
		s.log.Warn("zstd encoder", "error", closeErr)
	}
	if err != nil {
		s.log.Info("sending ended early", "snapshot", req.GetName(), "to", node, "offset", out.offset, "error", err)
		return refusal(err)
	}
	s.log.Info("sent", "snapshot", req.GetName(), "to", node, "from_offset", req.GetOffset(), "up_to", out.offset, "followed", req.GetFollow())
	return nil
}

func (s *Server) open(req *agentv1.FetchRequest) (*vault.Reader, error) {
	if req.GetFollow() {
		return s.vault.OpenGrowing(req.GetName())
	}
	return s.vault.OpenReader(req.GetName(), req.GetSha256(), req.GetSize())
}

// admit returns who calls, or why it is refused.
func (s *Server) admit(ctx context.Context, req *agentv1.FetchRequest) (Peer, error) {
	if err := names.Check("snapshot", req.GetName()); err != nil {
		return Peer{}, status.Error(codes.InvalidArgument, err.Error())
	}
	if req.GetFollow() {
		req.Size = math.MaxInt64 // until the writing ends
	}
	if req.GetSize() <= 0 || req.GetOffset() < 0 || req.GetOffset() > req.GetSize() {
		return Peer{}, status.Errorf(codes.InvalidArgument, "offset %d of %d bytes", req.GetOffset(), req.GetSize())
	}
	caller, err := s.peer(ctx)
	if err != nil {
		return Peer{}, status.Errorf(codes.PermissionDenied, "who calls is not known: %v", err)
	}
	if caller.Cluster != s.cluster || caller.Cluster == "" {
		s.log.Warn("refused a node of another cluster", "cluster", caller.Cluster, "node", caller.Node, "peer", from(ctx), "snapshot", req.GetName())
		return Peer{}, status.Errorf(codes.PermissionDenied, "node %s belongs to cluster %q, not to this one", caller.Node, caller.Cluster)
	}
	if err := s.authorise.MayRead(ctx, caller, req.GetName()); err != nil {
		s.log.Info("refused", "node", caller.Node, "peer", from(ctx), "snapshot", req.GetName(), "reason", err)
		return Peer{}, status.Error(codes.PermissionDenied, err.Error())
	}
	return caller, nil
}

// from returns the address that a call comes from.
func from(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "unknown"
}

// refusal gives an error of the vault or of a stream its status code.
func refusal(err error) error {
	var (
		conflict *vault.ConflictError
		pathErr  *fs.PathError
	)
	switch {
	case errors.As(err, &conflict):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, vault.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, vault.ErrInterrupted):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, vault.ErrDiscarded), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &pathErr):
		return status.Error(codes.DataLoss, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// outflow is one stream being sent.
type outflow struct {
	server  *Server
	peer    Peer
	stream  agentv1.TransferService_FetchServer
	reader  *vault.Reader
	req     *agentv1.FetchRequest
	offset  int64
	pace    *pace
	encoder chunkEncoder
}

func (o *outflow) run(ctx context.Context) error {
	o.offset = o.req.GetOffset()
	for o.offset < o.req.GetSize() {
		if err := o.stillKnown(ctx); err != nil {
			return err
		}
		available, err := o.await(ctx)
		if err != nil {
			return err
		}
		n := min(int64(o.pace.size()), available-o.offset)
		if n <= 0 && o.req.GetFollow() {
			return nil // the writing has ended
		}
		if n <= 0 {
			return io.ErrUnexpectedEOF
		}
		raw := *chunkBuffers.Get(int(n))
		if _, err := o.reader.ReadAt(raw, o.offset); err != nil {
			return cutOff(err)
		}
		if err := o.send(raw); err != nil {
			return err
		}
		o.offset += n
	}
	return nil
}

func (o *outflow) stillKnown(ctx context.Context) error {
	if err := o.server.authorise.StillKnown(ctx, o.peer); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return nil
}

// cutOff names the end of a file that comes too early.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// await waits for bytes beyond the offset. It says at once, and then from time to time, that it waits.
func (o *outflow) await(ctx context.Context) (int64, error) {
	available := o.reader.Available()
	for available <= o.offset {
		if err := o.stillKnown(ctx); err != nil {
			return 0, err
		}
		if err := o.stream.Send(&agentv1.FetchResponse{Offset: o.offset}); err != nil {
			return 0, err
		}
		waiting, cancel := context.WithTimeout(ctx, o.server.keepAlive)
		var err error
		available, err = o.reader.Wait(waiting, o.offset)
		cancel()
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
		case err != nil:
			return 0, err
		case available <= o.offset:
			return available, nil
		}
	}
	return available, nil
}

// send takes over raw.
func (o *outflow) send(raw []byte) error {
	started, size := time.Now(), len(raw)
	chunk, err := o.encode(raw)
	if err != nil {
		return err
	}
	encoded, wire := time.Now(), len(chunk.GetData())
	if err := o.stream.SendMsg(lentChunk{chunk}); err != nil {
		return err
	}
	o.pace.sent(size, wire, encoded.Sub(started), time.Since(encoded))
	o.server.count(o.req.GetName(), size, wire)
	return nil
}

func (o *outflow) encode(raw []byte) (*agentv1.FetchResponse, error) {
	if o.pace.compress() {
		return o.encoder.compressed(o.offset, raw)
	}
	return o.encoder.plain(o.offset, raw), nil
}
