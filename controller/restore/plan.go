// Package restore holds the plan that restores a whole cluster from one snapshot.
package restore

import (
	"github.com/hashicorp/go-hclog"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/sealing"
	"github.com/requorum/requorum/controller/snapshot"
)

// Jobs makes, plans and starts restores.
type Jobs struct {
	Engine  *operation.Engine
	Catalog *catalog.Catalog
	Fleet   Fleet
	Remotes *remote.Remotes
	Log     hclog.Logger

	LocalStorage sealing.Config // how the copies that a restore makes are sealed
	Identities   snapshot.Identities
}

// Builders returns the builders of this package's jobs, by kind.
func (j *Jobs) Builders() map[requorumv1.OperationKind]operation.Builder {
	return map[requorumv1.OperationKind]operation.Builder{
		requorumv1.OperationKind_OPERATION_KIND_RESTORE:  j.Builder,
		requorumv1.OperationKind_OPERATION_KIND_REHEARSE: j.rehearsing,
	}
}

// rehearsing does what a restore does while the old cluster serves, and removes what it has staged.
func (j *Jobs) rehearsing(*operation.Run) operation.Job {
	const started = requorumv1.Phase_PHASE_STARTED
	return operation.Job{End: j.ended, Plan: operation.Plan{
		{Name: "preflight", Phase: started, Do: j.preflight, Check: true},
		{Name: "fetch", Phase: started, Do: j.fetch, Undo: j.dropFetched},
		{Name: "distribute", Phase: started, Do: j.distribute, Undo: j.dropPartial},
		{Name: "agree", Phase: started, Do: j.agree},
		{Name: "stage", Phase: started, Do: j.stage, Undo: j.unstage},
		{Name: "unstage", Phase: started, Do: j.unstageAll},
	}}
}

// Builder returns the job of a restore. Up to open every step can be undone; from open on the
// operation only moves forward.
func (j *Jobs) Builder(*operation.Run) operation.Job {
	const (
		started  = requorumv1.Phase_PHASE_STARTED
		shutdown = requorumv1.Phase_PHASE_SHUTDOWN
		restore  = requorumv1.Phase_PHASE_RESTORE
		restart  = requorumv1.Phase_PHASE_RESTART_CLUSTER
		finished = requorumv1.Phase_PHASE_FINISHED
	)
	return operation.Job{Settle: j.settle, End: j.ended, Plan: operation.Plan{
		{Name: "preflight", Phase: started, Do: j.preflight, Check: true},
		{Name: "fetch", Phase: started, Do: j.fetch, Undo: j.dropFetched},
		{Name: "distribute", Phase: started, Do: j.distribute, Undo: j.dropPartial},
		{Name: "agree", Phase: started, Do: j.agree},
		{Name: "stage", Phase: started, Do: j.stage, Undo: j.unstage}, // the old cluster still serves
		{Name: "safety", Phase: started, Do: j.saveSafety, Undo: j.dropSafety},
		{Name: "stop", Phase: shutdown, Do: j.stop, Undo: j.startOld},
		{Name: "swap", Phase: restore, Do: j.swap, Undo: j.swapBack},
		{Name: "start", Phase: restart, Do: j.start, Undo: j.stopNew},
		{Name: "verify", Phase: restart, Do: j.verify},
		{Name: "open", Phase: restart, Do: j.open, Pivot: true}, // clients may write
		{Name: "learners", Phase: finished, Do: j.addLearners},
		{Name: "finish", Phase: finished, Do: j.finish},
		{Name: "late-writes", Phase: finished, Do: j.saveLate},
		{Name: "snapshot", Phase: finished, Do: j.saveAfter},
	}}
}

// Fleet tells what nodes last told of themselves, and ends their sessions.
type Fleet interface {
	snapshot.Fleet
	// Reconnect ends a node's session so that it learns the cluster's generation anew.
	Reconnect(cluster, node string)
}
