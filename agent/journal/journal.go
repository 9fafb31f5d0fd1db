// Package journal keeps what an agent must not forget: the epoch it obeys, the generation of its data,
// the tasks it has done and the old data that it keeps. It relies on package boltfile to notice damage.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/internal/boltfile"
)

const (
	formatVersion = 1
	keptTasks     = 512  // answers of older tasks are forgotten
	keptFinished  = 1000 // no controller comes back with an operation that is older
)

const (
	stateBucket      = "state"
	tasksBucket      = "tasks" // by task ID
	orderBucket      = "order" // task IDs by sequence number, the oldest first
	quarantineBucket = "quarantines"
	finishedBucket   = "finished" // IDs of restores that have ended on this node

	stateKey    = "agent"
	restoredKey = "restored"
	sequenceKey = "sequence" // of the newest task
)

// advice is the way out of a damaged journal.
const advice = "look for disk errors, move the file away and enrol the node again with a fresh join token, " +
	"once no operation runs on its cluster (docs/troubleshooting.md); etcd goes on meanwhile"

// Journal is an agent's journal. Its methods are safe for concurrent use; what they write is durable
// when they return. They fail with a *DamagedError where the file cannot be read.
type Journal struct {
	path string
	file *boltfile.File
}

// DamagedError says that a journal's file cannot be used.
type DamagedError = boltfile.DamagedError

// Open opens the journal at path, making it if needed. It fails with a *DamagedError if the file is not
// exactly what was written to it.
func Open(path string) (*Journal, error) {
	file, err := boltfile.Open(path, advice, stateBucket, tasksBucket, orderBucket, quarantineBucket, finishedBucket)
	switch {
	case errors.Is(err, boltfile.ErrLocked):
		return nil, fmt.Errorf("journal %s: another agent uses it; stop that one first", path)
	case err != nil:
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &Journal{path: path, file: file}
	if err := j.Update(j.checkFormat); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// checkFormat refuses a journal of a newer format.
func (j *Journal) checkFormat(state *journalv1.AgentRecord) error {
	if state.GetFormatVersion() > formatVersion {
		return fmt.Errorf("journal %s was written by a newer requorum (format %d, this one knows %d); run that version again",
			j.path, state.GetFormatVersion(), formatVersion)
	}
	state.FormatVersion = formatVersion
	return nil
}

// Close closes the journal.
func (j *Journal) Close() error { return j.file.Close() }

// load reads a record into m. found is false where there is none.
func (j *Journal) load(tx *boltfile.Tx, bucket, key string, m proto.Message) (found bool, err error) {
	data, found, err := tx.Get(bucket, key)
	if err != nil || !found {
		return false, err
	}
	return true, j.decode(data, m)
}

func (j *Journal) decode(data []byte, into proto.Message) error {
	if err := proto.Unmarshal(data, into); err != nil {
		return &DamagedError{Path: j.path, Reason: err.Error(), Advice: advice}
	}
	return nil
}

func save(tx *boltfile.Tx, bucket, key string, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return tx.Put(bucket, key, data)
}

// State returns the agent's own state.
func (j *Journal) State() (*journalv1.AgentRecord, error) {
	state := new(journalv1.AgentRecord)
	err := j.file.View(func(tx *boltfile.Tx) error {
		_, err := j.load(tx, stateBucket, stateKey, state)
		return err
	})
	return state, err
}

// Update changes the agent's own state. When change fails, nothing is changed.
func (j *Journal) Update(change func(*journalv1.AgentRecord) error) error {
	return j.file.Update(func(tx *boltfile.Tx) error {
		state := new(journalv1.AgentRecord)
		if _, err := j.load(tx, stateBucket, stateKey, state); err != nil {
			return err
		}
		if err := change(state); err != nil {
			return err
		}
		return save(tx, stateBucket, stateKey, state)
	})
}

// Restored is restored data that is live while its restore has not ended on this node.
type Restored struct {
	RestoreID string `json:"restore_id"`
	// ClusterGeneration is the cluster's generation when the data was put in place.
	ClusterGeneration uint64 `json:"cluster_generation"`
}

// SetRestored notes restored data that is live, or with nil that there is none of which the restore has
// not ended.
func (j *Journal) SetRestored(r *Restored) error {
	return j.file.Update(func(tx *boltfile.Tx) error {
		if r == nil {
			return tx.Delete(stateBucket, restoredKey)
		}
		data, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return tx.Put(stateBucket, restoredKey, data)
	})
}

// Restored returns what SetRestored noted, nil if there is nothing.
func (j *Journal) Restored() (*Restored, error) {
	var r *Restored
	err := j.file.View(func(tx *boltfile.Tx) error {
		data, found, err := tx.Get(stateBucket, restoredKey)
		if err != nil || !found {
			return err
		}
		r = new(Restored)
		return json.Unmarshal(data, r)
	})
	return r, err
}

// Finished tells whether a restore has ended on this node. It knows the newest thousand that have.
func (j *Journal) Finished(restoreID string) (finished bool, err error) {
	err = j.file.View(func(tx *boltfile.Tx) error {
		_, finished, err = tx.Get(finishedBucket, restoreID)
		return err
	})
	return finished, err
}

// SetFinished notes that a restore has ended on this node, and forgets those that began first once there are more than a
// thousand.
func (j *Journal) SetFinished(restoreID string) error {
	return j.file.Update(func(tx *boltfile.Tx) error {
		if err := tx.Put(finishedBucket, restoreID, []byte{1}); err != nil {
			return err
		}
		return forgetFinished(tx)
	})
}

// forgetFinished keeps the newest: IDs are in the order in which operations began.
func forgetFinished(tx *boltfile.Tx) error {
	var ids []string
	err := tx.Each(finishedBucket, "", func(id string, _ []byte) error {
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids[:max(0, len(ids)-keptFinished)] {
		if err := tx.Delete(finishedBucket, id); err != nil {
			return err
		}
	}
	return nil
}

// Task returns the record of a task, nil if there is none.
func (j *Journal) Task(id string) (*journalv1.TaskRecord, error) {
	rec, found := new(journalv1.TaskRecord), false
	err := j.file.View(func(tx *boltfile.Tx) (err error) {
		found, err = j.load(tx, tasksBucket, id, rec)
		return err
	})
	if err != nil || !found {
		return nil, err
	}
	return rec, nil
}

// PutTask writes the record of a task and forgets the oldest ones.
func (j *Journal) PutTask(rec *journalv1.TaskRecord) error {
	return j.file.Update(func(tx *boltfile.Tx) error {
		id := rec.GetTask().GetId()
		_, known, err := tx.Get(tasksBucket, id)
		if err != nil {
			return err
		}
		if !known {
			if err := enqueue(tx, id); err != nil {
				return err
			}
		}
		return save(tx, tasksBucket, id, rec)
	})
}

// enqueue notes a task as the newest one and forgets those that are too old.
func enqueue(tx *boltfile.Tx, id string) error {
	seq, err := nextSequence(tx)
	if err != nil {
		return err
	}
	if err := tx.Put(orderBucket, orderKey(seq), []byte(id)); err != nil {
		return err
	}
	if seq <= keptTasks {
		return nil
	}
	return forgetUpTo(tx, orderKey(seq-keptTasks))
}

func nextSequence(tx *boltfile.Tx) (uint64, error) {
	last, found, err := tx.Get(stateBucket, sequenceKey)
	if err != nil {
		return 0, err
	}
	seq := uint64(0)
	if found {
		if seq, err = strconv.ParseUint(string(last), 10, 64); err != nil {
			return 0, fmt.Errorf("number of the newest task: %w", err)
		}
	}
	seq++
	return seq, tx.Put(stateBucket, sequenceKey, strconv.AppendUint(nil, seq, 10))
}

func orderKey(seq uint64) string { return fmt.Sprintf("%020d", seq) }

var errEnough = errors.New("enough")

func forgetUpTo(tx *boltfile.Tx, limit string) error {
	err := tx.Each(orderBucket, "", func(key string, id []byte) error {
		if key > limit {
			return errEnough
		}
		return errors.Join(tx.Delete(tasksBucket, string(id)), tx.Delete(orderBucket, key))
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// Quarantines returns the old data that is kept.
func (j *Journal) Quarantines() ([]*journalv1.QuarantineRecord, error) {
	var all []*journalv1.QuarantineRecord
	err := j.file.View(func(tx *boltfile.Tx) error {
		return tx.Each(quarantineBucket, "", func(_ string, data []byte) error {
			rec := new(journalv1.QuarantineRecord)
			all = append(all, rec)
			return j.decode(data, rec)
		})
	})
	return all, err
}

// PutQuarantine notes old data that is kept.
func (j *Journal) PutQuarantine(rec *journalv1.QuarantineRecord) error {
	return j.file.Update(func(tx *boltfile.Tx) error { return save(tx, quarantineBucket, rec.GetRestoreId(), rec) })
}

// DeleteQuarantine forgets old data that was removed.
func (j *Journal) DeleteQuarantine(restoreID string) error {
	return j.file.Update(func(tx *boltfile.Tx) error { return tx.Delete(quarantineBucket, restoreID) })
}
