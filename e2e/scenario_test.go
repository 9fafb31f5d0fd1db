package e2e

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

var update = flag.Bool("update", false, "rewrite the expected reports in testdata")

// Every file of testdata is a story: what is done to a cluster, a line of ----, and what must then be true. The commands
// are those of the table in story.commands.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tale, want, found := strings.Cut(string(data), "----\n")
			if !found && !*update {
				t.Fatalf("%s has no line of ----", file)
			}
			s := &story{T: t, states: map[string]harness.State{}}
			s.tell(tale)
			got := s.report()
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimRight(tale, "\n")+"\n----\n"+got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

// story is a scenario that is being told.
type story struct {
	*testing.T
	c       *harness.Cluster
	line    string
	states  map[string]harness.State // by snapshot
	written harness.State            // after the last write or delete
	firstID uint64                   // of the cluster
	armed   []armed
}

// armed is a fault that has not been waited for.
type armed struct{ point, node, action string }

// tell does what the lines say, in order. What follows # says how the line ends.
func (s *story) tell(tale string) {
	for line := range strings.Lines(tale) {
		s.line = strings.TrimSpace(line)
		command, note, _ := strings.Cut(s.line, "#")
		args := strings.Fields(command)
		if len(args) == 0 {
			continue
		}
		do := s.commands()[args[0]]
		if do == nil {
			s.Fatalf("%q: no such command; there are %v", s.line, slices.Sorted(maps.Keys(s.commands())))
		}
		do(args[1:], strings.TrimSpace(note))
	}
}

func (s *story) commands() map[string]func(args []string, note string) {
	return map[string]func([]string, string){
		"cluster":    s.cluster,   // MEMBERS
		"write":      s.write,     // N keys
		"delete":     s.delete,    // N keys
		"save":       s.save,      // NAME
		"restore":    s.restore,   // NAME [FLAGS]; # fails N: with exit code N
		"fault":      s.fault,     // NODE|controller error|kill|… at POINT
		"wait-fired": s.waitFired, // until every fault took effect; what it killed is gone
		"kill":       s.kill,      // controller | agent NODE | etcd NODE
		"start":      s.start,     // controller | agent NODE
		"wipe":       s.wipe,      // NODE: its data directory is gone
		"damage":     s.damage,    // NODE: its database is garbage
		"settle":     s.settle,
		"given-up":   s.givenUp, // until the controller reverts
		"serving":    s.serving, // NODES serve what was last written, at this moment
	}
}

func (s *story) cluster(args []string, _ string) {
	s.c = harness.Start(s.T, harness.Options{Members: s.number(args[0])})
	s.firstID, _ = serving(s.T, s.c)
}

func (s *story) write(args []string, _ string) {
	s.c.Write(s.number(args[0]))
	s.written = s.c.Now()
}

func (s *story) delete(args []string, _ string) {
	s.c.Delete(s.number(args[0]))
	s.written = s.c.Now()
}

func (s *story) save(args []string, note string) {
	s.c.Expect(s.exit(note), append([]string{"snapshot", "save", "--name", args[0]}, args[1:]...)...)
	s.states[args[0]] = s.written
}

func (s *story) restore(args []string, note string) {
	s.c.Expect(s.exit(note), append([]string{"restore", "--yes", "--snapshot", args[0]}, args[1:]...)...)
}

// exit is the exit code that a note promises: 0, or that after "fails".
func (s *story) exit(note string) int {
	code, fails := strings.CutPrefix(note, "fails")
	if !fails {
		return 0
	}
	return s.number(strings.TrimSpace(code))
}

func (s *story) fault(args []string, _ string) {
	node, action, point := args[0], args[1], "agent/"+args[3]
	if node == "controller" {
		point = "controller/" + args[3]
	}
	full := action + " once"
	if action == "error" {
		full += " injected"
	}
	s.c.Arm(point, node, full)
	s.armed = append(s.armed, armed{point, node, action})
}

func (s *story) waitFired([]string, string) {
	for _, a := range s.armed {
		s.c.WaitFired(a.point, a.node)
		if a.action == "kill" {
			<-s.c.Process(a.node).Done()
		}
	}
	s.armed = nil
}

func (s *story) kill(args []string, _ string) {
	if args[0] == "etcd" {
		s.c.KillEtcd(args[1])
		return
	}
	if err := s.c.Process(args[len(args)-1]).Kill(); err != nil {
		s.Fatal(err)
	}
}

func (s *story) start(args []string, _ string) {
	s.c.StartAgain(args[len(args)-1])
}

func (s *story) damage(args []string, _ string) {
	db := filepath.Join(s.c.Node(args[0]).DataDir, "member", "snap", "db")
	if err := os.WriteFile(db, []byte("garbage"), 0o600); err != nil {
		s.Fatal(err)
	}
}

func (s *story) wipe(args []string, _ string) { s.c.Wipe(args[0]) }
func (s *story) settle([]string, string)      { s.c.Settle() }

// givenUp waits until the newest operation reverts.
func (s *story) givenUp([]string, string) {
	err := s.c.Until("the controller does not give the restore up", func() bool {
		return s.c.Operations()[0].GetState() == requorumv1.OperationState_OPERATION_STATE_REVERTING
	})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *story) serving(nodes []string, _ string) { holds(s.T, s.c, s.written, nodes...) }

// report says how things stand, in words that do not change from run to run.
func (s *story) report() string {
	op := s.c.Settle()
	var b strings.Builder
	fmt.Fprintf(&b, "operation: %s\n", outcome(op))
	id, _, err := s.c.Serving()
	switch {
	case err != nil:
		fmt.Fprintf(&b, "serving: no: %v\n", err)
		return b.String()
	case id == s.firstID:
		fmt.Fprintf(&b, "serving: %s, the same cluster as at the beginning, HashKV equal\n", strings.Join(s.c.NodeNames(), " "))
	default:
		fmt.Fprintf(&b, "serving: %s, one new cluster ID, HashKV equal\n", strings.Join(s.c.NodeNames(), " "))
	}
	fmt.Fprintf(&b, "keys: %s\n", s.keys())
	left := "nothing"
	if l := s.c.LeftBehind(); len(l) > 0 {
		left = strings.Join(l, ", ")
	}
	fmt.Fprintf(&b, "left behind: %s\n", left)
	return b.String()
}

// outcome is an operation's end, with the step and the node that failed.
func outcome(op *requorumv1.Operation) string {
	text := strings.TrimPrefix(op.GetState().String(), "OPERATION_STATE_")
	f := op.GetFailure()
	switch {
	case f == nil:
	case f.GetNode() == "":
		text += fmt.Sprintf(" (%s failed)", f.GetStep())
	default:
		text += fmt.Sprintf(" (%s failed on %s)", f.GetStep(), f.GetNode())
	}
	if op.GetAttention() != "" {
		text += ", needs a person: " + op.GetAttention()
	}
	return text
}

// keys says which of the known states the members hold.
func (s *story) keys() string {
	now := s.c.Now()
	if now.Diff(s.written) == "" {
		return fmt.Sprintf("all %d as last written", len(now))
	}
	for _, name := range slices.Sorted(maps.Keys(s.states)) {
		if now.Diff(s.states[name]) == "" {
			return fmt.Sprintf("all %d as in snapshot %s, none newer", len(now), name)
		}
	}
	return "neither as last written nor as in any snapshot: " + now.Diff(s.written)
}

func (s *story) number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		s.Fatalf("%q: %v", s.line, err)
	}
	return n
}
