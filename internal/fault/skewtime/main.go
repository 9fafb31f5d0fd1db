// Command skewtime writes an overlay for go build in which the wall clock of package time can be set off, so that a
// binary under test can be given a clock that jumps while the machine's stays as it is:
//
//	go build -tags faultinject,faultclock -overlay "$(go run ./internal/fault/skewtime DIR)" ./cmd/requorum
//
// The overlay is the toolchain's own time.go with one line more in time.Now, and a function, time.SkewWall, that sets
// by how much. What time.Now reads of the monotonic clock stays as it is, as it does when a real clock jumps; so do
// timers and tickers. Package fault calls the function in a build with the tag faultclock.
//
// https://pkg.go.dev/cmd/go describes overlays under "-overlay file".
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/internal/durable"
)

const (
	reads   = "\tsec, nsec, mono := runtimeNow()\n"
	now     = "func Now() Time {\n" + reads
	skewed  = now + "\tsec, nsec = skewWall(sec, nsec)\n"
	imports = "import (\n"
	added   = `

// wallSkew is added to the wall clock, in nanoseconds.
var wallSkew atomic.Int64

// SkewWall sets what is added to the wall clock from now on.
func SkewWall(d Duration) { wallSkew.Store(int64(d)) }

func skewWall(sec int64, nsec int32) (int64, int32) {
	skew := wallSkew.Load()
	if skew == 0 {
		return sec, nsec
	}
	sec, rest := sec+skew/1e9, int64(nsec)+skew%1e9
	switch {
	case rest < 0:
		return sec - 1, int32(rest + 1e9)
	case rest >= 1e9:
		return sec + 1, int32(rest - 1e9)
	default:
		return sec, int32(rest)
	}
}
`
)

func main() {
	if len(os.Args) != 2 {
		fail(errors.New("want one argument, the directory to write to"))
	}
	overlay, err := write(os.Args[1])
	if err != nil {
		fail(err)
	}
	fmt.Fprintln(os.Stdout, overlay)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "skewtime:", err)
	os.Exit(1)
}

// write writes the overlay and what it refers to into dir, and returns its path.
func write(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find the toolchain's source: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		return "", fmt.Errorf("read the toolchain's source: %w", err)
	}
	changed, err := skew(string(source))
	if err != nil {
		return "", fmt.Errorf("%s: %w", original, err)
	}
	replacement := filepath.Join(dir, "time.go.skewed") // not a Go file of whatever package dir may be in
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: replacement}})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "overlay.json"), errors.Join(
		os.MkdirAll(dir, 0o700), // what follows is whole or not there: several may build at once
		durable.WriteFile(replacement, []byte(changed), 0o600),
		durable.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
}

// skew changes the source of time.go, or refuses to if it is not as this program knows it: a clock that does not jump
// would let every test of jumps pass.
func skew(source string) (string, error) {
	for _, place := range []string{now, imports} {
		if n := strings.Count(source, place); n != 1 {
			return "", fmt.Errorf("found %q %d times, want once: this toolchain's clock has changed, change skewtime with it", place, n)
		}
	}
	if n := strings.Count(source, "runtimeNow()"); n != 2 { // its declaration, and the one use
		return "", fmt.Errorf("runtimeNow is mentioned %d times, want twice: this toolchain reads the clock elsewhere, too", n)
	}
	source = strings.Replace(source, imports, imports+"\t\"sync/atomic\"\n", 1)
	return strings.Replace(source, now, skewed, 1) + added, nil
}
