package olddata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// position is a place in the raft log.
type position struct{ index, term uint64 }

// extent is how far a log goes.
type extent struct {
	last       position
	cluster    uint64 // ID of the cluster that the log is of
	lastChange uint64 // index of the last entry that changes data; perhaps of one that another leader has replaced
}

// logEnd returns how far the log in dir goes.
func logEnd(ctx context.Context, dir string) (end extent, err error) {
	return end, eachRecord(ctx, dir, func(rec *walpb.Record) error {
		switch rec.GetType() {
		case wal.EntryType: // one that comes again with a lower index replaces what came after it
			e := wal.MustUnmarshalEntry(rec.GetData())
			end.last = position{e.GetIndex(), e.GetTerm()}
			changes, err := changesData(e)
			if changes || err != nil { // what is not known may change something
				end.lastChange = max(end.lastChange, e.GetIndex())
			}
		case wal.MetadataType:
			var m pb.Metadata
			if err := proto.Unmarshal(rec.GetData(), &m); err != nil {
				return err
			}
			end.cluster = m.GetClusterID()
		case wal.SnapshotType:
			var s walpb.Snapshot
			if err := proto.Unmarshal(rec.GetData(), &s); err != nil {
				return err
			}
			if s.GetIndex() > end.last.index {
				end.last = position{s.GetIndex(), s.GetTerm()}
			}
		}
		return nil
	})
}

// eachEntry calls f with every entry of the log after index, in order. Entries that another leader has replaced
// are left out. It fails if there is a gap.
func eachEntry(ctx context.Context, dir string, after uint64, f func(*raftpb.Entry) error) error {
	terms, err := finalTerms(ctx, dir, after)
	if err != nil {
		return err
	}
	next := after + 1
	err = eachRecord(ctx, dir, func(rec *walpb.Record) error {
		if rec.GetType() != wal.EntryType {
			return nil
		}
		e := wal.MustUnmarshalEntry(rec.GetData())
		if e.GetIndex() != next || terms[next] != e.GetTerm() {
			return nil
		}
		next++
		return f(e)
	})
	if err == nil && len(terms) > 0 && terms[next] != 0 {
		err = fmt.Errorf("the log in %s has no entry %d, but later ones", dir, next)
	}
	return err
}

// finalTerms returns the term of each entry after index that the log holds in the end.
func finalTerms(ctx context.Context, dir string, after uint64) (map[uint64]uint64, error) {
	terms := map[uint64]uint64{}
	last := after
	err := eachRecord(ctx, dir, func(rec *walpb.Record) error {
		if rec.GetType() != wal.EntryType {
			return nil
		}
		e := wal.MustUnmarshalEntry(rec.GetData())
		for i := max(e.GetIndex(), after+1); i <= last; i++ {
			delete(terms, i)
		}
		if e.GetIndex() > after {
			terms[e.GetIndex()] = e.GetTerm()
		}
		last = max(e.GetIndex(), after)
		return nil
	})
	for i := after + 1; i <= last; i++ {
		if terms[i] == 0 {
			return nil, errors.Join(err, fmt.Errorf("the log in %s has no entry %d, but later ones", dir, i))
		}
	}
	return terms, err
}

// eachRecord calls f with every record of the log in dir. What follows a record that was not written completely at
// the end of the last segment is nothing: nobody was told that it was written.
func eachRecord(ctx context.Context, dir string, f func(*walpb.Record) error) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.wal")) // sorted; named by ascending numbers
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return fmt.Errorf("%s holds no log", dir)
	}
	for i, path := range paths {
		torn, err := decodeSegment(ctx, path, f)
		if err == nil && torn && i < len(paths)-1 {
			err = errors.New("a record is cut off, and there is a later segment")
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	return nil
}

// decodeSegment calls f with every record of one file. torn tells that the last one is not complete.
func decodeSegment(ctx context.Context, path string, f func(*walpb.Record) error) (torn bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	d := wal.NewDecoder(fileutil.NewFileReader(file))
	for n, rec := 0, new(walpb.Record); ; n++ {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		err := d.Decode(rec)
		switch {
		case n == 0 && err != nil: // every segment begins with a checksum
			return false, errors.New("it is no log of etcd")
		case errors.Is(err, io.EOF):
			return false, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return true, nil
		case err != nil:
			return false, err
		case rec.GetType() == wal.CrcType:
			d.UpdateCRC(rec.GetCrc())
			continue
		}
		if err := f(rec); err != nil {
			return false, err
		}
	}
}
