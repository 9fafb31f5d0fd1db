package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/cmd/requorum/cli/output"
	"github.com/requorum/requorum/internal/version"
)

// program is what commands need of the world around them. Tests put something else in its place.
type program struct {
	version  string
	in       io.Reader
	out, err io.Writer
	now      func() time.Time
	newID    func() string                // a new request ID
	asks     func() bool                  // whether somebody can be asked on in
	forget   func() error                 // discards what was typed on in and not yet read
	terminal func() (live.Terminal, bool) // the terminal behind out, if there is one
	notices  func() (live.Terminal, bool) // the terminal behind err, if there is one
	pace     live.Pace
	patience time.Duration // how long a changing call is retried while the controller does not answer
	stall    time.Duration // how long an export may stand still
	slow     time.Duration // after which a person is told that an answer is still waited for
	settings settings
}

// Main runs the command line of this process with extra commands beside the operator's, and returns the
// exit code. SIGINT and SIGTERM end the command's context.
func Main(version string, extra ...*cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return system(version).run(ctx, os.Args[1:], extra...)
}

// Root returns the root command with all of the operator's commands, as documentation is made from it.
func Root() *cobra.Command { return system(version.String()).root() }

// system is the program in this process's surroundings.
func system(version string) *program {
	return &program{
		version:  version,
		in:       os.Stdin,
		out:      os.Stdout,
		err:      os.Stderr,
		now:      time.Now,
		newID:    func() string { return ulid.Make().String() },
		asks:     func() bool { return term.IsTerminal(int(os.Stdin.Fd())) },
		forget:   func() error { return discardTyped(os.Stdin) },
		terminal: func() (live.Terminal, bool) { return terminalBehind(os.Stdout) },
		notices:  func() (live.Terminal, bool) { return terminalBehind(os.Stderr) },
		pace:     live.DefaultPace,
		patience: 30 * time.Second,
		stall:    time.Minute,
		slow:     time.Second,
		settings: settings{format: output.Table},
	}
}

// discardTyped drops what was typed on a terminal and not yet read.
func discardTyped(terminal *os.File) error {
	if err := unix.IoctlSetInt(int(terminal.Fd()), unix.TCFLSH, unix.TCIFLUSH); err != nil {
		return fmt.Errorf("discard what was typed ahead on %s: %w", terminal.Name(), err)
	}
	return nil
}

func terminalBehind(file *os.File) (live.Terminal, bool) {
	fd := int(file.Fd())
	if !term.IsTerminal(fd) || os.Getenv("TERM") == "dumb" {
		return live.Terminal{}, false
	}
	size := func() (int, int) {
		if columns, rows, err := term.GetSize(fd); err == nil && columns > 0 {
			return columns, rows
		}
		return 80, 24
	}
	return live.Terminal{Size: size, Color: os.Getenv("NO_COLOR") == "", ASCII: !unicodeLocale()}, true
}

// number writes a number with its digits in groups for people who look at it, and plainly for programs.
func (p *program) number(n int64) string {
	if term, ok := p.terminal(); ok && !term.ASCII {
		return output.Grouped(n)
	}
	return strconv.FormatInt(n, 10)
}

// unicodeLocale tells whether the terminal is said to show UTF-8. Nothing said is taken for yes.
func unicodeLocale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := os.Getenv(name); value != "" {
			value = strings.ToLower(value)
			return strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
		}
	}
	return true
}

// run runs one command line and returns its exit code.
func (p *program) run(ctx context.Context, args []string, extra ...*cobra.Command) int {
	root := p.root(extra...) //nolint:contextcheck // a command gets its context from ExecuteContextC
	begun := markBegun(root)
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	if err != nil && !*begun {
		// Whatever fails before a command's own work begins is about how it was called.
		err = &UsageError{Err: err}
	}
	return p.report(ctx, command, err)
}

const mayBeEmpty = "may-be-empty"

// noneEmpty refuses a flag that is given without a value, as a script gives it whose variable is not set: "--remote" or
// "--nodes" would be as good as left out. Servers say more of what they lack.
//
// Flags that are annotated with mayBeEmpty are for what a script finds out and may not know.
func noneEmpty(c *cobra.Command) error {
	for above := c; above != nil; above = above.Parent() {
		if above.GroupID == groupServe {
			return nil
		}
	}
	var err error
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if _, may := f.Annotations[mayBeEmpty]; !may && f.Changed && (f.Value.String() == "" || f.Value.String() == "[]") {
			err = fmt.Errorf("--%s is empty; give it a value, or leave it out", f.Name)
		}
	})
	return err
}

// markBegun makes every command under root note that its own work has begun.
func markBegun(root *cobra.Command) *bool {
	begun := new(bool)
	var mark func(*cobra.Command)
	mark = func(c *cobra.Command) {
		if work := c.RunE; work != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				if err := noneEmpty(c); err != nil {
					return err
				}
				*begun = true
				return work(c, args)
			}
		}
		for _, child := range c.Commands() {
			mark(child)
		}
	}
	mark(root)
	return begun
}
