// Package objectstore keeps objects under keys: in a bucket (package s3) or in a directory (package dir).
//
// Store's comments are the contract. Package objectstoretest is a suite that every back end passes, and Retry adds
// patience to any of them. No back end has a time limit on a whole transfer: an object may be of any size, and a link
// as slow as it likes, as long as something moves.
package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// Store keeps objects. Its methods are safe for concurrent use. Keys are as CheckKey allows them.
//
// A failure is an *Error, whose Kind tells what a caller acts on, or the cause of ctx's end.
type Store interface {
	// Put calls write and stores what it writes under key. The object appears whole once Put returns nil, in place of
	// an older one; after a failure of any kind there is the older one, or none. What write fails with is returned as
	// a *SourceError. write may be called again by a Store that tries again, and gets a writer of its own each time.
	// Memory does not depend on the object's size.
	Put(ctx context.Context, key string, write func(io.Writer) error) error
	// Get returns the object's bytes from offset on; at or beyond its end there are none. The caller closes the reader.
	// Reading ends in an error, not in io.EOF, if the object's end was not reached.
	Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error)
	// Stat tells what is stored under key.
	Stat(ctx context.Context, key string) (Info, error)
	// List goes through the objects whose keys begin with prefix, in the order of keys. An object that is not complete
	// is not one. After an error there is nothing more.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes the object, and what a Put of that key which died has left. It is no error if there is nothing.
	Delete(ctx context.Context, key string) error
}

// Info describes an object.
type Info struct {
	Key      string
	Size     int64 // in bytes
	Modified time.Time
}

// What a failure is, where a caller acts on the difference.
var (
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("no such object")
	// ErrNoStore says that the bucket or directory itself is not there.
	ErrNoStore = errors.New("the store is not there")
	// ErrDenied says that the credentials are wrong, or do not allow it.
	ErrDenied = errors.New("access denied")
	// ErrInvalid says that the store takes the request for wrong: a setting is.
	ErrInvalid = errors.New("the store refuses the request")
)

// Error is a failure of a store.
type Error struct {
	Store string // names the store, as "bucket backups at s3.example.org"
	Doing string // what failed, as "read etcd/prod/a.json"
	Kind  error  // one of the errors above; nil for what may go away by itself
	Cause error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s: %v", e.Store, e.Doing, e.Cause)
}

// Unwrap makes an Error what it is, and what caused it.
func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Cause}
	}
	return []error{e.Kind, e.Cause}
}

// SourceError is a failure of what was to be stored, not of the store.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return e.Err.Error() }

// Unwrap returns what write failed with.
func (e *SourceError) Unwrap() error { return e.Err }

// Permanent tells whether trying again is of no use.
func Permanent(err error) bool {
	if _, source := errors.AsType[*SourceError](err); source {
		return true
	}
	for _, kind := range []error{ErrNotFound, ErrNoStore, ErrDenied, ErrInvalid} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

const maxKey = 900 // S3 takes 1024 bytes

// CheckKey returns an error unless every store takes key: parts of A-Z a-z 0-9 . _ - joined by single slashes, none of
// which begins with a dot.
func CheckKey(key string) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("key %q has %d characters; 1 to %d are allowed", key, len(key), maxKey)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' || strings.IndexFunc(part, notAllowed) >= 0 {
			return fmt.Errorf("key %q: its parts are of A-Z a-z 0-9 . _ -, joined by single slashes, and do not begin with a dot", key)
		}
	}
	return nil
}

func notAllowed(r rune) bool {
	switch {
	case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9':
		return false
	}
	return r != '.' && r != '_' && r != '-'
}
