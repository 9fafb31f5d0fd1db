package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// Follow takes over what a neighbour writes while it writes it, and serves it to this node's own readers. It returns
// when that ends, when no byte has come for ProgressTimeout, or when ctx ends; whatever came is kept, and the next
// Fetch goes on from there. What the neighbour was writing need not have become the snapshot: Fetch compares.
//
// Only one neighbour is asked, so that a chain stays one. One that has nothing to follow yet is asked again. It fails
// only for this node's own reasons, such as a full disk.
func (f *Fetcher) Follow(ctx context.Context, spec *agentv1.FollowCopy, progress func(done, total int64)) error {
	w, err := f.vault.Follow(spec.GetName())
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	if err := f.follow(ctx, w, spec, progress); err != nil {
		return errors.Join(fmt.Errorf("follow: %w", err), w.Discard())
	}
	return w.Keep()
}

func (f *Fetcher) follow(ctx context.Context, w *vault.Writer, spec *agentv1.FollowCopy, progress func(done, total int64)) error {
	decoder, err := newChunkDecoder()
	if err != nil {
		return err
	}
	defer decoder.close()
	var in *inflow
	began := time.Now()
	for try := 0; ; try++ {
		req := &agentv1.FetchRequest{Name: spec.GetName(), Follow: true, AcceptZstd: !f.NoZstd}
		if in, err = f.begin(ctx, spec.GetSource(), req); err == nil {
			break
		}
		if !notYet(err) {
			f.log.Info("cannot follow", "snapshot", spec.GetName(), "node", spec.GetSource().GetNode(), "error", err)
			return nil
		}
		progress(0, 0)
		if f.pause(ctx, try) != nil || time.Since(began) > time.Duration(f.Rounds)*f.ProgressTimeout {
			return nil
		}
	}
	err = f.copy(in, w, decoder, progress)
	if closeErr := in.close(); closeErr != nil {
		f.log.Debug("close connection", "node", in.node, "error", closeErr)
	}
	if local := (localError{}); errors.As(err, &local) {
		return local.error
	}
	f.log.Info("followed", "snapshot", spec.GetName(), "node", in.node, "bytes", w.Offset(), "ended_with", err)
	return nil
}

// begin opens a stream and receives its first message: whether there is something to follow comes with that.
func (f *Fetcher) begin(ctx context.Context, source *agentv1.Source, req *agentv1.FetchRequest) (*inflow, error) {
	in, err := connect(ctx, f.dial, source, req, f.silence())
	if err != nil {
		return nil, err
	}
	if in.peeked, err = in.next(f.silence()); err != nil {
		return nil, errors.Join(err, in.close())
	}
	return in, nil
}

// copy writes what comes until the stream ends.
func (f *Fetcher) copy(in *inflow, w *vault.Writer, decoder *chunkDecoder, progress func(done, total int64)) error {
	for lastByte := time.Now(); time.Since(lastByte) < f.ProgressTimeout; {
		resp, err := in.next(f.silence())
		if err != nil {
			return err
		}
		raw, err := decoder.decode(resp, w.Offset(), math.MaxInt64)
		if err != nil {
			return err
		}
		if len(raw) > 0 {
			lastByte = time.Now()
		}
		if _, err := w.Write(raw); err != nil {
			return localError{err}
		}
		progress(w.Offset(), 0)
	}
	return fmt.Errorf("no byte for %v: %w", f.ProgressTimeout, io.ErrNoProgress)
}
