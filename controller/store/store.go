// Package store is what the controller keeps its journal, catalog and records in: buckets of keys and
// values with transactions. Package bolt is the default; every implementation passes storetest.
package store

import (
	"errors"

	"google.golang.org/protobuf/proto"
)

// Bucket names a set of keys.
type Bucket string

// The buckets.
const (
	Controller Bucket = "controller" // one record: epoch and format
	Operations Bucket = "operations" // by operation ID
	Requests   Bucket = "requests"   // operation ID by request ID
	Clusters   Bucket = "clusters"   // by name
	Nodes      Bucket = "nodes"      // by cluster/node
	Snapshots  Bucket = "snapshots"  // by cluster/name
	Tokens     Bucket = "tokens"     // by token ID
	Operators  Bucket = "operators"  // certificate by serial number

	Schedules    Bucket = "schedules"    // by name
	ScheduleRuns Bucket = "scheduleruns" // by schedule/run ID
	Audit        Bucket = "audit"        // entry by its ULID
	Remotes      Bucket = "remotes"      // marker of a directory, as it is, by the remote's name
)

// Buckets lists every bucket.
var Buckets = []Bucket{Controller, Operations, Requests, Clusters, Nodes, Snapshots, Tokens, Operators, Schedules, ScheduleRuns, Audit, Remotes}

// ErrNotFound is returned by Get for a key that is not there.
var ErrNotFound = errors.New("not found")

// Store runs transactions. A transaction that returns an error leaves no trace. Update is durable
// when it returns.
type Store interface {
	View(func(Tx) error) error
	Update(func(Tx) error) error
	Close() error
}

// Tx reads and, within Update, writes. Values are valid until the transaction ends.
type Tx interface {
	Get(b Bucket, key string) ([]byte, error) // ErrNotFound
	Put(b Bucket, key string, value []byte) error
	Delete(b Bucket, key string) error
	// Each calls f for every key with the prefix, in the order of keys, until f returns an error.
	Each(b Bucket, prefix string, f func(key string, value []byte) error) error
	// Down calls f for every key before the one given, or for all where that is empty, the last key first,
	// until f returns an error.
	Down(b Bucket, before string, f func(key string, value []byte) error) error
}

// Load reads a protobuf record into m. It returns ErrNotFound where there is none.
func Load(tx Tx, b Bucket, key string, m proto.Message) error {
	data, err := tx.Get(b, key)
	if err != nil {
		return err
	}
	return proto.Unmarshal(data, m)
}

// Save writes m as a protobuf record.
func Save(tx Tx, b Bucket, key string, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return tx.Put(b, key, data)
}
