//go:build faultinject

package simulated_test

import (
	"context"
	"io"
	"time"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// old is the data that restores have put into quarantine. As on a machine that was killed, the database lacks the
// last entry that the raft log has.
type old struct{ *mounted }

func (o old) data(restoreID string) (found *data, err error) {
	err = o.access(func(d *disk) error {
		if q := d.quarantine[restoreID]; q != nil {
			found = q.data
		}
		return nil
	})
	return found, err
}

func (o old) Inspect(ctx context.Context, restoreID string) (*agentv1.OldData, error) {
	if err := o.p.work(ctx, 50*time.Millisecond); err != nil {
		return nil, err
	}
	found, err := o.data(restoreID)
	if found == nil || err != nil {
		return &agentv1.OldData{Problem: "there is none"}, err
	}
	return &agentv1.OldData{
		Readable: true, LastIndex: found.db.index, LastTerm: 2, LastChange: found.db.changed, AppliedIndex: found.db.flushed().index,
	}, nil
}

func (o old) Save(ctx context.Context, spec *agentv1.SaveOld, w io.Writer, tick func(done, total int64)) error {
	found, err := o.data(spec.GetRestoreId())
	if err != nil {
		return err
	}
	db := found.db
	if !spec.GetReplay() {
		db = db.flushed()
	}
	content := o.w.files.encode(db)
	for half := range 2 {
		if err := o.p.work(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		tick(int64(half), 2)
		if _, err := w.Write(content[half*len(content)/2 : (half+1)*len(content)/2]); err != nil {
			return err
		}
	}
	return nil
}

// flushed is what of a member's data its database file holds.
func (d *database) flushed() *database {
	if d.before != nil && d.before.cluster == d.cluster {
		return d.before
	}
	return d
}
