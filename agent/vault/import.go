package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

var errChanged = errors.New("the file changed while it was copied; wait until it is complete")

// Import copies the file at the absolute path srcPath into the vault and returns its facts; Created is the
// file's time of modification. A symbolic link is followed; what it leads to must be a regular file.
// Unless skipHashCheck is set, a file that does not end in a fitting trailing SHA-256 is refused with a
// *TrailerError. tick, which may be nil, is told the bytes done and in all. It fails as Create does.
func (v *Vault) Import(ctx context.Context, name, srcPath string, skipHashCheck bool, tick func(done, total int64)) (*agentv1.CopyFacts, error) {
	src, err := openSource(srcPath)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", srcPath, err)
	}
	facts, err := v.importFile(ctx, name, src, skipHashCheck, tick)
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

func (v *Vault) importFile(ctx context.Context, name string, src *os.File, skipHashCheck bool, tick func(done, total int64)) (*agentv1.CopyFacts, error) {
	info, err := src.Stat()
	if err != nil {
		return nil, err
	}
	if !skipHashCheck && !hasTrailerSize(info.Size()) {
		return nil, &TrailerError{Path: src.Name(), Missing: true}
	}
	w, err := v.Create(name)
	if err != nil {
		return nil, err
	}
	err = w.Expect(info.Size())
	if err == nil {
		err = w.fill(ctx, src, info.Size(), tick)
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
	w.created = info.ModTime()
	facts, err := w.Commit()
	if err != nil {
		return nil, err
	}
	facts.Created = timestamppb.New(info.ModTime())
	return facts, nil
}

func (w *Writer) fill(ctx context.Context, src *os.File, total int64, tick func(done, total int64)) error {
	return readAll(ctx, src, func(b []byte) error {
		if w.part.digest.size+int64(len(b)) > total {
			return errChanged // it might grow for as long as it is read
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		if tick != nil {
			tick(w.part.digest.size, total)
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
