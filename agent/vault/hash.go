package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/durable"
	"github.com/requorum/requorum/internal/names"
)

const (
	// readBuffer is how much of a file is read at once, in bytes.
	readBuffer = 1 << 20
	// directAlignment is what the address of a buffer for direct I/O has to be a multiple of, in bytes; no disk in use
	// asks for more.
	directAlignment = 4096
)

// Hash reads the copy that m describes back from the disk and says whether it is that file. tick, which
// may be nil, is told the bytes done and in all. Node is the caller's to fill in.
//
// Nothing there is MISSING; a file that cannot be read, or a directory or link in its place, is
// UNREADABLE; another content is DIFFERENT; UNKNOWN is returned only if ctx ends first.
//
// The file is fsynced, its pages are dropped from the page cache, and it is read past that cache (O_DIRECT), so
// that what is read comes from the disk, also where another process has mapped the file. tmpfs and some network
// file systems cannot do this, and are read as they can be; what a disk's own cache answers from cannot be told.
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
	setDirect(f, true)
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

// setDirect makes the reading of a file go past the page cache, or through it again. Besides telling the truth about
// the disk it spares copying each page, and leaves the memory to etcd. A file system that cannot do it refuses, and
// is read through its cache.
func setDirect(f *os.File, direct bool) {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return
	}
	flags &^= unix.O_DIRECT
	if direct {
		flags |= unix.O_DIRECT
	}
	_, _ = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags)
}

// alignedBuffer returns a buffer that direct I/O can fill.
func alignedBuffer(size int) []byte {
	buf := make([]byte, size+directAlignment)
	over := int(reflect.ValueOf(buf).Pointer() % directAlignment)
	return buf[directAlignment-over:][:size]
}

// readAll hands a file to take, piece by piece, from its present position to its end. After a piece that is not
// whole, which is the last one or of a disk that reads in larger units, a file that is read directly is read
// through the page cache.
func readAll(ctx context.Context, f *os.File, take func([]byte) error) error {
	buf := alignedBuffer(readBuffer)
	for direct := true; ; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := f.Read(buf)
		if direct && n < len(buf) {
			setDirect(f, false)
			direct = false
			if errors.Is(err, unix.EINVAL) {
				continue
			}
		}
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
