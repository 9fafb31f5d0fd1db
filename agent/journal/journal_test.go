package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/requorum/requorum/agent/journal"
	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
)

const kept = 512 // records of tasks

func open(t *testing.T, path string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path)
	must(t, err)
	t.Cleanup(func() { must(t, j.Close()) })
	return j
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "agent.db") }

func record(id string) *journalv1.TaskRecord {
	return &journalv1.TaskRecord{Task: &agentv1.Task{Id: id}, Report: &agentv1.TaskReport{TaskId: id, State: agentv1.TaskState_TASK_STATE_DONE}}
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

func TestReopenedJournalKnowsEverything(t *testing.T) {
	path := file(t)
	j, err := journal.Open(path)
	must(t, err)
	rec := record("op/save/do/1/etcd-1/abc")
	quarantine := &journalv1.QuarantineRecord{RestoreId: "r1", Paths: []string{"/q"}, Expires: timestamppb.New(time.Unix(5, 0))}
	must(t, j.PutTask(rec))
	must(t, j.PutQuarantine(quarantine))
	must(t, j.SetRestored(&journal.Restored{RestoreID: "r1", ClusterGeneration: 3}))
	must(t, j.SetFinished("r0"))
	must(t, j.SetFinished("r0"))
	must(t, j.Update(func(s *journalv1.AgentRecord) error {
		s.Epoch, s.ControllerId, s.Generation, s.Fenced = 7, "c", 2, true
		return nil
	}))
	must(t, j.Close())

	j = open(t, path)
	got, err := j.Task(rec.GetTask().GetId())
	must(t, err)
	same(t, got, rec)
	all, err := j.Quarantines()
	must(t, err)
	same(t, all, []*journalv1.QuarantineRecord{quarantine})
	restored, err := j.Restored()
	must(t, err)
	same(t, restored, &journal.Restored{RestoreID: "r1", ClusterGeneration: 3})
	for id, want := range map[string]bool{"r0": true, "r1": false, "": false} {
		if finished, err := j.Finished(id); err != nil || finished != want {
			t.Errorf("restore %q finished: %v, %v", id, finished, err)
		}
	}
	state, err := j.State()
	must(t, err)
	same(t, state, &journalv1.AgentRecord{Epoch: 7, ControllerId: "c", Generation: 2, Fenced: true, FormatVersion: 1})
}

func TestWhatIsForgottenIsGone(t *testing.T) {
	j := open(t, file(t))
	must(t, j.PutQuarantine(&journalv1.QuarantineRecord{RestoreId: "r1"}))
	must(t, j.DeleteQuarantine("r1"))
	must(t, j.DeleteQuarantine("never there"))
	if all, err := j.Quarantines(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	must(t, j.SetRestored(&journal.Restored{RestoreID: "r1"}))
	must(t, j.SetRestored(nil))
	if r, err := j.Restored(); err != nil || r != nil {
		t.Errorf("%v, %v", r, err)
	}
	if rec, err := j.Task("never there"); err != nil || rec != nil {
		t.Errorf("%v, %v", rec, err)
	}
}

func TestOldestTasksAreForgotten(t *testing.T) {
	j := open(t, file(t))
	const extra = 3
	must(t, j.PutTask(record("0")))
	for i := 1; i < kept; i++ {
		must(t, j.PutTask(record(fmt.Sprint(i))))
	}
	must(t, j.PutTask(record("0"))) // written again, it is as old as before
	for i := range extra {
		must(t, j.PutTask(record(fmt.Sprint(kept+i))))
	}
	for i := range kept + extra {
		rec, err := j.Task(fmt.Sprint(i))
		must(t, err)
		if known := rec != nil; known != (i >= extra) {
			t.Errorf("task %d known: %v", i, known)
		}
	}
}

// Restores that have ended are known by their IDs, which are in the order in which they began; they may end in another.
func TestOldestFinishedRestoresAreForgotten(t *testing.T) {
	path := file(t)
	j, err := journal.Open(path)
	must(t, err)
	const extra, finished = 4, 1000
	id := func(n int) string {
		id := ulid.ULID{}
		must(t, id.SetTime(uint64(n)))
		return id.String()
	}
	for n := range finished + extra {
		must(t, j.SetFinished(id(n^1))) // each second one before the first
	}
	must(t, j.SetFinished(id(finished))) // again
	must(t, j.Close())
	j = open(t, path)
	for n := range finished + extra {
		known, err := j.Finished(id(n))
		must(t, err)
		if known != (n >= extra) {
			t.Errorf("restore %d finished: %v", n, known)
		}
	}
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	j := open(t, file(t))
	want := errors.New("not obeyed")
	err := j.Update(func(s *journalv1.AgentRecord) error {
		s.Epoch = 9
		return want
	})
	if !errors.Is(err, want) {
		t.Error(err)
	}
	if state, err := j.State(); err != nil || state.GetEpoch() != 0 {
		t.Errorf("%v, %v", state, err)
	}
}

func TestJournalOfANewerRequorumIsRefused(t *testing.T) {
	path := file(t)
	j, err := journal.Open(path)
	must(t, err)
	must(t, j.Update(func(s *journalv1.AgentRecord) error { s.FormatVersion = 2; return nil }))
	must(t, j.Close())
	refused(t, path, "newer requorum")
}

func TestJournalOfAnAgentThatRunsIsRefused(t *testing.T) {
	path := file(t)
	open(t, path)
	refused(t, path, "another agent uses it")
}

func TestDirectoryInTheJournalsPlaceIsRefused(t *testing.T) {
	refused(t, t.TempDir(), "is a directory")
}

func refused(t *testing.T, path, why string) {
	t.Helper()
	j, err := journal.Open(path)
	if err == nil {
		t.Fatal(errors.Join(errors.New("opened"), j.Close()))
	}
	if !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v\ndoes not tell %q", err, why)
	}
}

// filled returns the file of a journal that was in use for a while.
func filled(t *testing.T) []byte {
	t.Helper()
	path := file(t)
	j, err := journal.Open(path)
	must(t, err)
	for i := range 40 {
		rec := record(fmt.Sprint(i))
		rec.Report.Detail = strings.Repeat("x", 100*i)
		must(t, j.PutTask(rec))
	}
	must(t, j.Close())
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

// damaged opens and uses a damaged file. It must be refused, or work.
func damaged(t *testing.T, data []byte) (works bool) {
	t.Helper()
	path := file(t)
	must(t, os.WriteFile(path, data, 0o600))
	j, err := journal.Open(path)
	if err == nil {
		err = errors.Join(j.PutTask(record("new")), j.Close())
	}
	var told *journal.DamagedError
	if err != nil && !errors.As(err, &told) {
		t.Errorf("not told as damage: %v", err)
	}
	return err == nil
}

func TestCutOffJournalIsRefusedOrWhole(t *testing.T) {
	data := filled(t)
	if len(data) < 16*4096 {
		t.Fatalf("only %d bytes: nothing to cut", len(data))
	}
	refusals := 0
	for size := 4096; size < len(data); size += 4096 {
		if !damaged(t, data[:size]) {
			refusals++
		}
	}
	if refusals < 8 {
		t.Errorf("only %d cuts were noticed", refusals)
	}
	if !damaged(t, data) {
		t.Error("the whole file was refused")
	}
}

func TestGarbageIsRefused(t *testing.T) {
	for name, garbage := range map[string][]byte{
		"text": []byte("this is no database\n"), "zeroes": make([]byte, 64<<10), "noise": bytes.Repeat([]byte{0xa5, 1, 0xfe}, 30000),
	} {
		t.Run(name, func(t *testing.T) {
			if damaged(t, garbage) {
				t.Error("opened")
			}
		})
	}
}

func TestOverwrittenPagesNeverCrashTheAgent(t *testing.T) {
	data := filled(t)
	for page := 0; page < len(data); page += 4096 {
		bad := bytes.Clone(data)
		copy(bad[page:page+4096], bytes.Repeat([]byte{0xff}, 4096))
		damaged(t, bad)
	}
}

func TestUnreadableStateIsRefused(t *testing.T) {
	path := file(t)
	j, err := journal.Open(path)
	must(t, err)
	must(t, j.Close())
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("state")).Put([]byte("agent"), []byte{0xff}) }))
	must(t, db.Close())
	refused(t, path, "damaged")
}
