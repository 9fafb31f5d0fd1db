package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
)

// readBuffer is how much of a file is read at once.
const readBuffer = 1 << 20

// Hash reads the copy that m describes back from the disk and says whether it is that file. tick, which
// may be nil, is told the bytes done and in all. Node is the caller's to fill in.
//
// Nothing there is MISSING; a file that cannot be read, or a directory or link in its place, is
// UNREADABLE; another content is DIFFERENT; UNKNOWN is returned only if ctx ends first.
//
// The file is fsynced and its pages are dropped from the page cache before it is read, so that what is
// read comes from the disk. That is a request: the kernel keeps pages that another process has mapped,
// tmpfs and some network file systems have nothing else, and what a disk's own cache answers from cannot
// be told.
func (v *Vault) Hash(ctx context.Context, m *requorumv1.Manifest, tick func(done, total int64)) *requorumv1.Copy {
	found := &requorumv1.Copy{Checked: timestamppb.Now()}
	answer := func(state requorumv1.CopyState, detail string) *requorumv1.Copy {
		found.State, found.Detail = state, detail
		return found
	}
	if err := names.Check("snapshot", m.GetName()); err != nil {
		return answer(requorumv1.CopyState_COPY_STATE_MISSING, err.Error())
	}
	found.Path = v.filePath(m.GetName())
	facts, err := v.Facts(ctx, m.GetName(), tick)
	switch {
	case errors.Is(err, ErrNotFound):
		return answer(requorumv1.CopyState_COPY_STATE_MISSING, "there is no file "+found.Path)
	case ctx.Err() != nil:
		return answer(requorumv1.CopyState_COPY_STATE_UNKNOWN, fmt.Sprintf("not read to its end: %v", context.Cause(ctx)))
	case err != nil:
		return answer(requorumv1.CopyState_COPY_STATE_UNREADABLE, err.Error())
	}
	want, got := FileOf(m), sumsOf(facts)
	if want.MD5 == "" { // of a sealed copy the manifest has only the SHA-256
		got.MD5 = ""
	}
	found.Size, found.Md5, found.Sha256 = got.Size, got.MD5, got.SHA256
	if detail := difference(want, got); detail != "" {
		return answer(requorumv1.CopyState_COPY_STATE_DIFFERENT, detail)
	}
	return answer(requorumv1.CopyState_COPY_STATE_GOOD, "")
}

// Facts reads a complete copy back from the disk, as Hash does, and returns what Commit returned when it
// was written; Created is the file's time of modification. It fails with ErrNotFound if there is none.
func (v *Vault) Facts(ctx context.Context, name string, tick func(done, total int64)) (*agentv1.CopyFacts, error) {
	path, err := v.Path(name)
	if err != nil {
		return nil, err
	}
	f, err := openNoFollow(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("snapshot %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	facts, err := readFacts(ctx, f, tick)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return facts, nil
}

func readFacts(ctx context.Context, f *os.File, tick func(done, total int64)) (*agentv1.CopyFacts, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := durable.DropCache(f); err != nil {
		return nil, err
	}
	d := newDigest()
	err = readAll(ctx, f, func(b []byte) error {
		if _, err := d.Write(b); err != nil {
			return err
		}
		if tick != nil {
			tick(d.size, info.Size())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	facts := d.facts()
	facts.Created = timestamppb.New(info.ModTime())
	return facts, nil
}

// readAll hands a file to take, piece by piece, from its present position to its end.
func readAll(ctx context.Context, f *os.File, take func([]byte) error) error {
	buf := make([]byte, readBuffer)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := f.Read(buf)
		if n > 0 {
			if err := take(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
