package harness

import (
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/restore"
	"github.com/requorum/requorum/controller/snapshot"
)

// Plans are the plans in which every step meets faults, by the name that their fault points have.
func Plans() map[string]operation.Plan {
	return map[string]operation.Plan{
		"restore": new(restore.Jobs).Builder(nil).Plan,
		"save":    new(snapshot.Jobs).Builders()[requorumv1.OperationKind_OPERATION_KIND_SAVE](nil).Plan,
	}
}
