package files

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// Bounds of a bundle: keys and manifests are small, and a path that was meant otherwise is told before it fills disks.
const (
	maxFiles = 2000     // files and directories of a bundle
	maxFile  = 4 << 20  // bytes of one file
	maxTotal = 16 << 20 // bytes of all files of a bundle, which a restore holds in memory
)

// packing is a bundle that is being made.
type packing struct {
	ctx   context.Context
	tar   *tar.Writer
	files int
	total int
}

// pack writes the named sets as a tar and returns how many files and directories are in it. Without changes on the disk it is always the same tar.
func (s Sets) pack(ctx context.Context, wanted []string, w io.Writer) (int, error) {
	paths, err := s.paths(wanted)
	if err != nil {
		return 0, err
	}
	slices.Sort(paths)
	p := &packing{ctx: ctx, tar: tar.NewWriter(w)}
	for i, path := range paths {
		if slices.ContainsFunc(paths[:i], func(above string) bool { return path == above || strings.HasPrefix(path, above+"/") }) {
			continue // it came with the directory
		}
		if err := p.addPath(s, path); err != nil {
			return 0, fmt.Errorf("keep files: %w", err)
		}
	}
	return p.files, p.tar.Close()
}

func (p *packing) addPath(s Sets, path string) error {
	at, err := s.locate(path)
	if err != nil {
		return err
	}
	return errors.Join(p.add(at, path), at.root.Close())
}

// add adds a file, or a directory with all that is in it.
func (p *packing) add(at place, path string) error {
	if err := p.ctx.Err(); err != nil {
		return context.Cause(p.ctx)
	}
	info, err := at.root.Lstat(at.rel)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refused("remove it from files: in the agent's configuration if the node has no such file", "%s is not there", path)
	case err != nil:
		return err
	case info.IsDir():
		return p.addDir(at, path, info)
	case !info.Mode().IsRegular():
		return refused("name the files beside it one by one in the agent's configuration", "%s is %s; only files and directories are kept", path, kindOf(info.Mode()))
	case info.Size() > maxFile:
		return refused("leave it out in the agent's configuration", "%s has %s; %s is the most that is kept of one file", path, humanize.IBytes(uint64(info.Size())), humanize.IBytes(maxFile))
	}
	return p.addFile(at, path)
}

func (p *packing) addDir(at place, path string, info fs.FileInfo) error {
	if err := p.write(describe(path, info)); err != nil {
		return err
	}
	d, err := at.root.Open(at.rel)
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ownPrefix) {
			continue // what an earlier restore has put aside
		}
		if err := p.add(place{at.root, filepath.Join(at.rel, e.Name())}, filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (p *packing) addFile(at place, path string) error {
	data, info, err := read(at)
	if err != nil {
		return err
	}
	e := describe(path, info)
	e.data = data
	return p.write(e)
}

// read reads a regular file that may have been replaced since it was looked at.
func read(at place) ([]byte, fs.FileInfo, error) {
	f, err := at.root.OpenFile(at.rel, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = refused("try again", "%s became %s meanwhile", f.Name(), kindOf(info.Mode()))
	}
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	}
	if err == nil && len(data) > maxFile {
		err = refused("leave it out in the agent's configuration", "%s is larger than %s", f.Name(), humanize.IBytes(maxFile))
	}
	return data, info, errors.Join(err, f.Close())
}

// write adds one entry to the tar.
func (p *packing) write(e entry) error {
	p.files, p.total = p.files+1, p.total+len(e.data)
	if p.files > maxFiles || p.total > maxTotal {
		return refused("name fewer files in the agent's configuration", "more than %d files, or than %s of them, are not kept with a snapshot", maxFiles, humanize.IBytes(maxTotal))
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(e.path, "/"), Mode: int64(e.mode), Uid: e.uid, Gid: e.gid, Size: int64(len(e.data))}
	if e.directory {
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := p.tar.Write(e.data)
	return err
}
