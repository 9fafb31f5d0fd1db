package api

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/reconcile"
	"github.com/requorum/requorum/controller/schedule"
	"github.com/requorum/requorum/controller/snapshot"
	"github.com/requorum/requorum/controller/store"
	"github.com/requorum/requorum/controller/store/bolt"
)

// What keeps a cluster from being backed up is shown with the cluster: a run that failed, and copies that are gone.
func TestClusterShowsWhatIsWrongWithItsBackups(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	synctest.Test(t, func(t *testing.T) {
		records, quiet := catalog.New(db), hclog.NewNullLogger()
		dispatcher := dispatch.New(1, "self", records, dispatch.Options{}, quiet)
		engine := operation.NewEngine(db, dispatcher, 1, nil, quiet)
		jobs := &snapshot.Jobs{Catalog: records, Fleet: dispatcher, Engine: engine, Log: quiet}
		s := &Server{Catalog: records, Dispatcher: dispatcher, Engine: engine, Log: quiet, Copies: &reconcile.Reconciler{}, Schedules: &schedule.Scheduler{
			Store: db, Catalog: records, Engine: engine, Snapshots: jobs, Fleet: dispatcher, Log: quiet,
		}}
		err := records.Write(func(tx store.Tx) error {
			if err := catalog.UpdateCluster(tx, "empty", func(*journalv1.ClusterRecord) {}); err != nil {
				return err
			}
			proved := &requorumv1.Schedule{Name: "proved", Cluster: "empty", Every: durationpb.New(time.Hour), Paused: true, Drill: &requorumv1.Drill{After: 1}}
			drill := &requorumv1.ScheduleDrill{Ended: timestamppb.Now(), Result: requorumv1.RunResult_RUN_RESULT_FAILED, Reason: "HashKV differs"}
			if err := store.Save(tx, store.Schedules, "proved", &journalv1.ScheduleRecord{Schedule: proved, Drill: drill}); err != nil {
				return err
			}
			return catalog.Put(tx, &requorumv1.Snapshot{
				Name: "s", Cluster: "empty", State: requorumv1.SnapshotState_SNAPSHOT_STATE_READY,
				Copies: []*requorumv1.Copy{{Node: "a", State: requorumv1.CopyState_COPY_STATE_MISSING}},
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Schedules.Run(ctx) }()
		if _, _, err := s.Schedules.Apply(&requorumv1.Schedule{Name: "often", Cluster: "empty", Every: durationpb.New(time.Hour)}, "alice"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // a cluster without a node cannot be saved
		resp, err := clusters{Server: s}.GetCluster(ctx, &requorumv1.GetClusterRequest{Cluster: "empty"})
		problems := strings.Join(resp.GetCluster().GetProblems(), "\n")
		for _, want := range []string{"copies are missing or bad of s", "schedule proved: its latest drill failed: HashKV differs", "schedule often: its latest run failed: cluster empty has no node"} {
			if err != nil || !strings.Contains(problems, want) {
				t.Errorf("%v; problems\n%s\nwant %s", err, problems, want)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
