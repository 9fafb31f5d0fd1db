package dev

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/cmd/requorum/cli"
)

func TestWhatCannotBeRunIsRefusedAtOnce(t *testing.T) {
	for want, args := range map[string][]string{
		"--members -1: give a number from 1 to 9": {"--members=-1"},
		"--members 0: give a number from 1 to 9":  {"--members=0"},
		`cluster name "ü" has "ü" in it`:          {"--cluster=ü"},
	} {
		c := Command()
		c.SetArgs(args)
		c.SetOut(io.Discard)
		c.SetErr(io.Discard)
		err := c.ExecuteContext(t.Context())
		if _, usage := errors.AsType[*cli.UsageError](err); !usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestADirectoryRunsOneClusterAtATime(t *testing.T) {
	dir := t.TempDir()
	lock, err := take(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := take(dir); err == nil || !strings.Contains(err.Error(), "another requorum dev runs in "+dir) {
		t.Errorf("taken twice: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := take(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// What is to be typed works as it stands, whether or not requorum was installed.
func TestHintsNameTheBinaryWhereTheShellWouldNotFindIt(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "requorum")
	if err := os.WriteFile(binary, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "/nonexistent")
	if got := onPath(binary); got != "  export PATH="+dir+":$PATH\n" {
		t.Errorf("%q", got)
	}
	t.Setenv("PATH", dir)
	if got := onPath(binary); got != "" {
		t.Errorf("%q, though it is found", got)
	}
}
