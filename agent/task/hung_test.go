package task

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
	"github.com/requorum/requorum/internal/objectstore/dir"
)

// An upload into a directory whose server is gone hangs, whatever becomes of its context. The next task is done all the same, and
// what hung changes nothing when the server is back.
func TestAnUploadThatHangsIsLeftBehind(t *testing.T) {
	path := t.TempDir()
	hangs, back := make(chan struct{}), make(chan struct{})
	upload := func(ctx context.Context, content string) error {
		s, err := dir.Open(path, "")
		if err != nil {
			return err
		}
		defer func() { must(t, s.Close()) }()
		return s.Put(ctx, "etcd/prod/a.db", func(w io.Writer) error {
			_, err := io.WriteString(w, content)
			if content == "hung" {
				close(hangs)
				<-back
			}
			return err
		})
	}
	ctx, stop := context.WithCancel(context.Background())
	r := NewRunner(ctx, obeying(t, file(t)), func(ctx context.Context, task *agentv1.Task, _ *Progress) (*agentv1.TaskResult, error) {
		return nil, upload(ctx, task.GetUploadCopy().GetObject().GetKey())
	}, hclog.NewNullLogger())
	r.hung = 10 * time.Millisecond
	defer r.Wait()
	defer stop()
	p := &process{Runner: r, t: t}
	p.deliver(uploading("a", "hung"))
	<-hangs
	p.deliver(uploading("b", "second"))
	p.await("b", done)
	r.mu.Lock()
	first := r.known["a"]
	r.mu.Unlock()
	close(back)
	<-first.done
	if data, err := os.ReadFile(filepath.Join(path, "etcd/prod/a.db")); string(data) != "second" {
		t.Errorf("stored is %q, %v", data, err)
	}
	if left, err := os.ReadDir(filepath.Join(path, "etcd/prod")); err != nil || len(left) != 1 {
		t.Errorf("there is %v, %v", left, err)
	}
}

// Whatever changes something on the node itself is waited for, however long it takes.
func TestATaskThatHangsOnTheNodeIsWaitedFor(t *testing.T) {
	hangs, back := make(chan struct{}), make(chan struct{})
	var inside atomic.Int32
	ctx, stop := context.WithCancel(context.Background())
	r := NewRunner(ctx, obeying(t, file(t)), func(_ context.Context, task *agentv1.Task, _ *Progress) (*agentv1.TaskResult, error) {
		if inside.Add(1) > 1 {
			t.Error("two changes at the same time")
		}
		defer inside.Add(-1)
		if task.GetId() == "a" {
			close(hangs)
			<-back
		}
		return nil, nil
	}, hclog.NewNullLogger())
	r.hung = time.Millisecond
	defer r.Wait()
	defer stop()
	p := &process{Runner: r, t: t}
	p.deliver(change("a"))
	<-hangs
	p.deliver(change("b"))
	timer := time.AfterFunc(50*r.hung, func() { close(back) })
	defer timer.Stop()
	p.await("b", done)
}

func uploading(id, content string) *agentv1.Task {
	task := change(id)
	task.Spec = &agentv1.Task_UploadCopy{UploadCopy: &agentv1.UploadCopy{Object: &requorumv1.StoredObject{Key: content}}}
	return task
}
