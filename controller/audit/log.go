// Package audit keeps who asked for what, and what came of it: every call that changes something or hands out secrets,
// before it is done and when it is answered, and the end of every operation.
//
// An entry is in the store and, as a line of JSON, in a file. A call is done only once its entry is in both, and is
// acknowledged only once its outcome is: where that cannot be written the call fails. Entries are never changed. The
// store forgets the oldest ones, by age and number; the file is put aside when it is large.
package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

// Options bound what is kept. The zero value of each but File stands for its default.
type Options struct {
	File         string           // path of the file
	MaxFileBytes int64            // when the file is put aside; 64 MiB
	MaxFiles     int              // files that are kept, the present one included; 10
	Keep         time.Duration    // how long the store keeps an entry; two years
	KeepEntries  int              // how many entries the store keeps; 100,000
	Now          func() time.Time // the clock; time.Now
}

// Defaults of the options.
const (
	DefaultMaxFileBytes = 64 << 20
	DefaultMaxFiles     = 10
	DefaultKeep         = 2 * 365 * 24 * time.Hour
	DefaultKeepEntries  = 100_000
)

const (
	pruneEvery  = time.Hour
	pruneAfter  = 1000 // entries
	nobody      = "nobody"
	idSeparator = " "
)

// Log is the audit log. Its methods are safe for concurrent use.
type Log struct {
	store   store.Store
	log     hclog.Logger
	options Options

	floor string       // the last entry that the file has from before; new ones come after it
	added atomic.Int64 // entries since the store was last pruned

	mu      sync.Mutex // of the file
	file    file
	written string // ID of the last entry that is in the file
}

// Open returns the log that is kept in s and in the file of the options. What an earlier controller could not write to
// the file any more is written now.
func Open(s store.Store, o Options, log hclog.Logger) (*Log, error) {
	o.complete()
	l := &Log{store: s, log: log, options: o, file: file{path: o.File, most: o.MaxFileBytes, files: o.MaxFiles}}
	last, err := l.file.last()
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if last == "" { // a new file begins with what comes now
		if last, err = l.newest(); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
	}
	l.floor, l.written = last, last
	if err := l.flush(); err != nil {
		return nil, err
	}
	return l, l.prune()
}

func (o *Options) complete() {
	if o.MaxFileBytes == 0 {
		o.MaxFileBytes = DefaultMaxFileBytes
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = DefaultMaxFiles
	}
	if o.Keep == 0 {
		o.Keep = DefaultKeep
	}
	if o.KeepEntries == 0 {
		o.KeepEntries = DefaultKeepEntries
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Run removes entries whose time is over, until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := l.prune(); err != nil {
				return err
			}
		}
	}
}

// add writes an entry, of which neither ID nor time is set, to the store and the file.
func (l *Log) add(e *requorumv1.AuditEntry) error {
	if err := l.store.Update(func(tx store.Tx) error { return l.put(tx, e) }); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	if err := l.flush(); err != nil {
		return err
	}
	if l.added.Add(1) < pruneAfter {
		return nil
	}
	return l.prune()
}

// put adds an entry within a transaction.
func (l *Log) put(tx store.Tx, e *requorumv1.AuditEntry) error {
	id, err := l.nextID(tx)
	if err != nil {
		return err
	}
	e.Id, e.Time, e.ByName = id, timestamppb.New(l.options.Now()), nameIn(e.GetBy())
	if e.GetEvent() == requorumv1.AuditEvent_AUDIT_EVENT_CALLED {
		e.Call = id
	}
	return store.Save(tx, store.Audit, id, e)
}

// nextID returns an ID that comes after all others, also when the clock was put back.
func (l *Log) nextID(tx store.Tx) (string, error) {
	newest, err := newest(tx)
	if err != nil {
		return "", err
	}
	id := ulid.MustNew(ulid.Timestamp(l.options.Now()), ulid.DefaultEntropy())
	if last, err := ulid.ParseStrict(max(newest, l.floor)); err == nil && id.Compare(last) <= 0 {
		if err := id.SetTime(last.Time() + 1); err != nil {
			return "", fmt.Errorf("name the audit entry: %w", err)
		}
	}
	return id.String(), nil
}

// errEnough ends a walk through the store.
var errEnough = errors.New("enough")

func newest(tx store.Tx) (id string, err error) {
	err = tx.Down(store.Audit, "", func(key string, _ []byte) error {
		id = key
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return id, err
}

func (l *Log) newest() (id string, err error) {
	err = l.store.View(func(tx store.Tx) error {
		id, err = newest(tx)
		return err
	})
	return id, err
}

// prune removes the entries that are too old, and the oldest where there are too many.
func (l *Log) prune() error {
	l.added.Store(0)
	before := ulid.Timestamp(l.options.Now().Add(-l.options.Keep))
	err := l.store.Update(func(tx store.Tx) error {
		var ids []string
		err := tx.Each(store.Audit, "", func(id string, _ []byte) error {
			ids = append(ids, id)
			return nil
		})
		if err != nil {
			return err
		}
		surplus := len(ids) - l.options.KeepEntries
		for i, id := range ids {
			parsed, err := ulid.ParseStrict(id)
			if i >= surplus && err == nil && parsed.Time() >= before {
				return nil
			}
			if err := tx.Delete(store.Audit, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove old entries of the audit log: %w", err)
	}
	return nil
}

// nameIn returns the name in an identity as people read it, as "alice" in "operator alice (admin)".
func nameIn(by string) string {
	kind, rest, found := strings.Cut(by, idSeparator)
	if !found || kind != "operator" && kind != "node" {
		return ""
	}
	name, _, _ := strings.Cut(rest, idSeparator)
	return name
}
