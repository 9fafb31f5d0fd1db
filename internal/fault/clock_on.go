//go:build faultinject && faultclock

package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// clockPoll is how often the clock's files are looked at.
const clockPoll = 50 * time.Millisecond

// init sets the clock before anything of the program can read it, and keeps it set as long as the process lives.
func init() {
	dir := os.Getenv(DirEnv)
	if dir == "" {
		return
	}
	set := clock{paths: candidates(dir, ClockName, os.Getenv(NodeEnv))}
	set.look()
	go func() {
		for range time.Tick(clockPoll) {
			set.look()
		}
	}()
}

// clock is by how much this process's wall clock is wrong.
type clock struct {
	paths []string
	skew  time.Duration
}

// look sets the clock by the first of its files that is there, and tells so where that changes anything.
func (c *clock) look() {
	skew, path, err := c.wanted()
	if err == nil && skew == c.skew {
		return
	}
	if err == nil {
		time.SkewWall(skew)
		c.skew = skew
		err = c.tell(path)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fault clock:", err)
		os.Exit(1) // a test that believes the clock is wrong proves nothing
	}
}

// wanted is what the files ask for, and the one that does.
func (c *clock) wanted() (time.Duration, string, error) {
	for _, path := range c.paths {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // not armed; the directory may be gone when a test has ended
		}
		skew, err := time.ParseDuration(strings.TrimSpace(string(content)))
		if err != nil {
			return 0, "", fmt.Errorf("%s: %w", path, err)
		}
		return skew, path, nil
	}
	return 0, c.paths[0], nil
}

func (c *clock) tell(path string) error {
	line, err := json.Marshal(Firing{Point: ClockName, Node: os.Getenv(NodeEnv), Action: c.skew.String(), PID: os.Getpid(), Time: time.Now()})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Clean(path)+FiredSuffix, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if os.IsNotExist(err) {
		return nil // the test has ended and taken its directory away
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	return err
}
