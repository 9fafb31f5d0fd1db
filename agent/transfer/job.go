package transfer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// errStarving says that a source lives and has not brought a byte for too long.
var errStarving = errors.New("waits for its own source")

// restarting is the part of ProgressTimeout that a source's agent may need to restart.
const restarting = 10

// localError is a failure of this node, for which no other source helps.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// job is one run of a fetch.
type job struct {
	*Fetcher
	want     *requorumv1.Manifest
	file     vault.Sums // of want on nodes
	recv     *vault.Receiver
	progress func(done, total int64)
	decoder  *chunkDecoder
	wire     int64
	nodes    []string // that bytes came from, in order
	failures []SourceFailure
	lastByte time.Time
}

func (f *Fetcher) job(m *requorumv1.Manifest, recv *vault.Receiver, progress func(done, total int64)) *job {
	j := &job{Fetcher: f, want: m, file: vault.FileOf(m), recv: recv, progress: progress}
	if recv.Resumed() > 0 {
		j.nodes = append(j.nodes, "an earlier try")
	}
	return j
}

func (j *job) fetched() *agentv1.Fetched {
	return &agentv1.Fetched{WireBytes: j.wire, Nodes: j.nodes}
}

// run fetches the file from sources and commits it. It ends the Receiver in any case.
func (j *job) run(ctx context.Context, sources []*agentv1.Source) (err error) {
	defer func() { err = errors.Join(err, j.recv.Close()) }()
	if j.decoder, err = newChunkDecoder(); err != nil {
		return err
	}
	defer j.decoder.close()
	if err := j.rounds(ctx, sources); err != nil {
		return err
	}
	_, err = j.recv.Commit()
	return err
}

// rounds tries the sources in their order, again and again, until the file is complete.
func (j *job) rounds(ctx context.Context, sources []*agentv1.Source) error {
	for idle := 0; !j.complete(); {
		before, patience := j.recv.Offset(), time.Duration(0)
		if idle == 0 {
			patience = j.ProgressTimeout // later on, whoever is still not ready had time enough
		}
		if err := j.round(ctx, sources, patience); err != nil {
			return err
		}
		if idle++; j.recv.Offset() > before {
			idle = 0
		}
		if idle >= j.Rounds {
			return &SourcesError{Name: j.want.GetName(), Offset: j.recv.Offset(), Size: j.file.Size, Failures: j.failures}
		}
		if j.complete() {
			return nil
		}
		if err := j.pause(ctx, idle); err != nil {
			return err
		}
	}
	return nil
}

// round tries each source once. It fails only for what no other source can help.
func (j *job) round(ctx context.Context, sources []*agentv1.Source, patience time.Duration) error {
	for _, source := range sources {
		err := j.from(ctx, source, sources, patience)
		if j.complete() {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("snapshot %s: %w", j.want.GetName(), context.Cause(ctx))
		}
		if local := (localError{}); errors.As(err, &local) {
			return local.error
		}
		j.fail(source.GetNode(), err)
	}
	return nil
}

func (j *job) fail(node string, err error) {
	j.log.Warn("source failed", "snapshot", j.want.GetName(), "node", node, "offset", j.recv.Offset(), "error", err)
	failure := SourceFailure{Node: node, Err: err}
	if i := slices.IndexFunc(j.failures, func(f SourceFailure) bool { return f.Node == node }); i >= 0 {
		j.failures[i] = failure
		return
	}
	j.failures = append(j.failures, failure)
}

// from fetches from one source, and from the one that takes its place when it starves. A source that has
// nothing yet is asked again for as long as patience.
func (j *job) from(ctx context.Context, source *agentv1.Source, all []*agentv1.Source, patience time.Duration) error {
	j.lastByte = time.Now()
	for try := 0; ; try++ {
		before := j.recv.Offset()
		err := j.stream(ctx, source, all)
		if j.complete() || j.recv.Offset() > before || !notYet(err) || time.Since(j.lastByte) > j.patience(err, patience) {
			return err
		}
		if err := j.pause(ctx, try); err != nil {
			return err
		}
	}
}

// patience is how long to go on asking a source that answers with err: a task may take its time to begin, but an
// agent that cannot be reached needs a moment to restart, or it is gone.
func (j *job) patience(err error, longest time.Duration) time.Duration {
	if status.Code(err) == codes.Unavailable {
		return min(longest, j.ProgressTimeout/restarting)
	}
	return longest
}

func (j *job) stream(ctx context.Context, source *agentv1.Source, all []*agentv1.Source) error {
	in, err := connect(ctx, j.dial, source, j.request(), j.silence())
	if err != nil {
		return err
	}
	defer func() { j.logClose(in) }()
	askOthers := j.lastByte.Add(j.ProgressTimeout)
	for !j.complete() {
		got, err := j.take(in)
		switch {
		case err != nil && in.node != source.GetNode():
			return fmt.Errorf("%s, in its place: %w", in.node, err)
		case err != nil:
			return err
		case got:
			askOthers = j.lastByte.Add(j.ProgressTimeout)
			continue
		case time.Since(j.lastByte) > time.Duration(j.Rounds)*j.ProgressTimeout:
			return fmt.Errorf("%w: no byte for %v", errStarving, time.Since(j.lastByte).Round(time.Second))
		case time.Now().Before(askOthers):
			continue
		}
		if other := j.better(ctx, in.node, all); other != nil {
			j.logClose(in)
			in = other
		}
		askOthers = time.Now().Add(j.ProgressTimeout)
	}
	return nil
}

func (j *job) request() *agentv1.FetchRequest {
	return &agentv1.FetchRequest{
		Name: j.want.GetName(), Sha256: j.file.SHA256, Size: j.file.Size, Offset: j.recv.Offset(), AcceptZstd: !j.NoZstd,
	}
}

// take receives one message and tells whether it brought bytes.
func (j *job) take(in *inflow) (bool, error) {
	resp, err := in.next(j.silence())
	if err != nil {
		return false, err
	}
	j.wire += int64(len(resp.GetData()))
	raw, err := j.decoder.decode(resp, j.recv.Offset(), j.file.Size)
	if err != nil {
		return false, err
	}
	if len(raw) > 0 {
		if _, err := j.recv.Write(raw); err != nil {
			return false, localError{err}
		}
		j.credit(in.node)
		j.lastByte = time.Now()
	}
	j.progress(j.recv.Offset(), j.file.Size)
	return len(raw) > 0, nil
}

func (j *job) credit(node string) {
	if len(j.nodes) == 0 || j.nodes[len(j.nodes)-1] != node {
		j.nodes = append(j.nodes, node)
	}
}

// better returns a stream from another source that has bytes to send now, nil if there is none.
func (j *job) better(ctx context.Context, than string, all []*agentv1.Source) *inflow {
	for _, source := range all {
		if source.GetNode() == than || ctx.Err() != nil {
			continue
		}
		in, err := connect(ctx, j.dial, source, j.request(), j.silence())
		if err != nil {
			j.log.Debug("asked for more bytes", "node", source.GetNode(), "error", err)
			continue
		}
		if in.peeked, err = in.next(j.silence()); err == nil && len(in.peeked.GetData()) > 0 {
			j.log.Info("source has nothing to send, another one has", "snapshot", j.want.GetName(), "from", than, "to", in.node, "offset", j.recv.Offset())
			return in
		}
		j.log.Debug("asked for more bytes", "node", in.node, "error", err)
		j.logClose(in)
		j.progress(j.recv.Offset(), j.file.Size)
	}
	return nil
}

func (j *job) logClose(in *inflow) {
	if err := in.close(); err != nil {
		j.log.Debug("close connection", "node", in.node, "error", err)
	}
}

func (j *job) complete() bool { return j.recv.Offset() == j.file.Size }

// pause waits before another try, and says that this node lives.
func (j *job) pause(ctx context.Context, try int) error {
	j.progress(j.recv.Offset(), j.file.Size)
	if err := j.Fetcher.pause(ctx, try); err != nil {
		return fmt.Errorf("snapshot %s: %w", j.want.GetName(), err)
	}
	return nil
}

// pause waits before another try, longer with each, with full jitter.
func (f *Fetcher) pause(ctx context.Context, try int) error {
	longest := min(f.MaxPause, f.MinPause<<min(try, 16))
	timer := time.NewTimer(rand.N(longest) + 1)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
