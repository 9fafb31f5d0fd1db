package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/requorum/requorum/agent/member"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Names of the sockets, relative to etcd's working directory: the path of one is limited to about a hundred bytes.
const (
	clientSocket = "client.sock"
	peerSocket   = "peer.sock"
	peerURL      = "unix://" + peerSocket
)

const (
	lookEvery = 50 * time.Millisecond
	niceness  = 10   // the live member goes first
	lastLines = 2000 // bytes of etcd's log that an error shows
)

// serve starts etcd on what was staged, reads everything from it, and ends it.
func (d *Driller) serve(ctx context.Context, s *staged, m *requorumv1.Manifest, p Progress, found *agentv1.Drilled) (err error) {
	began := time.Now()
	p.Detail("starting etcd")
	ctx, e, err := d.start(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.end()) }()
	if err := d.verified(ctx, e, s, m, p, found); err != nil {
		return err
	}
	found.ServedIn = took(p, "starting etcd", began)
	began = time.Now()
	if err := e.readAll(ctx, s, m, p, found); err != nil {
		return e.why(ctx, err)
	}
	found.ReadIn = took(p, "reading", began)
	return nil
}

// verified waits until the member is what a restored member has to be, with the HashKV that was computed.
func (d *Driller) verified(ctx context.Context, e *etcd, s *staged, m *requorumv1.Manifest, p Progress, found *agentv1.Drilled) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.wait(s.size), errors.New("etcd took too long to serve what was restored"))
	defer cancel()
	want := &agentv1.Verify{
		ClusterId: s.GetClusterId(), MemberId: s.GetMemberId(), Revision: s.GetRevision(), HashRevision: s.GetRevision(),
		Members: map[string]string{memberName: peerURL}, Gate: s.GetGate(),
	}
	asked := member.New(member.Config{Endpoints: []string{"unix://" + e.socket()}}, d.Log)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		got, err := asked.Verify(ctx, want)
		if err == nil {
			return sameHash(got, s, m, found)
		}
		var notReady *member.NotReadyError
		if !errors.As(err, &notReady) {
			return e.why(ctx, err)
		}
		p.Tick()
		select {
		case <-ctx.Done():
			return e.why(ctx, err)
		case <-ticker.C:
		}
	}
}

func sameHash(got *agentv1.Verified, s *staged, m *requorumv1.Manifest, found *agentv1.Drilled) error {
	h := got.GetHashKv()
	found.HashKv, found.Revision, found.EtcdVersion = h.GetHash(), h.GetRevision(), got.GetMember().GetVersion()
	if h.GetHash() != s.GetStartedHashKv() || h.GetCompactRevision() != s.GetStartedCompactRevision() {
		return corrupt(m, "restored makes etcd answer HashKV %d at revision %d compacted to %d, where %d compacted to %d was computed",
			h.GetHash(), h.GetRevision(), h.GetCompactRevision(), s.GetStartedHashKv(), s.GetStartedCompactRevision())
	}
	return nil
}

// etcd is the process on the scratch directory.
type etcd struct {
	kill context.CancelCauseFunc
	dir  *os.File // by which the sockets have a short path, wherever they are
	done chan struct{}
	log  tail
}

var errOver = errors.New("the drill is over")

// start starts this binary as etcd. What it does needs no fsync: nobody will miss the data. The context that it returns
// ends with the process, which ends with ctx.
func (d *Driller) start(ctx context.Context, s *staged) (context.Context, *etcd, error) {
	dir, err := os.Open(d.Dir)
	if err != nil {
		return nil, nil, err
	}
	ctx, kill := context.WithCancelCause(ctx)
	e := &etcd{kill: kill, dir: dir, done: make(chan struct{})}
	cmd := exec.CommandContext(ctx, "/proc/self/exe",
		"--name", memberName, "--data-dir", s.dataDir,
		"--listen-client-urls", "unix://"+clientSocket, "--advertise-client-urls", "unix://"+clientSocket,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", memberName+"="+peerURL,
		"--log-level", "warn", "--unsafe-no-fsync", "--quota-backend-bytes", fmt.Sprint(max(8<<30, 2*s.size)))
	cmd.Args[0] = "etcd"
	cmd.Dir, cmd.Env = d.Dir, []string{"PATH=" + os.Getenv("PATH")} // ETCD_… of the agent's environment is not for it
	cmd.Stdout, cmd.Stderr = &e.log, &e.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go e.run(cmd, started)
	if err := <-started; err != nil {
		kill(errOver)
		<-e.done
		return nil, nil, errors.Join(fmt.Errorf("start etcd: %w", err), dir.Close())
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, niceness); err != nil {
		d.Log.Warn("etcd runs with the agent's priority", "error", err)
	}
	return ctx, e, nil
}

// run starts the process and waits for its end, on one thread: Pdeathsig is about the end of the thread that starts it.
func (e *etcd) run(cmd *exec.Cmd, started chan<- error) {
	defer close(e.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	started <- err
	if err != nil {
		return
	}
	err = cmd.Wait()
	e.kill(fmt.Errorf("etcd has ended on what was restored: %w", err))
}

// end ends the process, whatever it does, and waits for it. It has nothing to finish.
func (e *etcd) end() error {
	e.kill(errOver)
	<-e.done
	return e.dir.Close()
}

func (e *etcd) socket() string {
	return filepath.Join(fmt.Sprintf("/proc/self/fd/%d", e.dir.Fd()), clientSocket)
}

// dying is how long an etcd whose connections break may take to be gone.
const dying = 5 * time.Second

// why adds what etcd said last to an error, and the reason for which ctx has ended. Connections break before a process
// that dies is gone, and that it died says more.
func (e *etcd) why(ctx context.Context, err error) error {
	if status.Code(err) == codes.Unavailable {
		waited := time.NewTimer(dying)
		defer waited.Stop()
		select {
		case <-ctx.Done():
		case <-waited.C:
		}
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if said := e.log.String(); said != "" && ctx.Err() != nil && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w; its last lines: %s", err, said)
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if surplus := len(t.text) - lastLines; surplus > 0 {
		t.text = append(t.text[:0], t.text[surplus:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
