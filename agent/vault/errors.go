package vault

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
)

var (
	// ErrExists says that a complete copy of that name is there. Hash tells whether it is the right one.
	ErrExists = errors.New("a complete copy is already on this node")
	// ErrNotFound says that no complete copy of that name is there.
	ErrNotFound = errors.New("not on this node")
	// ErrBusy says that a copy of that name is being written.
	ErrBusy = errors.New("a copy of that name is being written on this node")
	// ErrInterrupted ends Readers of a file whose Receiver was closed before the file was complete. The
	// bytes are kept, and receiving may go on.
	ErrInterrupted = errors.New("receiving was interrupted")
	// ErrDiscarded ends Readers of a file that was thrown away; its bytes may have been wrong.
	ErrDiscarded = errors.New("the file being received was discarded")
	// ErrEnded says that a Writer or Receiver was used after its end.
	ErrEnded = errors.New("the file is no longer being written")
)

// MismatchError says that a file is not what its manifest says. Got and Want hold size, MD5 and SHA-256.
type MismatchError struct {
	Name      string
	Want, Got Sums
}

// Sums are what identifies a file: its size in bytes and its digests in lower-case hexadecimal.
type Sums struct {
	Size        int64
	MD5, SHA256 string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("snapshot %s is not the file of its manifest: %s", e.Name, difference(e.Want, e.Got))
}

// difference says in which values two files differ, "" if in none.
func difference(want, got Sums) string {
	var parts []string
	add := func(what string, want, got any) {
		if want != got {
			parts = append(parts, fmt.Sprintf("%s is %v, should be %v", what, got, want))
		}
	}
	add("size", want.Size, got.Size)
	add("MD5", want.MD5, got.MD5)
	add("SHA-256", want.SHA256, got.SHA256)
	return strings.Join(parts, ", ")
}

// ConflictError says that a complete copy of that name is there and belongs to another snapshot.
type ConflictError struct {
	Name   string
	Path   string
	Detail string // what is different
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s holds another snapshot named %s (%s); nothing was changed: delete that snapshot or move its files away, then try again",
		e.Path, e.Name, e.Detail)
}

// Is makes a ConflictError an ErrExists.
func (e *ConflictError) Is(target error) bool { return target == ErrExists }

// NoSpaceError says that a file does not fit. Sizes are in bytes.
type NoSpaceError struct {
	Path   string // the vault's directory
	Needed uint64 // bytes that have to be free, Headroom included
	Free   uint64 // bytes that are free
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("%s free on %s, %s needed; free space there, or keep fewer snapshots on this node, then try again",
		humanize.IBytes(e.Free), e.Path, humanize.IBytes(e.Needed))
}

// Unwrap makes a NoSpaceError an ENOSPC.
func (e *NoSpaceError) Unwrap() error { return syscall.ENOSPC }

// TrailerError says that a file does not end in the SHA-256 of what precedes it, as etcd's snapshots do.
type TrailerError struct {
	Path string
	// Missing tells that by its size the file has no such ending; otherwise it has one that does not fit.
	Missing bool
}

func (e *TrailerError) Error() string {
	if e.Missing {
		return e.Path + " does not end in the SHA-256 that etcd appends to a snapshot: it is cut off, or was copied from a data directory, " +
			"and a file copied while etcd ran is not a backup; " +
			"save it again with a snapshot command, or skip the hash check (--skip-hash-check) if it comes from a member that was stopped"
	}
	return e.Path + " is damaged: the SHA-256 at its end is not that of its contents; " +
		"take another copy of the snapshot, or skip the hash check (--skip-hash-check) to use it all the same"
}
