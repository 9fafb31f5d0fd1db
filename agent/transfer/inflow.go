package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// errSilent says that a source sent nothing at all for too long.
var errSilent = errors.New("silent")

// DialFunc connects to a source and makes sure that it is the node that the source names. The Closer ends
// the connection.
type DialFunc func(ctx context.Context, source *agentv1.Source) (grpc.ClientConnInterface, io.Closer, error)

// inflow is one stream being received.
type inflow struct {
	node   string
	stream agentv1.TransferService_FetchClient
	resp   agentv1.FetchResponse // the latest
	ctx    context.Context
	cancel context.CancelCauseFunc
	conn   io.Closer
	// peeked is a message that was received and not yet taken.
	peeked *agentv1.FetchResponse
}

// connect opens a stream. The caller closes it.
func connect(ctx context.Context, dial DialFunc, source *agentv1.Source, req *agentv1.FetchRequest, silence time.Duration) (*inflow, error) {
	in := &inflow{node: source.GetNode()}
	in.ctx, in.cancel = context.WithCancelCause(ctx)
	err := in.watched(silence, func() error {
		conn, closer, err := dial(in.ctx, source)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", source.GetAddress(), err)
		}
		in.conn = closer
		in.stream, err = agentv1.NewTransferServiceClient(conn).Fetch(in.ctx, req, grpc.ForceCodecV2(newReceiveCodec()))
		return err
	})
	if err != nil {
		return nil, errors.Join(err, in.close())
	}
	return in, nil
}

// next returns the next message, which stays valid until the one after that. It fails with errSilent if none comes for as long as silence.
func (in *inflow) next(silence time.Duration) (*agentv1.FetchResponse, error) {
	if resp := in.peeked; resp != nil {
		in.peeked = nil
		return resp, nil
	}
	in.resp.Reset()
	err := in.watched(silence, func() error { return in.stream.RecvMsg(&in.resp) })
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the stream ended before the file did")
	}
	return &in.resp, err
}

// watched runs wait, which must heed the stream's context, and breaks it off after silence.
func (in *inflow) watched(silence time.Duration, wait func() error) error {
	timer := time.AfterFunc(silence, func() {
		in.cancel(fmt.Errorf("%w for %v", errSilent, silence))
	})
	err := wait()
	timer.Stop()
	if cause := context.Cause(in.ctx); err != nil && errors.Is(cause, errSilent) {
		return cause
	}
	return err
}

func (in *inflow) close() error {
	in.cancel(nil)
	if in.conn == nil {
		return nil
	}
	return in.conn.Close()
}

// notYet tells whether err may only mean that a source's own task has not begun.
func notYet(err error) bool {
	switch status.Code(err) {
	case codes.NotFound, codes.Unavailable, codes.PermissionDenied:
		return true
	}
	return false
}
