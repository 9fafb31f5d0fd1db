package runtimetest

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Killed runs the test's own program with a story in the environment variable, for its TestMain to act, and tells whether
// it was killed in it. Any other failure fails the test.
func Killed(t testing.TB, variable string, story any) bool {
	t.Helper()
	text, err := json.Marshal(story)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{variable + "=" + string(text)}
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("the agent failed: %v: %s", err, out)
	}
	return false
}
