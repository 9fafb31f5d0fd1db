package e2e

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/e2e/harness"
)

// What was done is in the audit log with its outcome, over a crash of the controller, and alike in the store and the file.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{})
	c.Write(100)
	save(t, c, "good")
	c.Arm("agent/inspect-copy/before", "", "error once the disk is broken")
	c.Expect(4, "snapshot", "save", "--name", "bad")
	c.Arm("controller/save/distribute/after-intent", "", "kill once")
	r := c.CLI("snapshot", "save", "--name", "through-a-crash", "--detach")
	if r.Code != 0 {
		t.Fatal(r)
	}
	c.WaitFired("controller/save/distribute/after-intent", "")
	<-c.Process("controller").Done()
	c.StartAgain("controller")
	c.Settle()

	var log requorumv1.ListEntriesResponse
	if r := c.JSON(&log, "audit", "ls", "--cluster", "prod", "--since", "1h"); r.Code != 0 {
		t.Fatal(r)
	}
	ends, calls := map[string]string{}, map[string]string{}
	for _, e := range log.GetEntries() {
		switch e.GetEvent() {
		case requorumv1.AuditEvent_AUDIT_EVENT_ENDED:
			ends[e.GetSnapshot()] = e.GetOperationState().String()
		case requorumv1.AuditEvent_AUDIT_EVENT_ANSWERED:
			calls[e.GetOperationId()] = e.GetBy() + " " + e.GetCode()
		}
	}
	want := map[string]string{"good": "OPERATION_STATE_SUCCEEDED", "bad": "OPERATION_STATE_REVERTED", "through-a-crash": "OPERATION_STATE_SUCCEEDED"}
	for name, state := range want {
		if ends[name] != state {
			t.Errorf("%s ended as %q, want %s", name, ends[name], state)
		}
	}
	for _, op := range c.Operations() {
		if calls[op.GetId()] != "operator admin (admin) OK" {
			t.Errorf("operation %s was asked for by %q", op.GetId(), calls[op.GetId()])
		}
	}
	says(t, c.Do("audit", "ls", "--by", "admin"), "SaveSnapshot", "end of save bad", "reverted", "operator admin (admin)")
	says(t, c.Do("audit", "ls"), "Enroll", "certificate of node etcd-2 of cluster prod")

	var all requorumv1.ListEntriesResponse
	if r := c.JSON(&all, "audit", "ls"); r.Code != 0 {
		t.Fatal(r)
	}
	var stored []string
	for _, e := range all.GetEntries() {
		stored = append(stored, e.GetId())
	}
	slices.Reverse(stored)
	if written := auditFile(t, c); !slices.Equal(written, stored) || !slices.IsSorted(stored) {
		t.Errorf("the file has %d entries, the store %d\n%s\n%s", len(written), len(stored), strings.Join(written, " "), strings.Join(stored, " "))
	}
}

// auditFile returns the IDs of the entries in the controller's file.
func auditFile(t *testing.T, c *harness.Cluster) (ids []string) {
	t.Helper()
	f, err := os.Open(filepath.Join(filepath.Dir(filepath.Dir(c.AdminConfig())), "audit.log"))
	must(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		e := new(requorumv1.AuditEntry)
		must(t, protojson.Unmarshal(lines.Bytes(), e))
		ids = append(ids, e.GetId())
	}
	return ids
}
