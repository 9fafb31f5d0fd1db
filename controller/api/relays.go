package api

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"

	"github.com/requorum/requorum/controller/dispatch"
)

// relays join an agent that pushes a file with the operator's call that waits for it. Nothing is
// stored: the operator's pace is the agent's.
type relays struct {
	mu      sync.Mutex
	waiting map[string]*relay
}

type relay struct {
	from  dispatch.Key
	parts chan []byte
	ended context.Context
	taken bool // guarded by relays.mu
}

// open makes a relay for one node. done ends it.
func (r *relays) open(from dispatch.Key) (id string, parts <-chan []byte, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	id = ulid.Make().String()
	one := &relay{from: from, parts: make(chan []byte), ended: ctx}
	if r.waiting == nil {
		r.waiting = make(map[string]*relay)
	}
	r.waiting[id] = one
	return id, one.parts, func() {
		cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.waiting, id)
	}
}

// push hands what a node sends to the call that waits for it.
func (r *relays) push(from dispatch.Key, stream agentv1.SessionService_PushCopyServer) error {
	var to *relay
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&agentv1.PushCopyResponse{})
		}
		if err != nil {
			return err
		}
		if to == nil {
			if to = r.take(from, req.GetRelayId()); to == nil {
				return status.Error(codes.NotFound, "nobody waits for this file")
			}
		}
		select {
		case to.parts <- req.GetData():
		case <-to.ended.Done():
			return status.Error(codes.Canceled, "the operator's call has ended")
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

// take returns the relay that waits for what a node sends. A node sends a file once: an agent that was
// restarted would begin it anew in the middle of what the operator has got.
func (r *relays) take(from dispatch.Key, id string) *relay {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.waiting[id]
	if one == nil || one.from != from || one.taken {
		return nil
	}
	one.taken = true
	return one
}
