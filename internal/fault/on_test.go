//go:build faultinject

package fault_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/requorum/requorum/internal/fault"
	"github.com/requorum/requorum/internal/fault/faulttest"
)

const patience = 20 * time.Second

var point = fault.Declare("test/on/point", "in these tests")

// TestMain is also the process that dies in TestKill.
func TestMain(m *testing.M) {
	if os.Getenv("FAULT_TEST_VICTIM") != "" {
		if err := fault.At(context.Background(), point); err != nil {
			os.Exit(3)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// armed is a directory that this process looks at, as node etcd-1.
func armed(t *testing.T) faulttest.Dir {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(fault.DirEnv, dir)
	t.Setenv(fault.NodeEnv, "etcd-1")
	return faulttest.Dir(dir)
}

func arm(t *testing.T, dir faulttest.Dir, node, action string) {
	t.Helper()
	if err := dir.Arm(point, node, action); err != nil {
		t.Fatal(err)
	}
}

func waitFired(t *testing.T, dir faulttest.Dir, node string, n int) []fault.Firing {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	firings, err := dir.Wait(ctx, point, node, n)
	if err != nil {
		t.Fatal(err)
	}
	return firings
}

func TestErrorMessage(t *testing.T) {
	dir := armed(t)
	arm(t, dir, "", "error the disk fell out")
	for range 2 {
		err := fault.At(t.Context(), point)
		var injected *fault.InjectedError
		if !errors.As(err, &injected) || injected.Message != "the disk fell out" || injected.Point != point {
			t.Fatalf("At: %v", err)
		}
	}
	firings := waitFired(t, dir, "", 2)
	got := firings[0]
	if got.PID != os.Getpid() || got.Node != "etcd-1" || got.Point != point || got.Action != "error" || time.Since(got.Time) > patience {
		t.Errorf("trace says %+v", got)
	}
}

func TestENOSPC(t *testing.T) {
	arm(t, armed(t), "", "enospc")
	if err := fault.At(t.Context(), point); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("At: %v, want ENOSPC", err)
	}
}

func TestTwiceIsForTheTaskThatIsTraced(t *testing.T) {
	dir := armed(t)
	arm(t, dir, "", "twice once")
	ctx := fault.WithTask(t.Context(), "operation/stage/do/1/etcd-1")
	for _, want := range []error{fault.ErrTwice, nil} {
		if err := fault.At(ctx, point); !errors.Is(err, want) {
			t.Errorf("At: %v, want %v", err, want)
		}
	}
	if got := waitFired(t, dir, "", 1)[0].Task; got != "operation/stage/do/1/etcd-1" {
		t.Errorf("trace has task %q", got)
	}
}

func TestNothingArmed(t *testing.T) {
	dir := armed(t)
	arm(t, dir, "etcd-2", "error meant for another node")
	if err := fault.At(t.Context(), point); err != nil {
		t.Errorf("At: %v", err)
	}
	t.Setenv(fault.DirEnv, "")
	if err := fault.At(t.Context(), "never/declared"); err != nil {
		t.Errorf("At without a directory: %v", err)
	}
}

func TestOwnNodeGoesFirst(t *testing.T) {
	dir := armed(t)
	arm(t, dir, "", "error everywhere")
	arm(t, dir, "etcd-1", "error once here")
	for _, want := range []string{"here", "everywhere"} {
		if err := fault.At(t.Context(), point); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("At: %v, want %q", err, want)
		}
	}
}

func TestOnceFiresOnceAmongMany(t *testing.T) {
	dir := armed(t)
	arm(t, dir, "", "error once boom")
	var fired atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if fault.At(t.Context(), point) != nil {
				fired.Add(1)
			}
		})
	}
	all.Wait()
	if fired.Load() != 1 || len(waitFired(t, dir, "", 1)) != 1 {
		t.Errorf("fired %d times, want once", fired.Load())
	}
}

func TestHangEndsWithContext(t *testing.T) {
	dir := armed(t)
	arm(t, dir, "etcd-1", "hang")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- fault.At(ctx, point) }()
	waitFired(t, dir, "etcd-1", 1)
	stillHangs(t, done)
	cause := errors.New("shutting down")
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("At: %v, want %v", err, cause)
	}
}

func TestHangEndsWhenReleased(t *testing.T) {
	for action, release := range map[string]func(faulttest.Dir) error{
		"hang":      func(dir faulttest.Dir) error { return dir.Disarm(point, "") },
		"hang once": func(dir faulttest.Dir) error { return dir.Forget(point, "") },
	} {
		t.Run(action, func(t *testing.T) {
			dir := armed(t)
			arm(t, dir, "", action)
			done := make(chan error, 1)
			go func() { done <- fault.At(t.Context(), point) }()
			waitFired(t, dir, "", 1)
			stillHangs(t, done)
			if err := release(dir); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Errorf("At: %v", err)
			}
		})
	}
}

// stillHangs gives a hang that does not hold some time to end.
func stillHangs(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Fatalf("At came back: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestDelay(t *testing.T) {
	dir := armed(t)
	arm(t, dir, "", "delay once 50ms")
	began := time.Now()
	if err := fault.At(t.Context(), point); err != nil || time.Since(began) < 50*time.Millisecond {
		t.Errorf("At: %v after %v, want nil after 50ms", err, time.Since(began))
	}
	arm(t, dir, "", "delay 1h")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := fault.At(ctx, point); !errors.Is(err, context.Canceled) {
		t.Errorf("At: %v, want %v", err, context.Canceled)
	}
}

func TestKill(t *testing.T) {
	dir := armed(t)
	arm(t, dir, "etcd-9", "kill once")
	victim := func() error {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(append(os.Environ(), "FAULT_TEST_VICTIM=1"), dir.Env("etcd-9")...)
		err := cmd.Run()
		if err != nil {
			if got := waitFired(t, dir, "etcd-9", 1)[0].PID; got != cmd.Process.Pid {
				t.Errorf("trace has pid %d, the process was %d", got, cmd.Process.Pid)
			}
		}
		return err
	}
	var exit *exec.ExitError
	if err := victim(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("first run: %v, want to be killed", err)
	}
	if err := victim(); err != nil {
		t.Errorf("second run: %v, want to live: the action was for once", err)
	}
}

func TestUnusableFilesAreReported(t *testing.T) {
	for _, content := range []string{"", "explode", "error", "delay", "delay soon", "kill now", "hang once 3s"} {
		t.Run(content, func(t *testing.T) {
			dir := armed(t)
			arm(t, dir, "", content)
			err := fault.At(t.Context(), point)
			file := filepath.Join(string(dir), fault.FileName(point, ""))
			if err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("At: %v, want an error that names %s", err, file)
			}
		})
	}
}

func TestUndeclaredPoint(t *testing.T) {
	armed(t)
	if err := fault.At(t.Context(), "never/declared"); err == nil || !strings.Contains(err.Error(), "never/declared") {
		t.Errorf("At: %v", err)
	}
}

func TestDeclare(t *testing.T) {
	if !fault.Enabled || !slices.Contains(fault.Names(), point) {
		t.Errorf("Names() = %q, want %q among them", fault.Names(), point)
	}
	if !slices.Contains(fault.Points(), fault.Point{Name: point, Meaning: "in these tests"}) {
		t.Errorf("Points() = %v, without what %s means", fault.Points(), point)
	}
	for _, name := range []string{point, "", "/a", "a/", "a//b", "a__b", "a@b", "a b"} {
		if !panics(func() { fault.Declare(name, "again") }) {
			t.Errorf("Declare(%q) did not panic", name)
		}
	}
}

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

func TestWaitSaysHowFarItCame(t *testing.T) {
	dir := armed(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dir.Wait(ctx, point, "", 1); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "0 of 1") {
		t.Errorf("Wait: %v", err)
	}
}

func TestHookTakesThePlaceOfFiles(t *testing.T) {
	refused := errors.New("refused")
	var asked []string
	ctx := fault.WithHook(t.Context(), func(_ context.Context, point string) error {
		asked = append(asked, point)
		return refused
	})
	if err := fault.At(ctx, "test/never/declared"); !errors.Is(err, refused) {
		t.Errorf("At returned %v, want what the hook returned", err)
	}
	if want := []string{"test/never/declared"}; !slices.Equal(asked, want) {
		t.Errorf("the hook was asked for %q, want %q", asked, want)
	}
}
