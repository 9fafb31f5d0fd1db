package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/live"
	"github.com/requorum/requorum/internal/pki"
)

type watchStream = grpc.ServerStreamingServer[requorumv1.WatchOperationResponse]

func TestRestoreAsksAndRestoresWhatWasConfirmed(t *testing.T) {
	for answer, code := range map[string]int{"y\n": ExitDone, "YES\n": ExitDone, "n\n": ExitError, "\n": ExitError, "": ExitError} {
		f := newFake(t)
		f.op = restored()
		r := inTest().onTerminal(answer).command(t.Context(), f, "restore", "--snapshot", "latest", "--quarantine", "48h", "--nodes", "etcd-1,etcd-2")
		if r.code != code {
			t.Errorf("%q: exit %d\n%s", answer, r.code, r.err)
		}
		if code != ExitDone {
			if len(f.got()) > 0 || !strings.Contains(r.err, "nothing was changed") {
				t.Errorf("%q: asked for %v\n%s", answer, f.got(), r.err)
			}
			continue
		}
		req, ok := f.got()[0].(*requorumv1.StartRestoreRequest)
		spec := req.GetSpec()
		if !ok || req.GetRequestId() != requestID || spec.GetSnapshot() != "pre-1.31" || spec.GetCluster() != "prod" ||
			spec.GetQuarantine().AsDuration() != 48*time.Hour || len(spec.GetNodes()) != 2 {
			t.Errorf("asked for %v", req)
		}
	}
}

func TestWhatWasTypedBeforeTheQuestionIsNoAnswer(t *testing.T) {
	for _, line := range []string{"restore --snapshot pre-1.31", "snapshot rm pre-1.31"} {
		f := newFake(t)
		s := inTest().onTerminal("y\n")
		s.forget = func() error {
			s.in = strings.NewReader("n\n")
			return nil
		}
		r := s.command(t.Context(), f, strings.Fields(line)...)
		if r.code != ExitError || len(f.got()) > 0 || !strings.Contains(r.err, "not confirmed; nothing was changed") {
			t.Errorf("%s: exit %d, asked for %v\n%s", line, r.code, f.got(), r.err)
		}
	}
}

func TestDiscardingDropsWhatATerminalHolds(t *testing.T) {
	keyboard, terminal := pseudoTerminal(t)
	if _, err := keyboard.WriteString("y\n"); err != nil {
		t.Fatal(err)
	}
	// What is typed reaches the other end a little later.
	waiting := []unix.PollFd{{Fd: int32(terminal.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(waiting, 5000); err != nil || n != 1 {
		t.Fatalf("nothing arrived: %d, %v", n, err)
	}
	if err := discardTyped(terminal); err != nil {
		t.Fatal(err)
	}
	if _, err := keyboard.WriteString("n\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(terminal).ReadString('\n'); err != nil || line != "n\n" {
		t.Errorf("read %q, %v", line, err)
	}
}

// pseudoTerminal opens both ends of a terminal.
func pseudoTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	return keyboard, terminal
}

func TestRestoreOnATerminalLooksAsWritten(t *testing.T) {
	f := newFake(t)
	f.op = restored()
	r := inTest().onTerminal("y\n").command(t.Context(), f, "restore", "--snapshot", "pre-1.31")
	visible := strings.NewReplacer("\x1b", "^[", "\r", "^M")
	r.out, r.err = visible.Replace(r.out), visible.Replace(r.err)
	golden(t, f, "restore-terminal", "restore --snapshot pre-1.31", r)
}

func TestAChangingCallIsRepeatedWithTheSameRequestID(t *testing.T) {
	f := newFake(t)
	f.failures = 2
	r := f.command(t, "snapshot", "save", "--cluster", "prod", "--request-id", "mine")
	if r.code != ExitDone || strings.Count(r.err, "no answer, trying again") != 2 {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	if len(f.got()) != 3 {
		t.Fatalf("%d requests", len(f.got()))
	}
	for _, req := range f.got() {
		if !proto.Equal(req, f.got()[0]) || req.(*requorumv1.SaveSnapshotRequest).GetRequestId() != "mine" {
			t.Errorf("asked for %v", req)
		}
	}
}

func TestGivingUpSaysHowToRepeatSafely(t *testing.T) {
	f := newFake(t)
	f.failures = 1000
	r := f.command(t, "snapshot", "save")
	if r.code != ExitError || !strings.Contains(r.err, "run it again with --request-id "+requestID) {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
}

func TestAControllerThatDoesNotAnswerIsNamed(t *testing.T) {
	f := newFake(t)
	r := f.command(t, "cluster", "ls", "--controller", "127.0.0.1:1")
	if r.code != ExitError || !strings.Contains(r.err, "controller 127.0.0.1:1 does not answer: dial tcp 127.0.0.1:1: connect: connection refused\n  is it running") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
}

func TestAServerThatIsNotTheControllerIsRefused(t *testing.T) {
	f, other := newFake(t), newFake(t)
	r := f.command(t, "cluster", "ls", "--controller", other.address)
	if r.code != ExitError || !strings.Contains(r.err, "does not answer: ") || strings.Contains(r.err, "rpc error") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
}

func TestFollowingGoesOnWhenTheStreamBreaks(t *testing.T) {
	f := newFake(t)
	running := proto.Clone(f.op).(*requorumv1.Operation)
	running.State, running.Ended = requorumv1.OperationState_OPERATION_STATE_RUNNING, nil
	streams := 0
	f.watch = func(s watchStream) error {
		streams++
		switch streams {
		case 1:
			if err := s.Send(whole(running)); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "the controller is stopping")
		case 2:
			return nil // ended too early
		}
		return s.Send(whole(f.op))
	}
	r := f.command(t, "operation", "watch", opID)
	if r.code != ExitDone || streams != 3 ||
		!strings.Contains(r.out, "lost sight of the operation (the controller is stopping); it goes on, or waits for") ||
		!strings.Contains(r.out, "the controller answers again") {
		t.Errorf("exit %d after %d streams\n%s%s", r.code, streams, r.out, r.err)
	}
}

func TestCtrlCDetachesAndSaysThatTheOperationGoesOn(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.watch = func(s watchStream) error { // it has told nothing yet: whether that would be shown in time is chance
		cancel()
		<-s.Context().Done()
		return s.Context().Err()
	}
	r := inTest().command(ctx, f, "snapshot", "save")
	golden(t, f, "detached", "snapshot save (Ctrl-C)", r)
}

func TestCtrlCAtTheQuestionChangesNothing(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := inTest().onTerminal("")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = writer.Close() // lets the reading goroutine end
		_ = reader.Close()
	})
	s.in = reader
	s.program.err = cancelAt{&s.err, "[y/N]", cancel}
	r := s.command(ctx, f, "restore", "--snapshot", "pre-1.31")
	if r.code != ExitError || !strings.Contains(r.err, "not confirmed; nothing was changed") || len(f.got()) > 0 {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
}

// cancelAt cancels once a text is written.
type cancelAt struct {
	to interface {
		Write([]byte) (int, error)
	}
	text   string
	cancel context.CancelFunc
}

func (c cancelAt) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.text) {
		c.cancel()
	}
	return c.to.Write(p)
}

func TestAccessCreateWritesAConfigurationThatWorks(t *testing.T) {
	f := newFake(t)
	dir := filepath.Join(t.TempDir(), "bob")
	r := f.command(t, "access", "create", "--name", "bob", "--role", "viewer", "--out", dir, "--ttl", "1h")
	if r.code != ExitDone {
		t.Fatalf("exit %d\n%s", r.code, r.err)
	}
	for _, name := range accessFiles {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	creds, err := pki.LoadCredentials(filepath.Join(dir, certFile), filepath.Join(dir, keyFile), filepath.Join(dir, caFile))
	if err != nil || creds.Identity() != pki.OperatorIdentity(requorumv1.Role_ROLE_VIEWER, "bob") {
		t.Errorf("%v, %v", creds, err)
	}
	if r := inTest().command(t.Context(), nil, "--config", filepath.Join(dir, configFile), "cluster", "ls"); r.code != ExitDone {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	key, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		t.Fatal(err)
	}
	r = f.command(t, "access", "create", "--name", "bob", "--role", "viewer", "--out", dir)
	if again, err := os.ReadFile(filepath.Join(dir, keyFile)); r.code != ExitError || err != nil || string(again) != string(key) {
		t.Errorf("exit %d, %v\n%s", r.code, err, r.err)
	}
}

func TestAccessRefusedWritesNothing(t *testing.T) {
	f := newFake(t)
	f.refuse = status.Error(codes.PermissionDenied, "alice has the role operator; admin is needed")
	dir := filepath.Join(t.TempDir(), "bob")
	r := f.command(t, "access", "create", "--name", "bob", "--role", "admin", "--out", dir)
	if _, err := os.Stat(dir); r.code != ExitRefused || !os.IsNotExist(err) {
		t.Errorf("exit %d, %v\n%s", r.code, err, r.err)
	}
}

func TestConfigurationIsFoundInOrder(t *testing.T) {
	f := newFake(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", "")
	r := inTest().command(t.Context(), nil, "cluster", "ls")
	if r.code != ExitUsage || !strings.Contains(r.err, "--controller is not given") || !strings.Contains(r.err, home+"/.config/requorum/requorum.yaml") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
	usual := filepath.Join(home, ".config", "requorum")
	if err := os.MkdirAll(usual, 0o700); err != nil {
		t.Fatal(err)
	}
	f.admit(t, usual)
	if r := inTest().command(t.Context(), nil, "cluster", "ls"); r.code != ExitDone {
		t.Errorf("usual place: exit %d\n%s", r.code, r.err)
	}
	t.Setenv("REQUORUM_CONFIG", "/nowhere.yaml")
	if r := inTest().command(t.Context(), nil, "cluster", "ls"); r.code != ExitUsage || !strings.Contains(r.err, "there is no configuration file /nowhere.yaml") {
		t.Errorf("environment: exit %d\n%s", r.code, r.err)
	}
	if r := f.command(t, "cluster", "ls"); r.code != ExitDone {
		t.Errorf("flag: exit %d\n%s", r.code, r.err)
	}
	misspelt := filepath.Join(home, "c.yaml")
	if err := os.WriteFile(misspelt, []byte("controler: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = inTest().command(t.Context(), nil, "--config", misspelt, "cluster", "ls")
	if r.code != ExitUsage || !strings.HasPrefix(r.err, misspelt+":1: unknown key controler; did you mean controller?\n") {
		t.Errorf("misspelt: exit %d\n%s", r.code, r.err)
	}
	if err := os.WriteFile(misspelt, []byte("controller: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = inTest().command(t.Context(), nil, "--config", misspelt, "cluster", "ls")
	if r.code != ExitUsage || !strings.Contains(r.err, misspelt) {
		t.Errorf("broken: exit %d\n%s", r.code, r.err)
	}
}

// What is given in place of a key is not proposed as the place to write one to.
func TestAKeyFileThatIsNoneIsRefused(t *testing.T) {
	f := newFake(t)
	r := f.command(t, "restore", "--snapshot", "pre-1.31", "--plan", "--identity", f.config)
	if r.code != ExitUsage || !strings.HasPrefix(r.err, "--identity: "+f.config+" is not a key file of age; age-keygen makes one\n") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
}

func TestAWrongCertificateSaysWhoMakesARightOne(t *testing.T) {
	f := newFake(t)
	r := f.command(t, "cluster", "ls", "--cert", filepath.Join(filepath.Dir(f.config), "ca.crt"))
	if r.code != ExitError || !strings.Contains(r.err, "\n  an admin makes a certificate, its key and the CA that belong together with: requorum access create") {
		t.Errorf("exit %d\n%s", r.code, r.err)
	}
}

// A person is told what is waited for; a log is not.
func TestACallThatTakesLongIsShownOnATerminal(t *testing.T) {
	f := newFake(t)
	for _, there := range []bool{true, false} {
		answer := make(chan struct{})
		f.listRemote = func() { <-answer }
		s := inTest()
		s.slow = time.Millisecond
		var shown notice
		s.program.err = &shown
		shown.seen = sync.OnceFunc(func() { close(answer) })
		if there {
			s.notices = func() (live.Terminal, bool) { return live.Terminal{}, true }
		} else {
			close(answer)
		}
		r := s.command(t.Context(), f, "remote", "snapshots", "off-site", "--cluster", "prod")
		if told := strings.Contains(shown.text, "waiting for the answer of controller "); r.code != ExitDone || told != there {
			t.Errorf("exit %d, told %t: %s", r.code, told, shown.text)
		}
	}
}

// notice is what is written, and calls seen when something is.
type notice struct {
	text string
	seen func()
}

func (n *notice) Write(text []byte) (int, error) {
	n.text += string(text)
	n.seen()
	return len(text), nil
}

func TestNamesAreProposed(t *testing.T) {
	f := newFake(t)
	for line, want := range map[string]string{
		"cluster status ":                          "prod\t2 of 3 nodes",
		"snapshot show ":                           "pre-1.31\tready 273 KiB 41m ago",
		"restore --snapshot ":                      "latest\tthe newest that is ready",
		"operation watch ":                         opID + "\tSave snapshot pre-1.31 of prod, succeeded",
		"cluster remove-node prod ":                "etcd-2\tconnected",
		"restore --nodes etcd-1,":                  "etcd-1,etcd-2\tconnected",
		"snapshot save --cluster ":                 "prod\t",
		"snapshot ls -o ":                          "yaml\tfor programs",
		"access create --role ":                    "viewer\tmay look",
		"snapshot import --node ":                  "etcd-3\tseen 7m ago",
		"access revoke ":                           "\talice",
		"cluster status --controller 127.0.0.1:1 ": ":4", // nobody there: nothing is proposed, no files either
	} {
		args := strings.Split(line, " ")
		r := inTest().command(t.Context(), nil, append([]string{"__complete", "--config", f.config}, args...)...)
		if r.code != ExitDone || !strings.Contains(r.out, want) {
			t.Errorf("%s: exit %d\n%s%s", line, r.code, r.out, r.err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := inTest().command(t.Context(), nil, "completion", shell); r.code != ExitDone || !strings.Contains(r.out, "requorum") {
			t.Errorf("%s: exit %d", shell, r.code)
		}
	}
}
