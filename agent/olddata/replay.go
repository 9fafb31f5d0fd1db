package olddata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/internal/durable"
)

// Command is the name by which this binary replays a log: Main.
const Command = "requorum-replay"

// How long a replay may take: generous, for etcd itself opens as much in a fraction of it.
const (
	replayAtLeast = 10 * time.Minute
	replayPerGiB  = 5 * time.Minute
)

// lastLines bounds what is shown of what the replaying process said.
const lastLines = 2000

// replay makes a copy of the old database in the directory scratch that also holds what only the log does, and
// returns its path.
func (r *Reader) replay(ctx context.Context, old datadir.Old, scratch string, tick func(done, total int64)) (string, error) {
	needed, err := size(old)
	if err != nil {
		return "", err
	}
	free, err := durable.FreeBytes(filepath.Dir(scratch))
	if err != nil {
		return "", err
	}
	if free < uint64(needed) {
		return "", fmt.Errorf("%s free at %s, %s needed to replay the log", humanize.IBytes(free), filepath.Dir(scratch), humanize.IBytes(uint64(needed)))
	}
	if err := errors.Join(durable.RemoveAll(scratch), durable.MkdirAll(scratch, 0o700)); err != nil {
		return "", err
	}
	db := filepath.Join(scratch, "db")
	if err := copyFile(ctx, old.DB(), db, tick); err != nil {
		return "", err
	}
	return db, r.runReplay(ctx, db, old.WAL, needed)
}

// runReplay runs Main in a process that ends with this one. It cannot be seen how far that is, so its time is bounded
// in proportion to what it reads.
func (r *Reader) runReplay(ctx context.Context, db, log string, bytesRead int64) error {
	limit := replayAtLeast + time.Duration(float64(replayPerGiB)*float64(bytesRead)/(1<<30))
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	runtime.LockOSThread() // Pdeathsig is about the end of the thread that starts the process
	defer runtime.UnlockOSThread()
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe") // also if the binary was replaced meanwhile
	cmd.Args = []string{Command, db, log}
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.Log.Info("replaying the log of the old data", "db", db, "log", log)
	if err := cmd.Run(); err != nil {
		text := said.String()
		return fmt.Errorf("replay the log: %w: %s", err, strings.TrimSpace(text[max(0, len(text)-lastLines):]))
	}
	return nil
}

// copyFile copies the database; the file system may share the blocks.
func copyFile(ctx context.Context, from, to string, tick func(done, total int64)) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	const piece = 16 << 20
	for done := int64(0); done < info.Size() && err == nil; {
		var n int64
		n, err = io.CopyN(dst, src, min(piece, info.Size()-done))
		done += n
		tick(done, info.Size())
		err = errors.Join(err, ctx.Err())
	}
	return errors.Join(err, dst.Close())
}
