// Package snapshot holds the plans that work on one snapshot: save, import, check, verify, distribute and
// delete, and the one that rebuilds the catalog.
package snapshot

import (
	"context"

	"github.com/hashicorp/go-hclog"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/catalog"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/sealing"
)

// Jobs makes and starts the operations of this package.
type Jobs struct {
	Engine  *operation.Engine
	Catalog *catalog.Catalog
	Fleet   Fleet
	Remotes *remote.Remotes
	Log     hclog.Logger

	LocalStorage sealing.Config // how copies on nodes are sealed, where a request does not say it
	Identities   Identities
}

// Fleet tells what nodes last told of themselves.
type Fleet interface {
	Asker
	Info(key dispatch.Key) dispatch.Info
	// Gather waits for agents that are only on their way back to a controller that has just started.
	Gather(ctx context.Context, cluster string, nodes []string)
}

// Builders returns the builders of this package's jobs, by kind.
func (j *Jobs) Builders() map[requorumv1.OperationKind]operation.Builder {
	return map[requorumv1.OperationKind]operation.Builder{
		requorumv1.OperationKind_OPERATION_KIND_SAVE:       j.save,
		requorumv1.OperationKind_OPERATION_KIND_IMPORT:     j.importing,
		requorumv1.OperationKind_OPERATION_KIND_CHECK:      j.check,
		requorumv1.OperationKind_OPERATION_KIND_VERIFY:     j.verifying,
		requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE: j.distributing,
		requorumv1.OperationKind_OPERATION_KIND_DELETE:     j.deleting,
		requorumv1.OperationKind_OPERATION_KIND_UPLOAD:     j.uploading,
		requorumv1.OperationKind_OPERATION_KIND_REBUILD:    j.rebuilding,
	}
}

// save takes a snapshot of one member and makes every node hold the same file.
func (j *Jobs) save(*operation.Run) operation.Job {
	return operation.Job{Plan: steps(
		operation.Step{Name: "check", Do: j.checkCluster, Check: true},
		operation.Step{Name: "save", Do: j.saveOnNode, Undo: j.drop},
		operation.Step{Name: "files", Do: j.packFiles, Undo: j.drop},
		operation.Step{Name: "inspect", Do: j.inspect},
		operation.Step{Name: "distribute", Do: j.distribute, Undo: j.drop},
		operation.Step{Name: "agree", Do: j.agreeWithFiles},
		operation.Step{Name: "upload", Do: j.upload, Undo: j.dropUpload},
		operation.Step{Name: "record", Do: j.record},
	), End: j.ended}
}

// uploading stores a snapshot in a remote.
func (j *Jobs) uploading(*operation.Run) operation.Job {
	return operation.Job{Plan: steps(
		operation.Step{Name: "locate", Do: j.locateForUpload, Check: true},
		operation.Step{Name: "upload", Do: j.upload, Undo: j.dropUpload},
		operation.Step{Name: "record", Do: j.record},
	)}
}

// importing takes a file that lies on a node, or in a remote, into the catalog.
func (j *Jobs) importing(*operation.Run) operation.Job {
	return operation.Job{Plan: steps(
		operation.Step{Name: "check", Do: j.checkImport, Check: true},
		operation.Step{Name: "import", Do: j.importOnNode, Undo: j.drop},
		operation.Step{Name: "inspect", Do: j.inspect},
		operation.Step{Name: "distribute", Do: j.distribute, Undo: j.drop},
		operation.Step{Name: "agree", Do: j.agree},
		operation.Step{Name: "record", Do: j.record},
	), End: j.ended}
}

// check reads every copy back and compares. It changes nothing but what the catalog says of the copies.
func (j *Jobs) check(*operation.Run) operation.Job {
	return operation.Job{Plan: steps(
		operation.Step{Name: "agree", Do: j.agreeWithFiles, Check: true},
		operation.Step{Name: "record", Do: j.record},
	)}
}

// distributing gives every node that lacks a good copy one, or the files that it had added, and in a repair the remotes.
func (j *Jobs) distributing(*operation.Run) operation.Job {
	return operation.Job{Plan: steps(
		operation.Step{Name: "locate", Do: j.locate, Check: true},
		operation.Step{Name: "fetch", Do: j.fetch, Undo: j.dropPartial},
		operation.Step{Name: "distribute", Do: j.distribute, Undo: j.dropPartial},
		operation.Step{Name: "agree", Do: j.agree},
		operation.Step{Name: "files", Do: j.fetchFiles},
		operation.Step{Name: "upload", Do: j.uploadAgain},
		operation.Step{Name: "record", Do: j.record},
	), End: j.forgetIdentity}
}

// deleting removes the copies in remotes, then every node's, then the catalog's entry. A remote that is out of reach
// ends it while nothing else is removed.
func (j *Jobs) deleting(*operation.Run) operation.Job {
	return operation.Job{Plan: steps(
		operation.Step{Name: "check", Do: j.checkDelete, Check: true},
		operation.Step{Name: "remove-remote", Do: j.removeRemote},
		operation.Step{Name: "remove", Do: j.removeCopies, Pivot: true},
		operation.Step{Name: "forget", Do: j.forget},
	)}
}

// rebuilding enters into the catalog what the nodes, and the remotes that are named, hold.
func (j *Jobs) rebuilding(*operation.Run) operation.Job {
	return operation.Job{Plan: steps(
		operation.Step{Name: "find", Do: j.find, Check: true},
		operation.Step{Name: "read", Do: j.readFound, Check: true},
		operation.Step{Name: "enter", Do: j.enter},
	)}
}

// steps gives every step of a plan the one phase that these operations have.
func steps(s ...operation.Step) operation.Plan {
	for i := range s {
		s[i].Phase = requorumv1.Phase_PHASE_STARTED
	}
	return s
}
