package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	"github.com/requorum/requorum/internal/seal"
)

var errChanged = errors.New("the file changed while it was copied; wait until it is complete")

// Import copies the file at the absolute path srcPath into the vault and returns its facts; Created is the
// file's time of modification. A symbolic link is followed; what it leads to must be a regular file.
// Unless skipHashCheck is set, a file that does not end in a fitting trailing SHA-256 is refused with a
// *TrailerError. tick, which may be nil, is told the bytes done and in all. It fails as Create does.
func (v *Vault) Import(ctx context.Context, name, srcPath string, skipHashCheck bool, tick func(done, total int64)) (*agentv1.CopyFacts, error) {
	return importWith(ctx, name, srcPath, skipHashCheck, tick, v.Create, (*Writer).Commit)
}

// ImportSealed is Import for a copy that is sealed. inspect is shown what was sealed before the copy gets its name.
func (v *Vault) ImportSealed(ctx context.Context, name, srcPath string, skipHashCheck bool, o seal.Options, tick func(done, total int64), inspect func(path string) error) (*agentv1.CopyFacts, error) {
	create := func(name string) (*SealedWriter, error) { return v.CreateSealed(name, o) }
	return importWith(ctx, name, srcPath, skipHashCheck, tick, create, func(w *SealedWriter) (*agentv1.CopyFacts, error) {
		if err := inspect(w.PlainPath()); err != nil {
			return nil, errors.Join(err, w.Discard())
		}
		return w.Commit()
	})
}

// newCopy is a copy that is being written.
type newCopy interface {
	io.Writer
	Expect(size int64) error
	Facts() *agentv1.CopyFacts
	Discard() error
}

func importWith[W newCopy](ctx context.Context, name, srcPath string, skipHashCheck bool, tick func(done, total int64), create func(string) (W, error), commit func(W) (*agentv1.CopyFacts, error)) (*agentv1.CopyFacts, error) {
	src, err := openSource(srcPath)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; give a path as it is on this node", err)
	}
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", srcPath, err)
	}
	facts, err := importFile(ctx, name, src, skipHashCheck, tick, create, commit)
	if err = errors.Join(err, src.Close()); err != nil {
		return nil, fmt.Errorf("import %s: %w", srcPath, err)
	}
	return facts, nil
}

func openSource(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("the path must be absolute")
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	src, err := openNoFollow(resolved)
	if err != nil {
		return nil, err
	}
	info, err := src.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("it is %s; name a snapshot's file", kindOf(info.Mode()))
	case info.Size() == 0:
		err = errors.New("the file is empty")
	}
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return src, nil
}

func importFile[W newCopy](ctx context.Context, name string, src *os.File, skipHashCheck bool, tick func(done, total int64), create func(string) (W, error), commit func(W) (*agentv1.CopyFacts, error)) (*agentv1.CopyFacts, error) {
	info, err := src.Stat()
	if err != nil {
		return nil, err
	}
	if !skipHashCheck && !hasTrailerSize(info.Size()) {
		return nil, &TrailerError{Path: src.Name(), Missing: true}
	}
	w, err := create(name)
	if err != nil {
		return nil, err
	}
	err = w.Expect(info.Size())
	if err == nil {
		err = fill(ctx, w, src, info.Size(), tick)
	}
	if err == nil {
		err = unchanged(src, info)
	}
	if err == nil && !skipHashCheck && !w.Facts().GetHasTrailer() {
		err = &TrailerError{Path: src.Name()}
	}
	if err != nil {
		return nil, errors.Join(err, w.Discard())
	}
	facts, err := commit(w)
	if err != nil {
		return nil, err
	}
	facts.Created = timestamppb.New(info.ModTime())
	return facts, nil
}

func fill(ctx context.Context, w io.Writer, src *os.File, total int64, tick func(done, total int64)) error {
	var done int64
	return readAll(ctx, src, func(b []byte) error {
		if done += int64(len(b)); done > total {
			return errChanged // it might grow for as long as it is read
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		if tick != nil {
			tick(done, total)
		}
		return nil
	})
}

// unchanged fails if a file is not what it was when info was taken: it was being written.
func unchanged(f *os.File, info os.FileInfo) error {
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if now.Size() != info.Size() || !now.ModTime().Equal(info.ModTime()) {
		return errChanged
	}
	return nil
}
