package systemd

import (
	"strings"

	"github.com/requorum/requorum/agent/runtime/cgroup"
)

// processes returns the processes of the unit: those in its control group and below.
func (u *unit) processes() ([]int, error) {
	if u.cgroup == "" || u.cgroup == "/" {
		return nil, nil
	}
	return cgroup.Processes(func(lines string) bool { return within(lines, u.cgroup) })
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
