package operation

import (
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/store"
)

// Kept is how many operations the journal remembers, the newest ones. Their request IDs are forgotten with them.
const Kept = 1000

// prune forgets the oldest operations, so that journal and start do not grow for ever. One that is under way stays,
// and so does a restore as long as old data of it is kept on the nodes: it says where.
func prune(tx store.Tx) error {
	var ids []string
	err := tx.Each(store.Operations, "", func(id string, _ []byte) error { // in the order of time
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids[:max(0, len(ids)-Kept)] {
		if err := forget(tx, id); err != nil {
			return err
		}
	}
	return nil
}

func forget(tx store.Tx, id string) error {
	rec := new(journalv1.OperationRecord)
	if err := store.Load(tx, store.Operations, id, rec); err != nil {
		return fmt.Errorf("operation %s: %w", id, err)
	}
	if active(rec.GetOperation()) || keepsOldData(rec) {
		return nil
	}
	if request := rec.GetOperation().GetRequestId(); request != "" {
		if err := tx.Delete(store.Requests, request); err != nil {
			return err
		}
	}
	return tx.Delete(store.Operations, id)
}

// keepsOldData tells whether old data of a restore is kept on the nodes. Without an end of its retention it is for a
// person to remove.
func keepsOldData(rec *journalv1.OperationRecord) bool {
	if expires := rec.GetRestore().GetQuarantineExpires(); expires != nil {
		return expires.AsTime().After(time.Now())
	}
	return len(rec.GetOperation().GetQuarantines()) > 0
}

// Digest identifies what a request asks for.
func Digest(request proto.Message) (string, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		return "", fmt.Errorf("digest of a request: %w", err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data)), nil
}

// atEnd is what happens in the transaction that ends the operation. It refuses, with errCancelled, that one succeeds
// which has to be put back.
func (r *Run) atEnd(tx store.Tx, rec *journalv1.OperationRecord) error {
	if op := rec.GetOperation(); op.GetState() == requorumv1.OperationState_OPERATION_STATE_SUCCEEDED && cancelled(op) {
		return errCancelled
	}
	if r.end != nil {
		if err := r.end(tx, rec); err != nil {
			return err
		}
	}
	if r.audit != nil {
		if err := r.audit.Ended(tx, rec.GetOperation()); err != nil {
			return err
		}
	}
	return prune(tx)
}
