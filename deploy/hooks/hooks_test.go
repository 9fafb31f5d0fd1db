// Package hooks_test keeps the ready-made hooks true: the files parse, the scripts do what they say, and every command line
// is one that requorum's own commands accept.
package hooks_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/cmd/requorum/cli"
)

// accepted fails unless requorum would take the arguments.
func accepted(t *testing.T, args []string) *cobra.Command {
	t.Helper()
	command, rest, err := cli.Root().Find(args)
	if err == nil {
		err = command.ParseFlags(rest)
	}
	if err == nil {
		err = command.ValidateArgs(command.Flags().Args())
	}
	if err == nil {
		err = command.ValidateRequiredFlags()
	}
	if err != nil || command.HasSubCommands() {
		t.Errorf("requorum %s: %v", strings.Join(args, " "), err)
	}
	return command
}

// documents returns what is in a YAML file.
func documents(t *testing.T, name string) []any {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []any
	for decoder := yaml.NewDecoder(f); ; {
		var doc any
		err := decoder.Decode(&doc)
		if err != nil {
			if err.Error() == "EOF" {
				return all
			}
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, doc)
	}
}

// commandLines finds requorum's arguments in a document: lists that begin with a command of it, also as JSON in a string.
func commandLines(doc any) (found [][]string) {
	switch v := doc.(type) {
	case map[string]any:
		for _, value := range v {
			found = append(found, commandLines(value)...)
		}
	case []any:
		if args := arguments(v); args != nil {
			return [][]string{args}
		}
		for _, value := range v {
			found = append(found, commandLines(value)...)
		}
	case string:
		var list []any
		if json.Unmarshal([]byte(v), &list) == nil {
			return commandLines(list)
		}
	}
	return found
}

func arguments(list []any) (args []string) {
	for _, value := range list {
		text, ok := value.(string)
		if !ok {
			return nil
		}
		args = append(args, text)
	}
	if len(args) > 0 && filepath.Base(args[0]) == "requorum" {
		args = args[1:]
	}
	if len(args) == 0 || !slices.ContainsFunc(cli.Root().Commands(), func(c *cobra.Command) bool { return c.Name() == args[0] }) {
		return nil
	}
	return args
}

func TestFilesParseAndTheirCommandLinesAreAccepted(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			var lines [][]string
			for _, doc := range documents(t, file) {
				lines = append(lines, commandLines(doc)...)
			}
			if len(lines) != 1 {
				t.Fatalf("%d command lines of requorum: %v", len(lines), lines)
			}
			given := 0
			command := accepted(t, substituted(lines[0]))
			command.Flags().Visit(func(*pflag.Flag) { given++ })
			if command.CommandPath() != "requorum hook pre-upgrade" || given < 3 {
				t.Errorf("%s with %d flags", command.CommandPath(), given)
			}
		})
	}
}

// A flag that does not exist must not pass.
func TestCommandLinesThatRequorumDoesNotKnowAreNoticed(t *testing.T) {
	command, rest, err := cli.Root().Find([]string{"hook", "pre-upgrade", "--max-aeg=2h"})
	if err != nil || command.ParseFlags(rest) == nil {
		t.Error("a flag that is misspelt is accepted")
	}
}

// substituted puts something in the place of templates.
func substituted(args []string) []string {
	args = slices.Clone(args)
	for i, arg := range args {
		if name, value, found := strings.Cut(arg, "="); found && strings.Contains(value, "{{") {
			args[i] = name + "=" + map[bool]string{true: "2h", false: "x"}[strings.Contains(name, "age")]
		}
	}
	return args
}

// bench is a directory of commands that are not the real ones.
type bench struct {
	*testing.T
	dir string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir()}
	b.command("kubectl", `printf '{"clientVersion": {"gitVersion": "v9"},\n"serverVersion": {\n"major": "1",\n"gitVersion": "v1.30.4"\n}}'`)
	b.command("kubeadm", `[ -z "$KUBEADM_FAILS" ]`)
	b.command("requorum", `case "$1" in hook) [ -z "$HOOK_FAILS" ] || exit 3; echo pre-upgrade-prod-1;; restore) [ -z "$RESTORE_FAILS" ] || exit 3;; esac`)
	return b
}

// command makes a command that writes down how it is called, a line for each argument, and runs the script.
func (b *bench) command(name, script string) {
	b.Helper()
	text := fmt.Sprintf("#!/usr/bin/env bash\n{ echo '>%s'; printf '%%s\\n' \"$@\"; } >>'%s'\n%s\n", name, filepath.Join(b.dir, "calls"), script)
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o755); err != nil {
		b.Fatal(err)
	}
}

// run runs a script and returns its exit code, its output, and the calls that it made.
func (b *bench) run(env []string, script string, args ...string) (code int, output string, calls [][]string) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "bash", append([]string{script}, args...)...)
	cmd.Env = append(append(os.Environ(), "PATH="+b.dir+":"+os.Getenv("PATH"), "REQUORUM_STATE="+filepath.Join(b.dir, "state")), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		b.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(b.dir, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if name, begins := strings.CutPrefix(line, ">"); begins {
			calls = append(calls, []string{name})
		} else if len(calls) > 0 {
			calls[len(calls)-1] = append(calls[len(calls)-1], line)
		}
	}
	for _, c := range calls {
		if c[0] == "requorum" {
			accepted(b.T, c[1:])
		}
	}
	return cmd.ProcessState.ExitCode(), string(out), calls
}

func names(calls [][]string) (all []string) {
	for _, c := range calls {
		all = append(all, strings.Join(c[:min(2, len(c))], " "))
	}
	return all
}

func TestKubeadmIsWrapped(t *testing.T) {
	const cluster = "REQUORUM_CLUSTER=prod"
	for name, c := range map[string]struct {
		env   []string
		code  int
		calls []string
		says  string
	}{
		"all is well":       {[]string{cluster}, 0, []string{"kubectl version", "requorum hook", "kubeadm upgrade"}, "snapshot to go back to: pre-upgrade-prod-1"},
		"no snapshot":       {[]string{cluster, "HOOK_FAILS=1"}, 3, []string{"kubectl version", "requorum hook"}, ""},
		"the upgrade fails": {[]string{cluster, "KUBEADM_FAILS=1"}, 1, []string{"kubectl version", "requorum hook", "kubeadm upgrade"}, "./post-upgrade-failed.sh prod"},
		"no cluster":        {nil, 1, nil, "set it to the name of the cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			code, out, calls := b.run(c.env, "kubeadm-upgrade.sh", "apply", "v1.31.5")
			if code != c.code || !slices.Equal(names(calls), c.calls) || !strings.Contains(out, c.says) {
				t.Fatalf("exit %d, want %d; calls %q, want %q\n%s", code, c.code, calls, c.calls, out)
			}
			noted, err := os.ReadFile(filepath.Join(b.dir, "state", "prod.pre-upgrade"))
			if upgraded := len(c.calls) == 3; upgraded != (err == nil) || upgraded && string(noted) != "pre-upgrade-prod-1\n" {
				t.Errorf("noted %q, %v", noted, err)
			}
			if len(calls) > 1 && !slices.Contains(calls[1], "v1.30.4") {
				t.Errorf("the hook was not told Kubernetes' version: %q", calls[1])
			}
		})
	}
}

func TestGoingBackAfterAnUpgradeThatFailed(t *testing.T) {
	for name, c := range map[string]struct {
		env, args []string
		noted     string
		code      int
		calls     [][]string
	}{
		"by name": {nil, []string{"prod", "s-1"}, "", 0, [][]string{
			{"requorum", "restore", "--cluster", "prod", "--snapshot", "s-1", "--plan"}, {"requorum", "restore", "--cluster", "prod", "--snapshot", "s-1", "--yes"},
		}},
		"as noted": {nil, []string{"prod"}, "s-2\n", 0, [][]string{
			{"requorum", "restore", "--cluster", "prod", "--snapshot", "s-2", "--plan"}, {"requorum", "restore", "--cluster", "prod", "--snapshot", "s-2", "--yes"},
		}},
		"refused by the plan": {[]string{"RESTORE_FAILS=1"}, []string{"prod", "s-1"}, "", 3, [][]string{{"requorum", "restore", "--cluster", "prod", "--snapshot", "s-1", "--plan"}}},
		"nothing was noted":   {nil, []string{"prod"}, "", 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if c.noted != "" {
				state := filepath.Join(b.dir, "state")
				if err := errors.Join(os.Mkdir(state, 0o700), os.WriteFile(filepath.Join(state, "prod.pre-upgrade"), []byte(c.noted), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			code, out, calls := b.run(c.env, "post-upgrade-failed.sh", c.args...)
			if code != c.code || !slices.EqualFunc(calls, c.calls, slices.Equal[[]string]) {
				t.Errorf("exit %d, want %d; calls %q, want %q\n%s", code, c.code, calls, c.calls, out)
			}
		})
	}
}

// Scripts are at least read by bash, and by shellcheck where that is installed.
func TestScriptsAreSound(t *testing.T) {
	files, err := filepath.Glob("*.sh")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	checks := [][]string{append([]string{"bash", "-n"}, files...)}
	if _, err := exec.LookPath("shellcheck"); err == nil {
		checks = append(checks, append([]string{"shellcheck"}, files...))
	}
	for _, check := range checks {
		if out, err := exec.CommandContext(t.Context(), check[0], check[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", check[0], err, out)
		}
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
}
