package files

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/requorum/requorum/internal/names"
)

// ownPrefix begins the names of files that restores leave beside others.
const ownPrefix = ".requorum-"

// RefusedError says that files cannot be kept or written back until a person has changed something.
type RefusedError struct{ Message, Advice string }

func (e *RefusedError) Error() string { return e.Message }

func refused(advice, format string, args ...any) error {
	return &RefusedError{Message: fmt.Sprintf(format, args...), Advice: advice}
}

// Sets are the paths of files and directories that may be kept with snapshots, by the names of their sets. A set may be
// empty: the node then has nothing to add to it.
type Sets map[string][]string

// Check returns an error unless the sets can be meant.
func (s Sets) Check() error {
	for _, name := range s.Names() {
		if err := names.Check("set", name); err != nil {
			return err
		}
		for _, path := range s[name] {
			if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
				return fmt.Errorf("set %s: %q is not the clean absolute path of a file or directory", name, path)
			}
		}
	}
	return nil
}

// Names returns the names of the sets in order.
func (s Sets) Names() []string { return slices.Sorted(maps.Keys(s)) }

// paths returns what the named sets stand for.
func (s Sets) paths(wanted []string) ([]string, error) {
	var all []string
	for _, name := range wanted {
		set, known := s[name]
		if !known {
			return nil, refused("add it to files: in the agent's configuration, empty if the node has no such files", "this node has no set of files %q; it has %s", name, s.list())
		}
		all = append(all, set...)
	}
	return all, nil
}

func (s Sets) list() string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s.Names(), ", ")
}

// place is where a file lies: no symbolic link leads out of root, and none that is below a configured path is followed.
type place struct {
	root *os.Root
	rel  string
}

func (p place) sibling(prefix string) string {
	return filepath.Join(filepath.Dir(p.rel), prefix+filepath.Base(p.rel))
}

// syncDir makes what was done in the file's directory durable.
func (p place) syncDir() error {
	d, err := p.root.Open(filepath.Dir(p.rel))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// locate finds the place of a path that the configuration allows. The caller closes root.
func (s Sets) locate(path string) (place, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return place{}, refused("take another snapshot: this one's manifest is not to be trusted", "%q is not a clean absolute path", path)
	}
	allowed := s.above(path)
	if allowed == "" {
		return place{}, refused("add it to a set of files: in the agent's configuration, or restore without files", "the agent's configuration does not allow %s", path)
	}
	parent := filepath.Dir(allowed)
	root, err := os.OpenRoot(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, refused("make it, with the owner and mode that it is to have", "the directory %s, which is to hold %s, is not there", parent, allowed)
	}
	if err != nil {
		return place{}, err
	}
	rel, err := filepath.Rel(parent, path)
	if err == nil {
		err = withoutLinks(root, rel)
	}
	if err != nil {
		return place{}, errors.Join(err, root.Close())
	}
	return place{root: root, rel: rel}, nil
}

// above returns the configured path that is path or a directory above it, empty if there is none.
func (s Sets) above(path string) string {
	for _, set := range s {
		for _, allowed := range set {
			if path == allowed || strings.HasPrefix(path, allowed+"/") {
				return allowed
			}
		}
	}
	return ""
}

// withoutLinks refuses a path of which a directory is a symbolic link, or anything else than a directory.
func withoutLinks(root *os.Root, rel string) error {
	parts := strings.Split(filepath.Dir(rel), "/")
	for i := range parts {
		dir := filepath.Join(parts[:i+1]...)
		if dir == "." {
			continue
		}
		info, err := root.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return refused("move it away, then try again", "%s is %s instead of a directory", filepath.Join(root.Name(), dir), kindOf(info.Mode()))
		}
	}
	return nil
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}

// entry is a file or a directory of a bundle.
type entry struct {
	path      string
	directory bool
	mode      fs.FileMode // permission bits
	uid, gid  int
	data      []byte // of a file
}

// describe returns the entry of something on the disk; the content is the caller's to fill in.
func describe(path string, info fs.FileInfo) entry {
	e := entry{path: path, directory: info.IsDir(), mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.uid, e.gid = int(st.Uid), int(st.Gid)
	}
	return e
}
