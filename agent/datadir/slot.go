package datadir

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	stagingInfix     = ".staging-"
	quarantineInfix  = ".quarantine-"
	hiddenPrefix     = ".requorum-"
	hiddenStaging    = hiddenPrefix + "staging-"
	hiddenQuarantine = hiddenPrefix + "quarantine-"
)

// slot is a directory of the member whose entries are swapped.
type slot struct {
	dir        string   // symlinks resolved; need not exist
	only       []string // entries that belong to the slot; nil for all
	mount      bool     // dir is a mount point
	staging    string
	quarantine string
}

func openSlot(dir, restoreID string, only []string) (*slot, error) {
	s := &slot{dir: dir, only: only}
	mount, err := isMountPoint(dir)
	if err != nil {
		return nil, err
	}
	s.mount = mount
	s.staging = dir + stagingInfix + restoreID
	s.quarantine = dir + quarantineInfix + restoreID
	if mount {
		s.staging = filepath.Join(dir, hiddenStaging+restoreID)
		s.quarantine = filepath.Join(dir, hiddenQuarantine+restoreID)
	}
	return s, s.refuseMountsBelow()
}

// entries lists what belongs to the slot in dir, which is the slot's directory, its staging or its
// quarantine directory. A directory that is not there has no entries.
func (s *slot) entries(dir string) ([]string, error) {
	listed, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range listed {
		if s.owns(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (s *slot) owns(name string) bool {
	if s.only != nil {
		return slices.Contains(s.only, name)
	}
	return name != "lost+found" && !strings.HasPrefix(name, hiddenPrefix) && !isMarker(name)
}

func (s *slot) hasQuarantine() (bool, error) {
	marker, err := readMarker(s.quarantine)
	if marker != nil || err != nil {
		return marker != nil, err
	}
	kept, err := s.entries(s.quarantine)
	return len(kept) > 0, err
}

// refuseMountsBelow fails if a file system is mounted on or below an entry of the slot: a mount point
// cannot be renamed, and what is mounted below would move along now and go back at the next boot.
func (s *slot) refuseMountsBelow() error {
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m == s.dir || !within(m, s.dir) {
			continue
		}
		entry, _, _ := strings.Cut(strings.TrimPrefix(m, s.dir+"/"), "/")
		if s.owns(entry) {
			return &LayoutError{Path: m, Reason: fmt.Sprintf("is a mount point inside of etcd's directory %s, so the data cannot be swapped by rename; mount the whole directory instead, or give etcd a WAL directory of its own", s.dir)}
		}
	}
	return nil
}

// isMountPoint tells whether renaming between dir's inside and its siblings is impossible.
func isMountPoint(dir string) (bool, error) {
	inside, err := mountOf(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	outside, err := mountOf(filepath.Dir(dir))
	return inside != outside, err
}

// mount identifies what renames cannot leave. The device differs between the subvolumes of one mount,
// the ID between two mounts of one device.
type mount struct {
	major, minor uint32
	id           uint64
}

func mountOf(path string) (mount, error) {
	var x unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_SYNC_AS_STAT, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &x); err != nil {
		return mount{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	m := mount{major: x.Dev_major, minor: x.Dev_minor}
	if x.Mask&unix.STATX_MNT_ID != 0 {
		m.id = x.Mnt_id
	}
	return m, nil
}

// mountPoints lists the mount points that this process sees.
func mountPoints() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var points []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			points = append(points, unescapeMount(fields[4]))
		}
	}
	return points, errors.Join(lines.Err(), f.Close())
}

// unescapeMount decodes the \ooo that stand for blanks in /proc/self/mountinfo.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// checkDangling fails if path is a symlink to what is not there: etcd would make its data somewhere else
// than we could tell.
func checkDangling(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return &LayoutError{Path: path, Reason: "is a symlink to a path that does not exist; is a file system not mounted?"}
	}
	return err
}
