package access

import (
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/pki"
)

// who is a set of callers.
type who uint8

const (
	stranger who = 1 << iota // shows no certificate
	node
	viewer
	operator
	admin

	anyone who = stranger | node | viewer | operator | admin
	look   who = viewer | operator | admin
	work   who = operator | admin
	nobody who = 0
)

// permissions says who may call what. A method that is missing may be called by nobody.
var permissions = map[string]who{
	requorumv1.ClusterService_ListClusters_FullMethodName: look,
	requorumv1.ClusterService_GetCluster_FullMethodName:   look,
	requorumv1.ClusterService_RemoveNode_FullMethodName:   admin,

	requorumv1.SnapshotService_ListSnapshots_FullMethodName:      look,
	requorumv1.SnapshotService_GetSnapshot_FullMethodName:        look,
	requorumv1.SnapshotService_SaveSnapshot_FullMethodName:       work,
	requorumv1.SnapshotService_CheckSnapshot_FullMethodName:      work,
	requorumv1.SnapshotService_VerifySnapshot_FullMethodName:     work,
	requorumv1.SnapshotService_DistributeSnapshot_FullMethodName: work,
	requorumv1.SnapshotService_ImportSnapshot_FullMethodName:     work,
	requorumv1.SnapshotService_ExportSnapshot_FullMethodName:     work,
	requorumv1.SnapshotService_DeleteSnapshot_FullMethodName:     admin,

	requorumv1.SnapshotService_UploadSnapshot_FullMethodName: work,

	requorumv1.RemoteService_ListRemotes_FullMethodName:         look,
	requorumv1.RemoteService_ListRemoteSnapshots_FullMethodName: look,

	requorumv1.SnapshotService_RepairSnapshot_FullMethodName: work,
	requorumv1.SnapshotService_PlanPrune_FullMethodName:      look,
	requorumv1.SnapshotService_PlanRebuild_FullMethodName:    look,
	requorumv1.SnapshotService_ListOrphans_FullMethodName:    look,
	requorumv1.SnapshotService_RebuildCatalog_FullMethodName: work,

	requorumv1.ScheduleService_ListSchedules_FullMethodName:    look,
	requorumv1.ScheduleService_GetSchedule_FullMethodName:      look,
	requorumv1.ScheduleService_ListScheduleRuns_FullMethodName: look,
	requorumv1.ScheduleService_PauseSchedule_FullMethodName:    work,
	requorumv1.ScheduleService_ResumeSchedule_FullMethodName:   work,
	requorumv1.ScheduleService_TriggerSchedule_FullMethodName:  work,
	requorumv1.ScheduleService_ApplySchedule_FullMethodName:    admin, // its retention removes snapshots
	requorumv1.ScheduleService_DeleteSchedule_FullMethodName:   admin,

	requorumv1.RestoreService_PlanRestore_FullMethodName:     look,
	requorumv1.RestoreService_StartRestore_FullMethodName:    work,
	requorumv1.RestoreService_RehearseRestore_FullMethodName: work,

	requorumv1.OperationService_ListOperations_FullMethodName:  look,
	requorumv1.OperationService_GetOperation_FullMethodName:    look,
	requorumv1.OperationService_WatchOperation_FullMethodName:  look,
	requorumv1.OperationService_WaitOperation_FullMethodName:   look,
	requorumv1.OperationService_CancelOperation_FullMethodName: work,

	requorumv1.AccessService_CreateToken_FullMethodName:               admin,
	requorumv1.AccessService_IssueOperatorCertificate_FullMethodName:  admin,
	requorumv1.AccessService_ListOperatorCertificates_FullMethodName:  admin,
	requorumv1.AccessService_RevokeOperatorCertificate_FullMethodName: admin,

	requorumv1.AuditService_ListEntries_FullMethodName: admin,

	agentv1.EnrollService_Enroll_FullMethodName:       anyone,
	agentv1.EnrollService_Renew_FullMethodName:        node,
	agentv1.SessionService_OpenSession_FullMethodName: node,
	agentv1.SessionService_Heartbeat_FullMethodName:   node,
	agentv1.SessionService_ReportTask_FullMethodName:  node,
	agentv1.SessionService_PushCopy_FullMethodName:    node,
	agentv1.SessionService_RenewRemote_FullMethodName: node,
	agentv1.TransferService_Fetch_FullMethodName:      nobody, // agents serve it, not the controller

	grpc_health_v1.Health_Check_FullMethodName:                             anyone,
	grpc_health_v1.Health_List_FullMethodName:                              anyone,
	grpc_health_v1.Health_Watch_FullMethodName:                             anyone,
	reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName:      look,
	reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName: look,
}

// onlyLooks are the calls that not everybody who may look may make, although they change nothing.
var onlyLooks = map[string]bool{
	requorumv1.AccessService_ListOperatorCertificates_FullMethodName: true,
	requorumv1.AuditService_ListEntries_FullMethodName:               true,
}

// certifies are the calls of nodes, and of those who want to become nodes, that issue certificates.
var certifies = map[string]bool{
	agentv1.EnrollService_Enroll_FullMethodName: true,
	agentv1.EnrollService_Renew_FullMethodName:  true,
}

// Audited tells whether a call changes something or hands out secrets, so that it is noted in the audit log: all that
// are for operators and not for viewers, unless they are known to do neither.
func Audited(method string) bool {
	allowed := permissions[method]
	return certifies[method] || allowed&admin != 0 && allowed&viewer == 0 && !onlyLooks[method]
}

// callerOf returns which caller an identity is. The controller calls nobody, so its certificate opens
// nothing here.
func callerOf(id pki.Identity) who {
	switch {
	case id.Kind == pki.Node:
		return node
	case id.Kind != pki.Operator:
		return nobody
	case id.Role == requorumv1.Role_ROLE_VIEWER:
		return viewer
	case id.Role == requorumv1.Role_ROLE_OPERATOR:
		return operator
	case id.Role == requorumv1.Role_ROLE_ADMIN:
		return admin
	}
	return nobody
}

// String names the least of the callers, for the message to a caller who is refused.
func (w who) String() string {
	switch {
	case w&stranger != 0:
		return "anyone"
	case w&node != 0:
		return "nodes"
	case w&viewer != 0:
		return "operators of any role"
	case w&operator != 0:
		return "operators of role operator or admin"
	case w&admin != 0:
		return "operators of role admin"
	}
	return "nobody"
}
