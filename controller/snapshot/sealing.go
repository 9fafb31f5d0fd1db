package snapshot

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/failure"
	"github.com/requorum/requorum/controller/operation"
	"github.com/requorum/requorum/controller/sealing"
	"github.com/requorum/requorum/internal/seal"
)

// sealingFor returns how the copies of a save are sealed: as asked for, and in what that leaves out as the configuration
// says.
func (j *Jobs) sealingFor(req *requorumv1.SaveSnapshotRequest) (*requorumv1.Sealing, error) {
	asked := req.GetLocalSealing()
	if req.GetPlain() {
		if asked != nil {
			return nil, &InvalidError{"plain and local_sealing exclude each other"}
		}
		return nil, nil
	}
	if err := seal.OptionsOf(asked).Check(); err != nil {
		return nil, &InvalidError{err.Error()}
	}
	configured, err := j.LocalStorage.Local()
	if err != nil {
		return nil, err
	}
	level, recipients := asked.GetZstdLevel(), asked.GetRecipients()
	if level == 0 {
		level = configured.GetZstdLevel()
	}
	if len(recipients) == 0 {
		recipients = configured.GetRecipients()
	}
	return sealing.Of(level, recipients), nil
}

// SealedAs returns how a copy of m is to be sealed on nodes that comes from a remote: as it was on nodes, but never in the
// clear where new ones, which are sealed as otherwise says, are encrypted.
func SealedAs(m *requorumv1.Manifest, otherwise *requorumv1.Sealing) *requorumv1.Sealing {
	l := m.GetLocal()
	if l == nil || len(l.GetRecipients()) == 0 && len(otherwise.GetRecipients()) > 0 {
		return otherwise
	}
	return sealing.Of(l.GetZstdLevel(), l.GetRecipients())
}

// Resealed is a manifest of a copy that a node has just fetched. facts are nil if that holds it as the manifest says.
func Resealed(m *requorumv1.Manifest, facts *agentv1.CopyFacts) *requorumv1.Manifest {
	if facts == nil {
		return m
	}
	m = proto.CloneOf(m)
	m.Local = facts.GetLocal()
	return m
}

// CanOpen refuses what is encrypted for recipients unless an identity is for one of them.
func CanOpen(what, identity string, recipients []string) error {
	if len(recipients) == 0 {
		return nil
	}
	if seal.Opens(identity, recipients) == nil {
		return nil
	}
	given := "none of the identities given is for one of these recipients"
	if identity == "" {
		given = "no identity was given"
	}
	return &failure.Error{
		Message: fmt.Sprintf("%s encrypted for %s, and %s", what, sealing.Names(recipients), given),
		Advice:  "give the key file of one of these recipients: --identity FILE",
	}
}

// copiesAre begins a sentence about the copies of a snapshot.
func copiesAre(m *requorumv1.Manifest) string {
	return fmt.Sprintf("the copies of %s on the nodes are", m.GetName())
}

// sealedHere makes sure that a node has sealed a copy that it was told to. An agent of an earlier version does not know how.
func sealedHere(node string, wanted *requorumv1.Sealing, facts *agentv1.CopyFacts) error {
	if wanted == nil || facts.GetLocal() != nil && facts.GetInspected() != nil {
		return nil
	}
	return failure.On(node, "its agent has not sealed the copy: it does not know how to", "upgrade the agent: it is older than the controller")
}

// compareFetched makes sure that a manifest which came with its file tells what is in it. A file that stays encrypted as it
// was in the remote cannot be looked into.
func compareFetched(ctx context.Context, run *operation.Run, job *journalv1.SnapshotJob) error {
	switch m := job.GetManifest(); {
	case job.GetFacts().GetInspected() != nil:
		return compareFacts(job.GetNode(), job.GetFacts().GetInspected(), m)
	case len(m.GetLocal().GetRecipients()) > 0:
		return run.Warn("what is in the file was not compared with its manifest: it is encrypted on the nodes as it is in the remote (requorum snapshot verify %s --identity FILE does that)", m.GetName())
	}
	return compareWithFile(ctx, run, job.GetNode(), job.GetManifest())
}

// KeepSealed removes a copy that a node was told to seal and did not, and fails then.
func KeepSealed(ctx context.Context, run *operation.Run, node, name string, wanted *requorumv1.Sealing, facts *agentv1.CopyFacts) error {
	if err := sealedHere(node, wanted, facts); err != nil {
		return errors.Join(err, Drop(ctx, run, node, &agentv1.DropCopy{Name: name}))
	}
	return nil
}
