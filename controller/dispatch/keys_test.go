package dispatch_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
)

// neighbours waits for the next message that tells keys and returns them by node.
func (a *agent) neighbours() map[string][]string {
	a.b.Helper()
	for m := range a.inbox {
		if len(m.GetNeighbours()) == 0 {
			continue
		}
		keys := make(map[string][]string)
		for _, n := range m.GetNeighbours() {
			keys[n.GetNode()] = n.GetKeys()
		}
		return keys
	}
	a.b.Fatalf("the session ended without telling any keys: %v", a.ended)
	return nil
}

func (a *agent) wantKeys(node string, keys ...string) {
	a.b.Helper()
	if told := a.neighbours(); len(told) != 1 || !slices.Equal(told[node], keys) {
		a.b.Errorf("told %v, want %v of %s", told, keys, node)
	}
}

func serving(readers ...string) *agentv1.Task {
	return &agentv1.Task{Id: "serve", Spec: &agentv1.Task_ServeCopy{ServeCopy: &agentv1.ServeCopy{Name: "s", Readers: readers}}}
}

func TestKeysOfReadersComeWithTheTaskAndWheneverTheyChange(t *testing.T) {
	inBench(t, func(b *bench) {
		b.records.setKeys("etcd-2", "first")
		a, other := b.connect("etcd-1"), b.connect("etcd-3")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go b.Do(ctx, "prod", "etcd-1", serving("etcd-2"), func(*agentv1.TaskReport) {})
		a.wantKeys("etcd-2", "first")
		b.records.setKeys("etcd-2", "first", "next")
		b.KeysChanged(key("etcd-2"))
		a.wantKeys("etcd-2", "first", "next")
		b.records.setKeys("etcd-2")
		b.KeysChanged(key("etcd-2"))
		b.KeysChanged(key("etcd-9")) // of whom nobody was told
		a.wantKeys("etcd-2")
		synctest.Wait()
		for len(other.inbox) > 0 {
			if m := <-other.inbox; len(m.GetNeighbours()) > 0 {
				t.Errorf("etcd-3 serves nobody and is told %v", m)
			}
		}
	})
}

func TestKeysComeWithEveryTaskThatLetsRead(t *testing.T) {
	for _, task := range []*agentv1.Task{
		{Spec: &agentv1.Task_FetchCopy{FetchCopy: &agentv1.FetchCopy{Readers: []string{"etcd-2"}}}},
		{Spec: &agentv1.Task_SaveCopy{SaveCopy: &agentv1.SaveCopy{Readers: []string{"etcd-2"}}}},
		{Spec: &agentv1.Task_FollowCopy{FollowCopy: &agentv1.FollowCopy{Readers: []string{"etcd-2"}}}},
	} {
		task.Id = "lets read"
		inBench(t, func(b *bench) {
			b.records.setKeys("etcd-2", "first")
			a := b.connect("etcd-1")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go b.Do(ctx, "prod", "etcd-1", task, func(*agentv1.TaskReport) {})
			a.wantKeys("etcd-2", "first")
		})
	}
}

func TestSessionBeginsWithTheKeysOfThoseWhoMayStillRead(t *testing.T) {
	inBench(t, func(b *bench) {
		b.records.setKeys("etcd-2", "present")
		a, err := b.open("etcd-1", &agentv1.OpenSessionRequest{Epoch: 4, ControllerId: "older", Readers: []string{"etcd-2", "removed"}})
		if err != nil {
			t.Fatal(err)
		}
		told := a.neighbours()
		if len(told) != 2 || !slices.Equal(told["etcd-2"], []string{"present"}) || len(told["removed"]) != 0 {
			t.Errorf("told %v", told)
		}
		b.records.setKeys("etcd-2", "changed")
		b.KeysChanged(key("etcd-2"))
		a.wantKeys("etcd-2", "changed")
	})
}
