package datadir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// freeInterval is how often WaitFree looks.
const freeInterval = 50 * time.Millisecond

// HeldError says what of a member's files and ports is in use, and by whom.
type HeldError struct {
	What    string // path or listen URL
	PID     int    // of the process that holds it; 0 if it cannot be told
	Process string // its name
}

func (e *HeldError) Error() string {
	if e.PID == 0 {
		return e.What + " is still in use, by a process that cannot be seen"
	}
	return fmt.Sprintf("%s is still in use by %s (process %d)", e.What, e.Process, e.PID)
}

// Free returns nil if no etcd holds the member's database, write-ahead log and ports, a *HeldError if
// one does. It looks by taking bbolt's own lock and the ports for an instant. walDir is empty when the
// log is in the data directory.
func Free(ctx context.Context, dataDir, walDir string, listenURLs []string) error {
	if walDir == "" {
		walDir = filepath.Join(dataDir, memberEntry, "wal")
	}
	files, err := filepath.Glob(filepath.Join(escapeGlob(walDir), "*.wal"))
	if err != nil {
		return err
	}
	files = append([]string{filepath.Join(dataDir, memberEntry, "snap", "db")}, files...)
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := freeFile(f); err != nil {
			return err
		}
	}
	for _, u := range listenURLs {
		if err := freeURL(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// WaitFree waits until Free returns nil. When ctx ends it returns ctx's cause and what was held last.
func WaitFree(ctx context.Context, dataDir, walDir string, listenURLs []string) error {
	look := time.NewTicker(freeInterval)
	defer look.Stop()
	var held *HeldError
	for {
		err := Free(ctx, dataDir, walDir, listenURLs)
		if err == nil || !errors.As(err, &held) && ctx.Err() == nil {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return stillHeld(ctx, held)
		}
	}
}

func stillHeld(ctx context.Context, held *HeldError) error {
	if held == nil {
		return fmt.Errorf("wait until nothing holds etcd's data: %w", context.Cause(ctx))
	}
	return fmt.Errorf("wait until nothing holds etcd's data: %w: %w", held, context.Cause(ctx))
}

// freeFile returns a *HeldError if the file is locked in either of the ways that etcd locks its files.
func freeFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return &fs.PathError{Op: "query lock of", Path: path, Err: err}
	}
	if lock.Type != unix.F_UNLCK {
		return heldFile(path, f)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // closing the file releases it
	if errors.Is(err, unix.EWOULDBLOCK) {
		return heldFile(path, f)
	}
	if err != nil {
		return &fs.PathError{Op: "flock", Path: path, Err: err}
	}
	return nil
}

// freeURL returns a *HeldError if the URL cannot be listened on because somebody does.
func freeURL(ctx context.Context, raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("listen URL: %w", err)
	}
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		return freeSocket(ctx, raw, u.Host+u.Path)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", u.Host)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return heldPort(raw, u.Port())
	case errors.Is(err, unix.EADDRNOTAVAIL): // not an address of this host: nobody here listens on it
		return nil
	case err != nil:
		return fmt.Errorf("see whether %s is free: %w", raw, err)
	}
	return l.Close()
}

// freeSocket returns a *HeldError if somebody accepts on a Unix socket; one that is left behind is free.
func freeSocket(ctx context.Context, raw, path string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return context.Cause(ctx)
	}
	return errors.Join(&HeldError{What: raw}, c.Close())
}

func escapeGlob(path string) string {
	escaped := make([]byte, 0, len(path))
	for i := range len(path) {
		switch path[i] {
		case '*', '?', '[', '\\':
			escaped = append(escaped, '\\')
		}
		escaped = append(escaped, path[i])
	}
	return string(escaped)
}
