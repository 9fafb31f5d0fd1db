package live

import (
	"fmt"
	"strings"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

// Title says what an operation does, to begin a sentence or a screen with: Restore prod from pre-1.31.
func Title(op *requorumv1.Operation) string {
	switch op.GetKind() {
	case requorumv1.OperationKind_OPERATION_KIND_RESTORE:
		return fmt.Sprintf("Restore %s from %s", op.GetCluster(), op.GetSnapshot())
	case requorumv1.OperationKind_OPERATION_KIND_REHEARSE:
		return fmt.Sprintf("Rehearse the restore of %s from %s", op.GetCluster(), op.GetSnapshot())
	case requorumv1.OperationKind_OPERATION_KIND_IMPORT:
		return fmt.Sprintf("Import snapshot %s into %s", op.GetSnapshot(), op.GetCluster())
	case requorumv1.OperationKind_OPERATION_KIND_DISTRIBUTE:
		return fmt.Sprintf("Distribute snapshot %s in %s", op.GetSnapshot(), op.GetCluster())
	case requorumv1.OperationKind_OPERATION_KIND_UPLOAD:
		return fmt.Sprintf("Store snapshot %s of %s in a remote", op.GetSnapshot(), op.GetCluster())
	}
	if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_REBUILD {
		return "Rebuild the catalog of " + op.GetCluster()
	}
	kind := Kind(op.GetKind())
	return fmt.Sprintf("%s%s snapshot %s of %s", strings.ToUpper(kind[:1]), kind[1:], op.GetSnapshot(), op.GetCluster())
}

// Subject names an operation at the beginning of an error: restore prod, save pre-1.31 of prod.
func Subject(op *requorumv1.Operation) string {
	if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_RESTORE {
		return "restore " + op.GetCluster()
	}
	if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_REBUILD {
		return "rebuild the catalog of " + op.GetCluster()
	}
	if op.GetKind() == requorumv1.OperationKind_OPERATION_KIND_REHEARSE {
		return "rehearse the restore of " + op.GetCluster()
	}
	return fmt.Sprintf("%s snapshot %s of %s", Kind(op.GetKind()), op.GetSnapshot(), op.GetCluster())
}

// Kind is the kind of an operation in one word.
func Kind(k requorumv1.OperationKind) string { return word(k.String(), "OPERATION_KIND_") }

// State is the state of an operation in one word.
func State(s requorumv1.OperationState) string { return word(s.String(), "OPERATION_STATE_") }

// Phase is an operation's phase in the words people know from Rancher.
func Phase(p requorumv1.Phase) string {
	if p == requorumv1.Phase_PHASE_RESTART_CLUSTER {
		return "RestartCluster"
	}
	w := word(p.String(), "PHASE_")
	return strings.ToUpper(w[:1]) + w[1:]
}

// StepState is the state of a step or of a task in a word or two.
func StepState(s requorumv1.StepState) string {
	switch s {
	case requorumv1.StepState_STEP_STATE_DOING:
		return "begun"
	case requorumv1.StepState_STEP_STATE_UNDOING:
		return "being undone"
	}
	return word(s.String(), "STEP_STATE_")
}

func word(enum, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(enum, prefix))
}

func running(s requorumv1.StepState) bool {
	return s == requorumv1.StepState_STEP_STATE_DOING || s == requorumv1.StepState_STEP_STATE_UNDOING
}
