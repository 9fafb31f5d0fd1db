package audit

import (
	"testing"

	"google.golang.org/protobuf/proto"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

func TestACallIsNotedWithItsCluster(t *testing.T) {
	calls := &Calls{Cluster: func(string) string { return "prod" }}
	for _, req := range []proto.Message{
		&requorumv1.SaveSnapshotRequest{Cluster: "prod"},
		&requorumv1.StartRestoreRequest{Spec: &requorumv1.RestoreSpec{Cluster: "prod"}},
		&requorumv1.ApplyScheduleRequest{Schedule: &requorumv1.Schedule{Cluster: "prod"}},
		&requorumv1.CancelOperationRequest{Id: "1"},
	} {
		e := &requorumv1.AuditEntry{}
		if calls.about(e, req); e.GetCluster() != "prod" {
			t.Errorf("%T is noted with the cluster %q", req, e.GetCluster())
		}
	}
}
