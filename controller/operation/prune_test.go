package operation_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/store"
)

// journaled writes an operation that has ended into the journal. IDs are in the order of time.
func (w *world) journaled(id string, change func(*journalv1.OperationRecord)) {
	w.Helper()
	rec := record("request-" + id)
	rec.Operation.Id, rec.Operation.State = id, success
	if change != nil {
		change(rec)
	}
	err := w.journal.Update(func(tx store.Tx) error {
		return errors.Join(tx.Put(store.Requests, rec.GetOperation().GetRequestId(), []byte(id)), store.Save(tx, store.Operations, id, rec))
	})
	if err != nil {
		w.Fatal(err)
	}
}

func keeps(until time.Time) func(*journalv1.OperationRecord) {
	return func(rec *journalv1.OperationRecord) {
		rec.State = &journalv1.OperationRecord_Restore{Restore: &journalv1.RestoreJob{QuarantineExpires: timestamppb.New(until)}}
	}
}

// keepsForGood is a restore whose old data is for a person to remove.
func keepsForGood(rec *journalv1.OperationRecord) {
	rec.State = &journalv1.OperationRecord_Restore{Restore: &journalv1.RestoreJob{}}
	rec.Operation.Quarantines = []*requorumv1.Quarantine{{Node: "etcd-1", Paths: []string{"/var/lib/etcd.quarantine-1"}}}
}

func TestOldestOperationsAreForgottenWithTheirRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		w.journaled("0-keeps-old-data", keeps(time.Now().Add(time.Hour)))
		w.journaled("0-keeps-old-data-for-good", keepsForGood)
		w.journaled("0-kept-old-data", keeps(time.Now().Add(-time.Hour)))
		for i := range operation.Kept {
			w.journaled(fmt.Sprintf("0-z%06d", i), nil)
		}
		w.wait(w.begin()) // one more: the two oldest and the first of the others are too many
		for id, there := range map[string]bool{"0-keeps-old-data": true, "0-keeps-old-data-for-good": true, "0-kept-old-data": false, "0-z000000": false, "0-z000001": true} {
			_, err := w.engine.Get(id)
			if (err == nil) != there {
				t.Errorf("%s: %v", id, err)
			}
			known, err := w.engine.Repeated("request-"+id, kind, "prod", "")
			if err != nil || (known != nil) != there {
				t.Errorf("request of %s: %v, %v", id, known, err)
			}
		}
	})
}

func TestRequestIDOfAnotherRequestIsRefused(t *testing.T) {
	digest := func(force bool) string {
		d, err := operation.Digest(&requorumv1.DeleteSnapshotRequest{Name: "s", Force: force})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, effect("stage"))
		defer w.stop()
		first := record("r1")
		first.RequestDigest = digest(false)
		op, err := w.engine.Start(first, nil)
		if err != nil {
			t.Fatal(err)
		}
		if known, err := w.engine.Repeated("r1", kind, "prod", digest(false)); err != nil || known.GetId() != op.GetId() {
			t.Errorf("the same request: %v, %v", known, err)
		}
		var reused *operation.RequestReusedError
		if _, err := w.engine.Repeated("r1", kind, "prod", digest(true)); !errors.As(err, &reused) {
			t.Errorf("with another flag: %v", err)
		}
		other := record("r1")
		other.RequestDigest = digest(true)
		if _, err := w.engine.Start(other, nil); !errors.As(err, &reused) {
			t.Errorf("started with another flag: %v", err)
		}
	})
}
