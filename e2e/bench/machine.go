package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/version"
	"golang.org/x/sys/unix"

	"github.com/dustin/go-humanize"
)

// Machine describes where it was measured. One machine plays all nodes.
type Machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	RAM        int64  `json:"ram_bytes"`
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file_system"` // of the data, with the device
	Go         string `json:"go"`
	Etcd       string `json:"etcd"`
	Load       string `json:"load_before"` // averages of 1, 5 and 15 minutes before the run
}

// describe looks at this machine. What cannot be found out is "unknown".
func describe(dir string) Machine {
	m := Machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), RAM: memTotal(), Kernel: kernel(), FileSystem: fileSystem(dir),
		Go: strings.TrimPrefix(runtime.Version(), "go"), Etcd: version.Version, Load: "unknown",
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(data))[:3], " ")
	}
	return m
}

// String tells the machine in one line.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s RAM, Linux %s, %s, Go %s, etcd %s, load before %s",
		m.CPU, m.Cores, humanize.IBytes(uint64(m.RAM)), m.Kernel, m.FileSystem, m.Go, m.Etcd, m.Load)
}

func cpuModel() string {
	for _, key := range []string{"model name", "Hardware", "CPU part"} {
		if model := field("/proc/cpuinfo", key); model != "" {
			return model
		}
	}
	return "unknown " + runtime.GOARCH
}

func memTotal() int64 {
	kib, err := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// fileSystem returns type and device of the file system that holds a directory: of its mounts the one with the
// longest path that is above it.
func fileSystem(dir string) string {
	data, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "unknown"
	}
	longest, found := "", "unknown"
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		above := strings.TrimSuffix(fields[1], "/") + "/"
		if strings.HasPrefix(dir+"/", above) && len(above) >= len(longest) {
			longest, found = above, fields[2]+" on "+fields[0]
		}
	}
	return found
}

// field returns what a file of /proc says after the first "key:", empty if it does not say it.
func field(path, key string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		name, value, found := strings.Cut(lines.Text(), ":")
		if found && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
