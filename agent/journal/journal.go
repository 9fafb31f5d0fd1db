// Package journal keeps what an agent must not forget: the epoch it obeys, the generation of its data,
// the tasks it has done and the old data that it keeps.
package journal

import (
	"errors"
	"fmt"
	"time"

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
	stateKey         = []byte("agent")
)

// Journal is an agent's journal. Its methods are safe for concurrent use; what they write is durable
// when they return.
type Journal struct{ db *bolt.DB }

// Open opens the journal at path, making it if needed.
func Open(path string) (*Journal, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 2 * time.Second})
	if errors.Is(err, bolt.ErrTimeout) { //nolint:staticcheck // bbolt moved the name, the value is the same
		return nil, fmt.Errorf("journal %s: another agent uses it; stop that one first", path)
	}
	if err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
	}
	j := &Journal{db: db}
	if err := j.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("journal %s: %w", path, err), db.Close())
	}
	return j, nil
}

func (j *Journal) prepare() error {
	return j.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{stateBucket, tasksBucket, orderBucket, quarantineBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		state := new(journalv1.AgentRecord)
		if err := proto.Unmarshal(tx.Bucket(stateBucket).Get(stateKey), state); err != nil {
			return err
		}
		if state.GetFormatVersion() > formatVersion {
			return fmt.Errorf("written by a newer requorum (format %d, this one knows %d)", state.GetFormatVersion(), formatVersion)
		}
		state.FormatVersion = formatVersion
		return put(tx, stateBucket, stateKey, state)
	})
}

// Close closes the journal.
func (j *Journal) Close() error { return j.db.Close() }

// State returns the agent's own state.
func (j *Journal) State() (*journalv1.AgentRecord, error) {
	state := new(journalv1.AgentRecord)
	err := j.db.View(func(tx *bolt.Tx) error { return proto.Unmarshal(tx.Bucket(stateBucket).Get(stateKey), state) })
	return state, err
}

// Update changes the agent's own state.
func (j *Journal) Update(change func(*journalv1.AgentRecord)) error {
	return j.db.Update(func(tx *bolt.Tx) error {
		state := new(journalv1.AgentRecord)
		if err := proto.Unmarshal(tx.Bucket(stateBucket).Get(stateKey), state); err != nil {
			return err
		}
		change(state)
		return put(tx, stateBucket, stateKey, state)
	})
}

// Task returns the record of a task, nil if there is none.
func (j *Journal) Task(id string) (*journalv1.TaskRecord, error) {
	var rec *journalv1.TaskRecord
	err := j.db.View(func(tx *bolt.Tx) error {
		data := tx.Bucket(tasksBucket).Get([]byte(id))
		if data == nil {
			return nil
		}
		rec = new(journalv1.TaskRecord)
		return proto.Unmarshal(data, rec)
	})
	return rec, err
}

// PutTask writes the record of a task and forgets the oldest ones.
func (j *Journal) PutTask(rec *journalv1.TaskRecord) error {
	return j.db.Update(func(tx *bolt.Tx) error {
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
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(quarantineBucket).ForEach(func(_, data []byte) error {
			rec := new(journalv1.QuarantineRecord)
			all = append(all, rec)
			return proto.Unmarshal(data, rec)
		})
	})
	return all, err
}

// PutQuarantine notes old data that is kept.
func (j *Journal) PutQuarantine(rec *journalv1.QuarantineRecord) error {
	return j.db.Update(func(tx *bolt.Tx) error { return put(tx, quarantineBucket, []byte(rec.GetRestoreId()), rec) })
}

// DeleteQuarantine forgets old data that was removed.
func (j *Journal) DeleteQuarantine(restoreID string) error {
	return j.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(quarantineBucket).Delete([]byte(restoreID)) })
}

func put(tx *bolt.Tx, bucket, key []byte, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put(key, data)
}
