// Command demo tells requorum's main job as a story on the terminal, on a real cluster: three etcd members,
// three agents and a controller, all on the loopback address and all from the real binary. It saves a
// snapshot, changes the data, restores, then destroys two of the three members and restores again. Every
// claim is checked against each member; where anything differs it says what and ends with 1.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// limit is far above what the story takes, so that a hang ends and says so.
const limit = 5 * time.Minute

func main() {
	record := flag.Bool("record", false, "also write docs/demo.txt and docs/demo.svg")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo did not end within %s", limit))
	defer cancel()
	if err := run(ctx, *record); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("stopped: %w", context.Cause(ctx))
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1) //nolint:gocritic // everything is cleaned up
	}
}

// run plays the story to the terminal and, if asked to, records it.
func run(ctx context.Context, record bool) error {
	terminal := term.IsTerminal(int(os.Stdout.Fd()))
	if !record {
		return play(ctx, os.Stdout, terminal)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	var tape bytes.Buffer
	if err := play(ctx, io.MultiWriter(os.Stdout, &tape), false); err != nil {
		return err
	}
	return writeRecording(filepath.Join(root, "docs"), tape.String())
}

// play tells the whole story to out and cleans up behind itself.
func play(ctx context.Context, out io.Writer, terminal bool) (err error) {
	dir, err := os.MkdirTemp("", "requorum-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary, err := findBinary(ctx, dir)
	if err != nil {
		return err
	}
	n := &narrator{out: out, terminal: terminal, color: terminal && os.Getenv("NO_COLOR") == "", hide: dir}
	s := &story{narrator: n, binary: binary, dir: filepath.Join(dir, "cluster"), begun: time.Now()}
	return s.tell(ctx)
}

// findBinary returns the requorum that $REQUORUM_BIN names, or builds it.
func findBinary(ctx context.Context, dir string) (string, error) {
	if given := os.Getenv("REQUORUM_BIN"); given != "" {
		return filepath.Abs(given)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "requorum")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/requorum")
	build.Dir, build.Stderr = root, os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build requorum: %w", err)
	}
	return binary, nil
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the source tree (run the demo inside of it): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
