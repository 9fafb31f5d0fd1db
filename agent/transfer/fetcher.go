package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/vault"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Options change a Fetcher; zero values stand for the defaults.
type Options struct {
	// ProgressTimeout is how long a source may bring no byte, 30 s by default. The package comment says
	// what happens then.
	ProgressTimeout time.Duration
	// Rounds is how many times in a row all sources may be tried without a byte, 3 by default.
	Rounds int
	// MinPause and MaxPause bound the pause before the next try, 100 ms and 5 s by default.
	MinPause, MaxPause time.Duration
	// NoZstd asks sources not to compress.
	NoZstd bool
}

func (o Options) withDefaults() Options {
	if o.ProgressTimeout == 0 {
		o.ProgressTimeout = 30 * time.Second
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.MinPause == 0 {
		o.MinPause = 100 * time.Millisecond
	}
	if o.MaxPause == 0 {
		o.MaxPause = 5 * time.Second
	}
	return o
}

// silence is how long a source may send nothing at all.
func (o Options) silence() time.Duration { return o.ProgressTimeout / 2 }

// Fetcher fetches snapshot files from neighbours into a vault.
type Fetcher struct {
	vault *vault.Vault
	dial  DialFunc
	log   hclog.Logger
	Options
}

// NewFetcher returns a Fetcher that writes to v and reaches sources through dial.
func NewFetcher(v *vault.Vault, dial DialFunc, log hclog.Logger, o Options) *Fetcher {
	return &Fetcher{vault: v, dial: dial, log: log, Options: o.withDefaults()}
}

// SourcesError says that no source brought the file any further.
type SourcesError struct {
	Name     string
	Offset   int64 // bytes that are here, kept for the next try
	Size     int64
	Failures []SourceFailure // the latest of each source, in their order
}

// SourceFailure is why a source failed.
type SourceFailure struct {
	Node string
	Err  error
}

func (e *SourcesError) Error() string {
	var why []string
	for _, f := range e.Failures {
		why = append(why, fmt.Sprintf("%s: %v", f.Node, f.Err))
	}
	return fmt.Sprintf("snapshot %s stands at %s of %s and no source brings more (%s); see that the agents there run and that this node "+
		"reaches them, then try again: it goes on where it stands", e.Name, humanize.IBytes(uint64(e.Offset)), humanize.IBytes(uint64(e.Size)), strings.Join(why, "; "))
}

// Unwrap returns the sources' errors.
func (e *SourcesError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failures))
	for _, f := range e.Failures {
		errs = append(errs, f.Err)
	}
	return errs
}

// WrongFileError says that what the sources sent is not the snapshot, although every chunk arrived as it was
// sent: the copy on one of those nodes is damaged.
type WrongFileError struct {
	Name string
	// Nodes that the bytes came from at the last try.
	Nodes []string
	// Before are the nodes that the bytes came from at the try before, empty if there was none.
	Before []string
	Err    *vault.MismatchError
}

func (e *WrongFileError) Error() string {
	before := ""
	if len(e.Before) > 0 {
		before = fmt.Sprintf(", and before that from %s,", strings.Join(e.Before, ", "))
	}
	return fmt.Sprintf("the bytes from %s%s are not the snapshot: %v; the copy there is damaged: check the snapshot's copies, "+
		"and take a new snapshot if none is good", strings.Join(e.Nodes, ", "), before, e.Err)
}

// Unwrap returns the *vault.MismatchError.
func (e *WrongFileError) Unwrap() error { return e.Err }

// Fetch makes this node hold the file that spec describes and returns what it moved. A good complete copy
// is left as it is, a damaged one of the same snapshot is replaced once a good one is here, and a partial
// one is continued. progress, which may be nil, is told the bytes here and in all, and while Fetch waits
// for a source it is told the same numbers again.
//
// Fetch fails with a *SourcesError if no source brings the file further, a *WrongFileError if what they
// bring is not the file, a *vault.NoSpaceError, a *vault.ConflictError if another snapshot has the name,
// and the context's error. What was received is kept for the next Fetch, unless it is wrong.
func (f *Fetcher) Fetch(ctx context.Context, spec *agentv1.FetchCopy, progress func(done, total int64)) (*agentv1.Fetched, error) {
	m, sources := spec.GetManifest(), spec.GetSources()
	if progress == nil {
		progress = func(int64, int64) {}
	}
	fetched, err := f.fetch(ctx, m, sources, progress)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	return fetched, nil
}

func (f *Fetcher) fetch(ctx context.Context, m *requorumv1.Manifest, sources []*agentv1.Source, progress func(done, total int64)) (*agentv1.Fetched, error) {
	recv, err := f.receiver(ctx, m, progress)
	if err != nil || recv == nil {
		return &agentv1.Fetched{}, err
	}
	if len(sources) == 0 {
		return nil, errors.Join(fmt.Errorf("snapshot %s: no node to fetch it from is named", m.GetName()), recv.Close())
	}
	first := f.job(m, recv, progress)
	err = first.run(ctx, sources)
	var mismatch *vault.MismatchError
	if !errors.As(err, &mismatch) {
		return first.fetched(), err
	}
	f.log.Warn("received file is wrong and is fetched again", "snapshot", m.GetName(), "came_from", first.nodes, "error", err)
	if recv, err = f.vault.Replace(ctx, m, progress); err != nil {
		return nil, err
	}
	again := f.job(m, recv, progress)
	again.wire = first.wire
	err = again.run(ctx, sources[len(sources)-1:])
	if errors.As(err, &mismatch) {
		err = &WrongFileError{Name: m.GetName(), Nodes: again.nodes, Before: first.nodes, Err: mismatch}
	}
	return again.fetched(), err
}

// receiver returns where the file goes, nil if a good copy is here.
func (f *Fetcher) receiver(ctx context.Context, m *requorumv1.Manifest, progress func(done, total int64)) (*vault.Receiver, error) {
	recv, err := f.vault.Resume(ctx, m, progress)
	var conflict *vault.ConflictError
	if !errors.Is(err, vault.ErrExists) || errors.As(err, &conflict) {
		return recv, err
	}
	found := f.vault.Hash(ctx, m, progress)
	switch found.GetState() {
	case requorumv1.CopyState_COPY_STATE_GOOD:
		return nil, f.vault.WriteManifest(m)
	case requorumv1.CopyState_COPY_STATE_UNKNOWN:
		return nil, context.Cause(ctx)
	}
	f.log.Warn("copy on this node is not good and is fetched again", "snapshot", m.GetName(), "state", found.GetState(), "detail", found.GetDetail())
	return f.vault.Replace(ctx, m, progress)
}
