// Package olddata reads the data of a stopped member that a restore has put into quarantine: how far it goes, and
// all of it as a snapshot.
//
// What clients were told is written is in the raft log of a quorum, and sooner or later in the members' databases.
// A member commits its database about ten times a second, and when it is stopped; one that was killed has a log
// that goes further than its database. A snapshot of such data takes the rest of the log into account. It is
// replayed on a copy, by etcd's own code, in a process of its own: that code answers a damaged file by ending the
// process. Nothing that is in quarantine is written to.
package olddata

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/go-hclog"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/durable"
)

// Reader reads what restores of a node's member have put aside.
type Reader struct {
	Runtime runtime.Runtime
	Log     hclog.Logger
}

// Inspect tells how far the old data of a restore goes. Data that is not there or cannot be read is told as such.
func (r *Reader) Inspect(ctx context.Context, restoreID string) (*agentv1.OldData, error) {
	d, err := r.open(ctx, restoreID)
	if err != nil {
		return nil, err
	}
	old, err := d.Old()
	if err != nil {
		return &agentv1.OldData{Problem: err.Error()}, nil
	}
	found := &agentv1.OldData{Readable: true}
	if found.AppliedIndex, err = applied(old.DB()); err != nil {
		return &agentv1.OldData{Problem: err.Error()}, nil
	}
	end, err := logEnd(ctx, old.WAL)
	if err != nil {
		return &agentv1.OldData{Problem: err.Error()}, nil
	}
	found.ClusterId = strconv.FormatUint(end.cluster, 16)
	found.LastIndex, found.LastTerm, found.LastChange = end.last.index, end.last.term, end.lastChange
	return found, nil
}

// Save writes a snapshot of a restore's old data to w, as etcd would stream it. tick is told of progress, in
// bytes written. With replay it needs as much free space beside the data directory as the old data takes.
func (r *Reader) Save(ctx context.Context, spec *agentv1.SaveOld, w io.Writer, tick func(done, total int64)) (err error) {
	d, err := r.open(ctx, spec.GetRestoreId())
	if err != nil {
		return err
	}
	old, err := d.Old()
	if err != nil {
		return err
	}
	db := old.DB()
	if _, err := applied(db); err != nil {
		return err
	}
	if spec.GetReplay() {
		scratch := d.Scratch()
		defer func() { err = errors.Join(err, durable.RemoveAll(scratch)) }()
		if db, err = r.replay(ctx, old, scratch, tick); err != nil {
			return err
		}
	}
	return stream(ctx, db, w, tick)
}

func (r *Reader) open(ctx context.Context, restoreID string) (*datadir.Dirs, error) {
	conf, err := r.Runtime.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	return datadir.Open(conf, restoreID)
}

// applied returns the raft index of the last change that a database holds.
func applied(db string) (index uint64, err error) {
	return index, view(db, func(tx *bolt.Tx) error {
		meta := tx.Bucket(schema.Meta.Name())
		if meta == nil {
			return fmt.Errorf("%s holds no data of etcd", db)
		}
		v := meta.Get(schema.MetaConsistentIndexKeyName)
		if len(v) != 8 {
			return fmt.Errorf("%s does not tell how far it goes", db)
		}
		index = binary.BigEndian.Uint64(v)
		return nil
	})
}

// size returns how many bytes of the old data a replay copies.
func size(old datadir.Old) (total int64, err error) {
	for _, dir := range []string{filepath.Dir(old.DB()), old.WAL} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return 0, err
			}
			total += info.Size()
		}
	}
	return total, nil
}
