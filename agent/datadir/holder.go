package datadir

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// heldFile names the process that has the file open. It compares device and inode, for a process in a
// container sees the file under another path.
func heldFile(path string, f *os.File) error {
	e := &HeldError{What: path}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("%w: %w", e, err)
	}
	looked, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return e
	}
	ours := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	e.PID, e.Process = holder(func(fd string) bool {
		var s syscall.Stat_t
		return fd != ours && syscall.Stat(fd, &s) == nil && s.Dev == looked.Dev && s.Ino == looked.Ino
	})
	return e
}

// heldPort names the process that listens on a TCP port.
func heldPort(rawURL, port string) error {
	e := &HeldError{What: rawURL}
	sockets := listeners(port)
	e.PID, e.Process = holder(func(fd string) bool {
		target, err := os.Readlink(fd)
		return err == nil && sockets[target]
	})
	return e
}

// listeners returns the sockets, as /proc/PID/fd shows them, that listen on a TCP port.
func listeners(port string) map[string]bool {
	const listen = "0A"
	sockets := map[string]bool{}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return sockets
	}
	suffix := fmt.Sprintf(":%04X", number)
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue // IPv6 may be off; the holder stays unnamed
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) > 9 && fields[3] == listen && strings.HasSuffix(fields[1], suffix) {
				sockets["socket:["+fields[9]+"]"] = true
			}
		}
		_ = f.Close() // only read
	}
	return sockets
}

// holder returns the first process with an open file that matches. Processes that may not be
// looked into are passed over: the name is for people only.
func holder(matches func(fd string) bool) (pid int, name string) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, fd := range fds {
		pid, err := strconv.Atoi(strings.Split(fd, "/")[2])
		if err != nil || !matches(fd) {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err != nil {
			continue
		}
		return pid, strings.TrimSpace(string(comm))
	}
	return 0, ""
}
