package dev

import (
	"os"
	"path/filepath"
	"testing"
)

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
