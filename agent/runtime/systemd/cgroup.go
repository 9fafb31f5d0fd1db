package systemd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// processes returns the processes of the unit: those in its control group and below. Every process says itself in which
// group it is, in whatever way the hierarchies are mounted.
func (u *unit) processes() ([]int, error) {
	if u.cgroup == "" || u.cgroup == "/" {
		return nil, nil
	}
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it ended
		}
		if err != nil {
			return nil, err
		}
		if !within(string(groups), u.cgroup) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err != nil {
			return nil, err
		}
		if !isZombie(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// within tells whether a process with these lines in /proc/PID/cgroup is in the group of systemd's hierarchy, which is
// the only one, or the one that is named for it.
func within(lines, cgroup string) bool {
	for line := range strings.Lines(lines) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[0] != "0" && fields[1] != "name=systemd" {
			continue
		}
		if fields[2] == cgroup || strings.HasPrefix(fields[2], cgroup+"/") {
			return true
		}
	}
	return false
}

// isZombie tells of a process that has ended and holds nothing any more. One that is gone counts.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}
