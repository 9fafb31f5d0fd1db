package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

// narrator writes the story.
type narrator struct {
	out      io.Writer
	terminal bool   // a person watches: commands may draw
	color    bool   // never without a terminal
	hide     string // directory that is shown as /tmp/demo, so that recordings are alike
	chapter  int
}

func (n *narrator) paint(color, text string) string {
	if !n.color {
		return text
	}
	return color + text + plain
}

func (n *narrator) line(text string) {
	_, _ = fmt.Fprintln(n.out, strings.ReplaceAll(text, n.hide, "/tmp/demo")) // the story is true though nobody reads it
}

// title begins a chapter.
func (n *narrator) title(text string) {
	n.chapter++
	n.line("")
	n.line(n.paint(bold, fmt.Sprintf("%d. %s", n.chapter, text)))
}

func (n *narrator) say(format string, args ...any) { n.line("   " + fmt.Sprintf(format, args...)) }

// proved says what was compared and found equal.
func (n *narrator) proved(format string, args ...any) {
	n.line("   " + n.paint(green, "✓ ") + fmt.Sprintf(format, args...))
}

// broken says what does not work, as it should not.
func (n *narrator) broken(format string, args ...any) {
	n.line("   " + n.paint(red, "✗ ") + fmt.Sprintf(format, args...))
}

// noise is a line about one node's part of a step, about the beginning of a step, or about where one node
// keeps old data. Steps take milliseconds here, so these lines would hide the rest.
var noise = regexp.MustCompile(`^\d\d:\d\d:\d\d [a-z]+: (begun|[A-Za-z0-9._-]+ (begun|done))$|^ *[Oo]ld data (stays at|of) `)

// requorum shows and runs a command. On a terminal it draws for itself, elsewhere its lines come without
// most of those about single nodes.
func (s *story) requorum(ctx context.Context, args ...string) error {
	s.line(s.paint(bold, "   $ requorum "+strings.Join(args, " ")))
	cmd := exec.CommandContext(ctx, s.binary, args...)
	cmd.Env = append(os.Environ(), "REQUORUM_CONFIG="+s.cluster.AdminConfig())
	if s.terminal {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		return commandError(cmd.Run(), args)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		if !noise.MatchString(lines.Text()) {
			s.line(s.paint(dim, "   "+lines.Text()))
		}
	}
	return commandError(errors.Join(lines.Err(), cmd.Wait()), args)
}

func commandError(err error, args []string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("requorum %s: %w", strings.Join(args, " "), err)
}
