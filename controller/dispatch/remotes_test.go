package dispatch_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// Keys of a remote are for a node with a task that uses it, as long as it has the task.
func TestOnlyANodeWithATaskUsesARemote(t *testing.T) {
	r := &agentv1.Remote{Name: "off-site"}
	for _, task := range []*agentv1.Task{
		{Spec: &agentv1.Task_UploadCopy{UploadCopy: &agentv1.UploadCopy{Remote: r}}},
		{Spec: &agentv1.Task_DownloadCopy{DownloadCopy: &agentv1.DownloadCopy{Remote: r}}},
		{Spec: &agentv1.Task_ListRemote{ListRemote: &agentv1.ListRemote{Remote: r}}},
		{Spec: &agentv1.Task_CompareFiles{CompareFiles: &agentv1.CompareFiles{Remote: r}}},
	} {
		task.Id = "uses"
		inBench(t, func(b *bench) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go b.Do(ctx, "prod", "etcd-1", task, func(*agentv1.TaskReport) {})
			go b.Do(ctx, "prod", "etcd-2", serving("etcd-1"), func(*agentv1.TaskReport) {})
			synctest.Wait()
			if !b.Uses(key("etcd-1"), "off-site") {
				t.Errorf("%T does not use it", task.GetSpec())
			}
			if b.Uses(key("etcd-1"), "nfs") || b.Uses(key("etcd-2"), "off-site") || b.Uses(key("etcd-3"), "off-site") {
				t.Error("another remote, or another node")
			}
			cancel()
			synctest.Wait()
			if b.Uses(key("etcd-1"), "off-site") {
				t.Error("the task has ended")
			}
		})
	}
}

// A directory is known by the marker that the first node reports, whether its task succeeds or not, and later tasks ask for it.
func TestADirectoryIsKnownByItsMarker(t *testing.T) {
	list := func(id string) *agentv1.Task {
		r := &agentv1.Remote{Name: "nfs", Kind: &agentv1.Remote_Dir{Dir: &agentv1.DirRemote{Path: "/mnt/backups"}}}
		return &agentv1.Task{Id: id, Spec: &agentv1.Task_ListRemote{ListRemote: &agentv1.ListRemote{Remote: r}}}
	}
	ask := func(b *bench, node, id, marker, found string) error {
		b.Helper()
		a := b.connect(node)
		defer a.hangUp()
		failed := make(chan error, 1)
		go func() {
			_, err := b.Do(context.Background(), "prod", node, list(id), func(*agentv1.TaskReport) {})
			failed <- err
		}()
		if got := a.task().GetListRemote().GetRemote().GetDir(); got.GetMarker() != marker || got.GetPath() != "/mnt/backups" {
			b.Errorf("%s is asked to look into %v, want the marker %q", node, got, marker)
		}
		a.report(&agentv1.TaskReport{
			TaskId: id, State: agentv1.TaskState_TASK_STATE_FAILED, Error: &agentv1.TaskError{Message: "disk full"}, RemoteMarker: found,
		})
		return <-failed
	}
	inBench(t, func(b *bench) {
		for i, c := range []struct{ node, marker, found, says string }{
			{"etcd-1", "", "", "etcd-1: disk full"},
			{"etcd-1", "", "one", "etcd-1: disk full"},
			{"etcd-2", "one", "one", "etcd-2: disk full"},
			{"etcd-3", "one", "two", `etcd-3: directory /mnt/backups has the marker "two" there, not "one" as remote nfs`},
			{"etcd-1", "one", "", "etcd-1: disk full"},
		} {
			if err := ask(b, c.node, fmt.Sprint(i), c.marker, c.found); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v: %v", c, err)
			}
		}
	})
}
