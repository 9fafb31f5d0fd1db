package cli

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// audited are the entries of an audit log, newest first.
func audited() []*requorumv1.AuditEntry {
	const save, issue = "requorum.v1.SnapshotService/SaveSnapshot", "requorum.v1.AccessService/IssueOperatorCertificate"
	all := []*requorumv1.AuditEntry{
		{
			Id: "09", Event: requorumv1.AuditEvent_AUDIT_EVENT_ENDED, Cluster: "prod", OperationId: opID, Snapshot: "pre-1.31", Message: "etcd-2: disk full",
			OperationKind: requorumv1.OperationKind_OPERATION_KIND_SAVE, OperationState: requorumv1.OperationState_OPERATION_STATE_REVERTED,
		},
		{Id: "08", Event: requorumv1.AuditEvent_AUDIT_EVENT_ANSWERED, Call: "07", Method: save, Code: "OK", Cluster: "prod", OperationId: opID},
		{
			Id: "07", Event: requorumv1.AuditEvent_AUDIT_EVENT_CALLED, Call: "07", Method: save, Cluster: "prod",
			Request: &structpb.Struct{Fields: map[string]*structpb.Value{"name": structpb.NewStringValue("pre-1.31")}},
		},
		{Id: "06", Event: requorumv1.AuditEvent_AUDIT_EVENT_DENIED, Method: save, Code: "PermissionDenied", Message: "operator vera (viewer) may not call it"},
		{Id: "05", Event: requorumv1.AuditEvent_AUDIT_EVENT_CALLED, Call: "05", Method: save, Cluster: "prod"},
		{Id: "04", Event: requorumv1.AuditEvent_AUDIT_EVENT_ANSWERED, Call: "03", Method: issue, Code: "OK", Issued: "operator vera (viewer)", IssuedCertificate: "2b"},
	}
	for i, e := range all {
		e.Time, e.By, e.ByName, e.Certificate, e.Peer = before(time.Duration(i)*time.Minute), "operator alice (admin)", "alice", "1a", "192.0.2.7:40312"
	}
	return all
}

func TestAuditAsksForWhatIsWantedPageByPage(t *testing.T) {
	f := newFake(t)
	if r := f.command(t, strings.Fields("audit ls --since 1h --by alice --cluster prod --limit 3")...); r.code != ExitDone || strings.Count(r.out, "\n") < 3 {
		t.Fatalf("exit %d\n%s%s", r.code, r.out, r.err)
	}
	want := &requorumv1.ListEntriesRequest{Cluster: "prod", By: "alice", Since: before(time.Hour), PageSize: 3}
	if got := f.got(); len(got) != 2 || !proto.Equal(got[0], want) {
		t.Errorf("asked for %v", got)
	}
	want.PageSize, want.PageToken = 1, "08"
	if got := f.got(); len(got) != 2 || !proto.Equal(got[1], want) {
		t.Errorf("then for %v", got)
	}
}
