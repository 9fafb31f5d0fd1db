package dispatch_test

import (
	"context"
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
