// Package docs_test keeps the documentation true: every requorum command in it parses, every configuration
// loads, every call of the API exists, every file that is linked and every test that is named is there.
package docs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	_ "github.com/requorum/requorum/gen/requorum/v1" // registers the API

	"github.com/requorum/requorum/agent"
	"github.com/requorum/requorum/cmd/requorum/cli"
	"github.com/requorum/requorum/cmd/requorum/dev"
	"github.com/requorum/requorum/cmd/requorum/serve"
	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/internal/config"
)

// page is one file of the documentation.
type page struct {
	path string
	text string
}

func pages(t *testing.T) []page {
	t.Helper()
	var found []page
	for _, pattern := range []string{"../README.md", "../CHANGELOG.md", "../CONTRIBUTING.md", "*.md", "adr/*.md", "runtimes/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, page{path, string(text)})
		}
	}
	return found
}

var fence = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// blocks returns the fenced blocks of a language.
func (p page) blocks(language string) []string {
	var found []string
	for _, m := range fence.FindAllStringSubmatch(p.text, -1) {
		if m[1] == language {
			found = append(found, m[2])
		}
	}
	return found
}

func TestCommandsParse(t *testing.T) {
	checked := 0
	for _, p := range pages(t) {
		for _, block := range p.blocks("sh") {
			for _, words := range commands(block) {
				if !isRequorum(words[0]) {
					continue
				}
				checked++
				if err := parses(words[1:], true); err != nil {
					t.Errorf("%s: %s: %v", p.path, strings.Join(words, " "), err)
				}
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d commands were found", checked)
	}
}

// TestCommandsInSentencesExist checks what stands between backquotes; there, something may be left out.
func TestCommandsInSentencesExist(t *testing.T) {
	span := regexp.MustCompile("`(requorum [^`]+)`")
	for _, p := range pages(t) {
		for _, m := range span.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			for _, words := range commands(m[1]) {
				if err := parses(words[1:], false); err != nil {
					t.Errorf("%s: %s: %v", p.path, m[1], err)
				}
			}
		}
	}
}

func isRequorum(word string) bool { return word == "requorum" || strings.HasSuffix(word, "/requorum") }

// parses tells whether requorum would take the arguments. What is complete also has every argument and flag
// that is needed.
func parses(args []string, complete bool) error {
	root := cli.Root()
	root.AddCommand(serve.Controller(), serve.Agent(), dev.Command())
	root.InitDefaultVersionFlag()
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	c.InitDefaultHelpFlag()
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if c.HasSubCommands() && len(c.Flags().Args()) > 0 {
		return fmt.Errorf("%s has no command %q", c.CommandPath(), c.Flags().Arg(0))
	}
	if !complete || asks(c) {
		return nil
	}
	if c.HasSubCommands() && c.Name() != "agent" { // which runs one, and can also detect
		return fmt.Errorf("%s does nothing by itself", c.CommandPath())
	}
	if err := errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups()); err != nil {
		return err
	}
	return c.ValidateArgs(c.Flags().Args())
}

// asks tells whether the arguments only ask for help or the version.
func asks(c *cobra.Command) bool {
	return c.Flags().Changed("help") || c.Flags().Lookup("version") != nil && c.Flags().Changed("version")
}

func TestParsesRefusesWhatIsWrong(t *testing.T) {
	for line, good := range map[string]bool{
		"requorum snapshot save --name x":         true,
		"requorum restore --snapshot latest":      true,
		"requorum --version":                      true,
		"requorum restore":                        false,
		"requorum snapshot save --nme x":          false,
		"requorum snapshot sav":                   false,
		"requorum snapshot show":                  false,
		"requorum snapshot show a b":              false,
		"requorum snapshot ls -o xml":             false,
		"requorum restore --quarantine soon":      false,
		"requorum agent --config a.yaml --secret": false,
		"requorum": false,
	} {
		if err := parses(commands(line)[0][1:], true); (err == nil) != good {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// commands splits shell text into simple commands and these into words. It knows quotes, escapes, comments,
// redirections, variables set for one command, sudo, and what separates commands.
func commands(text string) [][]string {
	s := splitter{rest: []rune(text + "\n")}
	for len(s.rest) > 0 {
		r := s.next()
		switch {
		case s.quote != 0:
			s.quoted(r)
		case r == '#' && !s.begun:
			s.skipUntil("\n")
		case r == '>' || r == '<': // what follows is a file
			s.endWord()
			for strings.ContainsRune(" >", s.rest[0]) {
				s.next()
			}
			s.skipUntil(" \n;&|()")
		case strings.ContainsRune("\n;&|()", r):
			s.endCommand()
		case r == ' ' || r == '\t':
			s.endWord()
		default:
			s.plain(r)
		}
	}
	return s.found
}

type splitter struct {
	rest  []rune
	found [][]string
	words []string
	word  strings.Builder
	begun bool // a word, which may be empty
	quote rune // that is open, 0 if none
}

func (s *splitter) next() rune {
	r := s.rest[0]
	s.rest = s.rest[1:]
	return r
}

func (s *splitter) skipUntil(end string) {
	for !strings.ContainsRune(end, s.rest[0]) {
		s.next()
	}
}

func (s *splitter) quoted(r rune) {
	switch {
	case r == s.quote:
		s.quote = 0
	case r == '\\' && s.quote == '"':
		s.word.WriteRune(s.next())
	default:
		s.word.WriteRune(r)
	}
}

func (s *splitter) plain(r rune) {
	switch r {
	case '\'', '"':
		s.quote = r
	case '\\':
		if r = s.next(); r == '\n' {
			return // the line goes on
		}
		s.word.WriteRune(r)
	default:
		s.word.WriteRune(r)
	}
	s.begun = true
}

func (s *splitter) endWord() {
	if s.begun {
		s.words = append(s.words, s.word.String())
	}
	s.word.Reset()
	s.begun = false
}

var before = regexp.MustCompile(`^(sudo|exec|[A-Z_]+=.*)$`)

func (s *splitter) endCommand() {
	s.endWord()
	for len(s.words) > 0 && before.MatchString(s.words[0]) {
		s.words = s.words[1:]
	}
	if len(s.words) > 0 {
		s.found = append(s.found, s.words)
	}
	s.words = nil
}

func TestCommandsAreSplitAsAShellDoes(t *testing.T) {
	for text, want := range map[string]string{
		"a b\nc":                         "[[a b] [c]]",
		"(umask 077; a --x 'b c' > f d)": "[[umask 077] [a --x b c d]]",
		"sudo X=1 a \\\n  b # why\n":     "[[a b]]",
		`a -d "{\"id\":\"$ID\"}" | b`:    `[[a -d {"id":"$ID"}] [b]]`,
		"a && b || c":                    "[[a] [b] [c]]",
		"ID=$(a b)":                      "[[a b]]",
	} {
		got := fmt.Sprint(commands(text))
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestConfigurationsLoad loads every YAML block; its first line names the file that it is.
func TestConfigurationsLoad(t *testing.T) {
	checked := 0
	for _, p := range pages(t) {
		for _, block := range p.blocks("yaml") {
			first, _, _ := strings.Cut(block, "\n")
			into := map[string]any{"controller.yaml": new(controller.Config), "agent.yaml": new(agent.Config)}[filepath.Base(strings.TrimPrefix(first, "# "))]
			if into == nil {
				t.Errorf("%s: a YAML block begins with %q, which does not name a file whose content is known", p.path, first)
				continue
			}
			checked++
			file := filepath.Join(t.TempDir(), "block.yaml")
			if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := config.Load(file, into); err != nil {
				t.Errorf("%s: %s: %v", p.path, first, err)
			}
		}
	}
	if checked < 3 {
		t.Errorf("only %d configurations were found", checked)
	}
}

// TestCallsExist checks every grpcurl command: the method exists and takes the message.
func TestCallsExist(t *testing.T) {
	checked := 0
	for _, p := range pages(t) {
		for _, block := range p.blocks("sh") {
			for _, words := range commands(block) {
				if !strings.HasSuffix(words[0], "grpcurl") {
					continue
				}
				checked++
				if err := callable(words[1:]); err != nil {
					t.Errorf("%s: %s: %v", p.path, strings.Join(words, " "), err)
				}
			}
		}
	}
	if checked < 2 {
		t.Errorf("only %d calls were found", checked)
	}
}

func callable(args []string) error {
	last, message := args[len(args)-1], "{}"
	for i, a := range args {
		if a == "-d" {
			message = args[i+1]
		}
	}
	service, method, isCall := strings.Cut(last, "/")
	if !isCall {
		return nil // list and describe
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return err
	}
	services, ok := d.(protoreflect.ServiceDescriptor)
	if !ok || services.Methods().ByName(protoreflect.Name(method)) == nil {
		return fmt.Errorf("%s has no method %s", service, method)
	}
	return protojson.Unmarshal([]byte(message), dynamicpb.NewMessage(services.Methods().ByName(protoreflect.Name(method)).Input()))
}

func TestLinksLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)|src="([^"]+)"`)
	for _, p := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			target := m[1] + m[3]
			if u, err := url.Parse(target); err == nil && u.IsAbs() {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(p.path), target)); err != nil {
				t.Errorf("%s: %v", p.path, err)
			}
		}
	}
}

// TestLinksLeadToHeadings checks what stands behind the # of a link to one of the pages.
func TestLinksLeadToHeadings(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]*)#([^)]+)\)`)
	all := pages(t)
	headings := make(map[string]map[string]bool)
	for _, p := range all {
		headings[filepath.Clean(p.path)] = anchors(p.text)
	}
	for _, p := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			to := filepath.Clean(p.path)
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(p.path), m[1])
			}
			if known, isPage := headings[to]; isPage && !known[m[2]] {
				t.Errorf("%s: %s has no heading for #%s", p.path, to, m[2])
			}
		}
	}
}

// anchors returns the names that GitHub gives to a page's headings.
func anchors(text string) map[string]bool {
	found := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		found[strings.ReplaceAll(name, " ", "-")] = true
	}
	return found
}

// TestTheRunbookTakesACluster is for who has several, as the page says.
func TestTheRunbookTakesACluster(t *testing.T) {
	text, err := os.ReadFile("runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, block := range (page{"runbook.md", string(text)}).blocks("sh") {
		for _, words := range commands(block) {
			if strings.Join(words, " ") == "requorum operation watch ID" {
				continue
			}
			checked++
			if err := parses(append(words[1:], "--cluster", "prod"), true); err != nil {
				t.Errorf("%s: %v", strings.Join(words, " "), err)
			}
		}
	}
	if checked < 8 {
		t.Errorf("only %d commands were found", checked)
	}
}

// TestNamedTestsExist holds the documentation to the proofs that it names.
func TestNamedTestsExist(t *testing.T) {
	var source strings.Builder
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")
	for _, p := range pages(t) {
		for _, m := range name.FindAllStringSubmatch(p.text, -1) {
			if !strings.Contains(source.String(), "func "+m[1]+"(") {
				t.Errorf("%s names %s, and there is no such test", p.path, m[1])
			}
		}
	}
}
