package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller"
	"github.com/requorum/requorum/controller/schedule"
	"github.com/requorum/requorum/e2e/harness"
	"github.com/requorum/requorum/internal/config"
)

const soakVariable = "REQUORUM_SOAK" // a length of time, as 30m

const frequent = `
name: frequent
cluster: prod
every: 4s
prefix: often
labels: {purpose: soak}
localStorage:
  last: 3
remoteStorage:
  remote: off-site
  last: 5
`

// A schedule that runs every few seconds, with its controller and an agent killed in the middle and its bucket away for a
// while, ends with exactly the snapshots, files, objects and records that its policy says.
func TestScheduleKeepsItsPolicy(t *testing.T) {
	t.Parallel()
	runSchedule(t, time.Minute)
}

// TestSoak is the same for as long as is asked for.
func TestSoak(t *testing.T) {
	long, err := time.ParseDuration(os.Getenv(soakVariable))
	if err != nil {
		t.Skipf("%s=30m makes it run so long (make soak)", soakVariable)
	}
	runSchedule(t, long)
}

func runSchedule(t *testing.T, long time.Duration) {
	b := newBucket(t)
	c := harness.Start(t, harness.Options{Patience: long + 2*time.Minute, Control: func(cc *controller.Config) {
		cc.ReconcileEvery = config.Duration(time.Second)
		b.configure(cc)
	}})
	c.Write(200)
	save(t, c, "kept")
	save(t, c, "passing", "--ttl", "20s")
	apply(t, c, frequent)
	began := time.Now()
	for round := 0; time.Since(began) < long || round < 2; round++ {
		hold(t, c, 3)
		reborn(t, c, "controller")
		if round == 0 {
			b.server.Stop()
			hold(t, c, 1) // a run does not fail for it
			saysOfTheRemote(t, c)
			b.server.Run()
		}
		reborn(t, c, c.NodeNames()[round%len(c.NodeNames())])
		c.Write(20)
	}
	hold(t, c, 3)
	long = time.Since(began)
	apply(t, c, strings.Replace(frequent, "4s", "1h", 1)) // no run comes any more; the rest goes on
	must(t, c.Until("the policy does not come to hold", func() bool {
		wanted := scheduledNames(t, c)
		return len(wanted) == 5 && len(vaultFiles(t, c, "etcd-1")) == len(files(wanted[:4])) && len(b.objects(t)) == len(files(wanted))
	}))
	c.Do("schedule", "pause", "frequent")
	c.Settle()
	policyHolds(t, c, b, long)
}

// saysOfTheRemote makes sure that the newest run which succeeded says what its remote lacks.
func saysOfTheRemote(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, r := range runs(t, c) {
		if r.GetResult() != requorumv1.RunResult_RUN_RESULT_SUCCEEDED {
			continue
		}
		if !strings.Contains(r.GetReason(), "remote off-site has no copy") {
			t.Errorf("the bucket is away, and a run says %v", r)
		}
		return
	}
}

// scheduledNames are the names of the READY snapshots of the schedule.
func scheduledNames(t *testing.T, c *harness.Cluster) []string {
	t.Helper()
	return slices.DeleteFunc(catalogNames(t, c), func(name string) bool { return !strings.HasPrefix(name, "often-") })
}

// apply applies a schedule that stands in text.
func apply(t *testing.T, c *harness.Cluster, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "schedule.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Do("schedule", "apply", "-f", file)
}

// reborn kills a process and starts it again.
func reborn(t *testing.T, c *harness.Cluster, name string) {
	t.Helper()
	kill(t, c.Process(name))
	c.StartAgain(name)
}

func runs(t *testing.T, c *harness.Cluster) []*requorumv1.ScheduleRun {
	t.Helper()
	var resp requorumv1.ListScheduleRunsResponse
	if r := c.JSON(&resp, "schedule", "history", "frequent", "--limit", "1000"); r.Code != 0 {
		t.Fatal(r)
	}
	return resp.GetRuns()
}

// hold waits until so many more runs have succeeded.
func hold(t *testing.T, c *harness.Cluster, more int) {
	t.Helper()
	newest := ""
	if all := runs(t, c); len(all) > 0 {
		newest = all[0].GetId()
	}
	err := c.Until(fmt.Sprintf("%d more runs did not succeed", more), func() bool {
		done := 0
		for _, r := range runs(t, c) {
			if r.GetId() > newest && r.GetResult() == requorumv1.RunResult_RUN_RESULT_SUCCEEDED {
				done++
			}
		}
		return done >= more
	})
	if err != nil {
		t.Fatal(err)
	}
}

// policyHolds compares records, catalog and files with what the policy says.
func policyHolds(t *testing.T, c *harness.Cluster, b *bucket, long time.Duration) {
	t.Helper()
	succeeded := recordsHold(t, c, long)
	if len(succeeded) < 5 {
		t.Fatalf("only %d runs have succeeded", len(succeeded))
	}
	stored := slices.Sorted(slices.Values(succeeded[:5]))
	want := append(slices.Clone(succeeded[:3]), "kept")
	slices.Sort(want)
	known := slices.Sorted(slices.Values(append(slices.Clone(stored), "kept")))
	if got := catalogNames(t, c); !slices.Equal(got, known) {
		t.Errorf("the catalog holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(known, "\n"))
	}
	bucketHolds(t, b, stored)
	onlyRemote := c.Expect(3, "snapshot", "check", stored[0])
	says(t, onlyRemote, "no node holds snapshot "+stored[0]+" any more, remote off-site does")
	for _, node := range c.NodeNames() {
		if got := vaultFiles(t, c, node); !slices.Equal(got, files(want)) {
			t.Errorf("%s holds\n%s\nwant\n%s", node, strings.Join(got, "\n"), strings.Join(files(want), "\n"))
		}
	}
	for _, name := range want {
		if s := show(t, c, name); len(s.GetCopies()) != len(c.NodeNames()) || s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_READY {
			t.Errorf("%s: %v", name, s)
		}
		c.Do("snapshot", "check", name)
	}
	says(t, c.Do("snapshot", "prune", "--dry-run"), "0 of 11 go")
	says(t, c.Do("snapshot", "show", want[len(want)-1]), "often-prod-", "purpose=soak")
}

// bucketHolds makes sure that there are two objects of each snapshot, and no others.
func bucketHolds(t *testing.T, b *bucket, names []string) {
	t.Helper()
	objects := b.objects(t)
	for _, name := range names {
		of := slices.DeleteFunc(slices.Clone(objects), func(key string) bool { return !strings.Contains(key, name) })
		if len(of) != 2 {
			t.Errorf("of %s the bucket holds %v", name, of)
		}
	}
	if len(objects) != 2*len(names) {
		t.Errorf("the bucket holds\n%s\nwant two objects each of\n%s", strings.Join(objects, "\n"), strings.Join(names, "\n"))
	}
}

// recordsHold compares the records of the runs with the operations, and returns the snapshots that they made, the newest
// first.
func recordsHold(t *testing.T, c *harness.Cluster, long time.Duration) []string {
	t.Helper()
	all := runs(t, c)
	var succeeded []string
	operations := map[string]bool{}
	for _, r := range all {
		if operations[r.GetOperationId()] && r.GetOperationId() != "" {
			t.Errorf("two runs are of operation %s", r.GetOperationId())
		}
		operations[r.GetOperationId()] = true
		switch {
		case r.GetEnded() == nil:
			t.Errorf("a run has not ended: %v", r)
		case r.GetResult() == requorumv1.RunResult_RUN_RESULT_SUCCEEDED:
			succeeded = append(succeeded, r.GetSnapshot())
		case r.GetReason() == "":
			t.Errorf("a run failed without a reason: %v", r)
		}
	}
	if once := slices.Compact(slices.Sorted(slices.Values(succeeded))); len(once) != len(succeeded) {
		t.Errorf("%d runs made %d snapshots", len(succeeded), len(once))
	}
	saves := scheduledSaves(c)
	for _, id := range saves {
		if len(all) < schedule.KeptRuns && !operations[id] {
			t.Errorf("operation %s is of no run", id)
		}
	}
	if most := int(long/(4*time.Second)) + 2; len(saves) > most {
		t.Errorf("in %s there were %d saves, every 4 s makes %d at most", long, len(saves), most)
	}
	if len(all) > schedule.KeptRuns {
		t.Errorf("%d runs are remembered, want %d at most", len(all), schedule.KeptRuns)
	}
	t.Logf("%d saves, %d runs remembered, %d of them succeeded, in %s", len(saves), len(all), len(succeeded), long.Round(time.Second))
	return succeeded
}

// scheduledSaves are the IDs of the operations that the schedule has begun.
func scheduledSaves(c *harness.Cluster) []string {
	var ids []string
	for _, op := range c.Operations() {
		if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_SAVE && op.GetRequestedBy() == "schedule frequent" {
			ids = append(ids, op.GetId())
		}
	}
	return ids
}

// catalogNames are the names of all READY snapshots; there must be no others that did not fail.
func catalogNames(t *testing.T, c *harness.Cluster) []string {
	t.Helper()
	var resp requorumv1.ListSnapshotsResponse
	if r := c.JSON(&resp, "snapshot", "ls"); r.Code != 0 {
		t.Fatal(r)
	}
	names := map[string]bool{}
	for _, s := range resp.GetSnapshots() {
		if s.GetState() != requorumv1.SnapshotState_SNAPSHOT_STATE_FAILED {
			names[s.GetName()] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func files(names []string) []string {
	var all []string
	for _, n := range names {
		all = append(all, n+".db", n+".json")
	}
	slices.Sort(all)
	return all
}

func vaultFiles(t *testing.T, c *harness.Cluster, node string) []string {
	t.Helper()
	entries, err := os.ReadDir(c.Vault(node))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
