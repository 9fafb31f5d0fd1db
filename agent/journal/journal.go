// Package journal keeps what an agent must not forget: the epoch it obeys, the generation of its data,
// the tasks it has done and the old data that it keeps.
package journal

import (
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
)

const (
	formatVersion = 1
	keptTasks     = 512 // answers of older tasks are forgotten
)

var (
	stateBucket      = []byte("state")
	tasksBucket      = []byte("tasks") // by task ID
	orderBucket      = []byte("order") // task IDs by sequence number, the oldest first
	quarantineBucket = []byte("quarantines")
	finishedBucket   = []byte("finished") // IDs of restores that have ended on this node, all of them
	stateKey         = []byte("agent")
	restoredKey      = []byte("restored")
)

// prepare makes what a new journal lacks and refuses one of a newer format.
func (j *Journal) prepare() error {
	return j.update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{stateBucket, tasksBucket, orderBucket, quarantineBucket, finishedBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		state, err := j.stateOf(tx)
		if err != nil {
			return err
		}
		if state.GetFormatVersion() > formatVersion {
			return fmt.Errorf("journal %s was written by a newer requorum (format %d, this one knows %d); run that version again",
				j.path, state.GetFormatVersion(), formatVersion)
		}
		state.FormatVersion = formatVersion
		return put(tx, stateBucket, stateKey, state)
	})
}

func (j *Journal) stateOf(tx *bolt.Tx) (*journalv1.AgentRecord, error) {
	state := new(journalv1.AgentRecord)
	return state, j.decode(tx.Bucket(stateBucket).Get(stateKey), state)
}

func (j *Journal) decode(data []byte, into proto.Message) error {
	if err := proto.Unmarshal(data, into); err != nil {
		return &DamagedError{Path: j.path, Reason: err.Error()}
	}
	return nil
}

// State returns the agent's own state.
func (j *Journal) State() (*journalv1.AgentRecord, error) {
	var state *journalv1.AgentRecord
	err := j.view(func(tx *bolt.Tx) (err error) {
		state, err = j.stateOf(tx)
		return err
	})
	return state, err
}

// Update changes the agent's own state. When change fails, nothing is changed.
func (j *Journal) Update(change func(*journalv1.AgentRecord) error) error {
	return j.update(func(tx *bolt.Tx) error {
		state, err := j.stateOf(tx)
		if err != nil {
			return err
		}
		if err := change(state); err != nil {
			return err
		}
		return put(tx, stateBucket, stateKey, state)
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
	return j.update(func(tx *bolt.Tx) error {
		if r == nil {
			return tx.Bucket(stateBucket).Delete(restoredKey)
		}
		data, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return tx.Bucket(stateBucket).Put(restoredKey, data)
	})
}

// Restored returns what SetRestored noted, nil if there is nothing.
func (j *Journal) Restored() (*Restored, error) {
	var r *Restored
	err := j.view(func(tx *bolt.Tx) error {
		data := tx.Bucket(stateBucket).Get(restoredKey)
		if data == nil {
			return nil
		}
		r = new(Restored)
		return json.Unmarshal(data, r)
	})
	return r, err
}

// Finished tells whether a restore has ended on this node.
func (j *Journal) Finished(restoreID string) (bool, error) {
	var finished bool
	err := j.view(func(tx *bolt.Tx) error {
		finished = tx.Bucket(finishedBucket).Get([]byte(restoreID)) != nil
		return nil
	})
	return finished, err
}

// SetFinished notes for good that a restore has ended on this node.
func (j *Journal) SetFinished(restoreID string) error {
	return j.update(func(tx *bolt.Tx) error { return tx.Bucket(finishedBucket).Put([]byte(restoreID), []byte{1}) })
}

// Task returns the record of a task, nil if there is none.
func (j *Journal) Task(id string) (*journalv1.TaskRecord, error) {
	var rec *journalv1.TaskRecord
	err := j.view(func(tx *bolt.Tx) error {
		data := tx.Bucket(tasksBucket).Get([]byte(id))
		if data == nil {
			return nil
		}
		rec = new(journalv1.TaskRecord)
		return j.decode(data, rec)
	})
	return rec, err
}

// PutTask writes the record of a task and forgets the oldest ones.
func (j *Journal) PutTask(rec *journalv1.TaskRecord) error {
	return j.update(func(tx *bolt.Tx) error {
		id := []byte(rec.GetTask().GetId())
		tasks, order := tx.Bucket(tasksBucket), tx.Bucket(orderBucket)
		if tasks.Get(id) == nil {
			seq, err := order.NextSequence()
			if err != nil {
				return err
			}
			if err := order.Put(fmt.Appendf(nil, "%020d", seq), id); err != nil {
				return err
			}
			if err := forgetBefore(tasks, order, seq); err != nil {
				return err
			}
		}
		return put(tx, tasksBucket, id, rec)
	})
}

func forgetBefore(tasks, order *bolt.Bucket, seq uint64) error {
	if seq <= keptTasks {
		return nil
	}
	limit := fmt.Sprintf("%020d", seq-keptTasks)
	c := order.Cursor()
	for k, id := c.First(); k != nil && string(k) <= limit; k, id = c.First() {
		if err := tasks.Delete(id); err != nil {
			return err
		}
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// Quarantines returns the old data that is kept.
func (j *Journal) Quarantines() ([]*journalv1.QuarantineRecord, error) {
	var all []*journalv1.QuarantineRecord
	err := j.view(func(tx *bolt.Tx) error {
		return tx.Bucket(quarantineBucket).ForEach(func(_, data []byte) error {
			rec := new(journalv1.QuarantineRecord)
			all = append(all, rec)
			return j.decode(data, rec)
		})
	})
	return all, err
}

// PutQuarantine notes old data that is kept.
func (j *Journal) PutQuarantine(rec *journalv1.QuarantineRecord) error {
	return j.update(func(tx *bolt.Tx) error { return put(tx, quarantineBucket, []byte(rec.GetRestoreId()), rec) })
}

// DeleteQuarantine forgets old data that was removed.
func (j *Journal) DeleteQuarantine(restoreID string) error {
	return j.update(func(tx *bolt.Tx) error { return tx.Bucket(quarantineBucket).Delete([]byte(restoreID)) })
}

func put(tx *bolt.Tx, bucket, key []byte, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put(key, data)
}
