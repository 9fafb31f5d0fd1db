package restore

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	journalv1 "github.com/requorum/requorum/gen/requorum/journal/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/operation"
)

// open lets clients write: from here on there is no way back. The control plane follows.
func (j *Jobs) open(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	err := askVoters(ctx, run, job, &agentv1.Verify{
		ClusterId: job.GetClusterId(), Revision: job.GetRevision(), ClearNoSpace: true, Gate: job.GetGate(), LiftGate: true,
	})
	if err != nil {
		return err
	}
	if err := run.Journal(noteOpened); err != nil {
		return err
	}
	return askPresent(ctx, run, run.Operation().GetNodes(), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Open{Open: &agentv1.Open{RestoreId: run.ID(), PastPivot: true}}}
	})
}

func noteOpened(rec *journalv1.OperationRecord) {
	job := rec.GetRestore()
	if job.GetOpened() == nil {
		job.Opened = steady()
	}
	rec.GetOperation().Unavailability = between(job.GetStopped(), job.GetOpened())
}

// addLearners lets the members join again that were learners. It comes after open because etcd takes
// new learners only some seconds after a start, and nobody waits for them.
func (j *Jobs) addLearners(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	enrolled, err := j.Catalog.NodeNames(run.Cluster())
	if err != nil {
		return err
	}
	joining := slices.DeleteFunc(learners(job), func(n *journalv1.RestoreNode) bool { return !slices.Contains(enrolled, n.GetNode()) })
	if len(joining) == 0 {
		return nil
	}
	if err := addThrough(ctx, run, job, joining); err != nil {
		return err
	}
	return askPresent(ctx, run, names(joining), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Start{Start: &agentv1.Start{RestoreId: run.ID(), JoinCluster: pairs(job.GetNodes())}}}
	})
}

// addThrough adds the learners. Which members there are is not compared any more: people may have changed that
// since the cluster was opened.
func addThrough(ctx context.Context, run *operation.Run, job *journalv1.RestoreJob, joining []*journalv1.RestoreNode) error {
	return askOneVoter(ctx, run, job, &agentv1.Verify{
		ClusterId: job.GetClusterId(), Revision: job.GetRevision(), AddLearners: memberURLs(joining),
	})
}

// askOneVoter asks the voting members, one after the other, until one can do what is asked of the cluster.
func askOneVoter(ctx context.Context, run *operation.Run, job *journalv1.RestoreJob, ask *agentv1.Verify) error {
	var errs []error
	for _, voter := range voters(job) {
		err := askVoter(ctx, run, voter, ask)
		if err == nil {
			return nil
		}
		if !errors.Is(err, dispatch.ErrRemoved) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// askVoters asks the voting members all at once until one has done what is asked of the cluster. One that has died since
// verify is given minutes to start, and clients that wait are not to wait for that.
func askVoters(ctx context.Context, run *operation.Run, job *journalv1.RestoreJob, ask *agentv1.Verify) error {
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	all := voters(job)
	answers := make(chan error, len(all))
	for _, voter := range all {
		go func() { answers <- askVoter(asking, run, voter, ask) }()
	}
	var errs []error
	done := false
	for range all { // all of them, so that none reports to a later step
		err := <-answers
		if err == nil {
			done = true
			stop(operation.ErrNotNeeded)
		} else if !errors.Is(err, dispatch.ErrRemoved) {
			errs = append(errs, err)
		}
	}
	if done {
		return nil
	}
	return errors.Join(errs...)
}

func askVoter(ctx context.Context, run *operation.Run, voter *journalv1.RestoreNode, ask *agentv1.Verify) error {
	ask = proto.CloneOf(ask)
	ask.MemberId = voter.GetMemberId()
	_, err := run.Ask(ctx, voter.GetNode(), &agentv1.Task{Spec: &agentv1.Task_Verify{Verify: ask}})
	return err
}

// finish raises the generation, which fences nodes that were left out. The old data is kept until it is clear
// that nobody needs it.
func (j *Jobs) finish(ctx context.Context, run *operation.Run) error {
	if err := finishNodes(ctx, run); err != nil {
		return err
	}
	return j.raiseGeneration(run.Cluster(), run.Restore())
}

// scheduleRemoval tells the nodes when the old data may be removed.
func scheduleRemoval(ctx context.Context, run *operation.Run) error {
	err := run.Journal(func(rec *journalv1.OperationRecord) {
		job := rec.GetRestore()
		if job.GetQuarantineExpires() == nil {
			job.QuarantineExpires = timestamppb.New(time.Now().Add(job.GetSpec().GetQuarantine().AsDuration()))
		}
		for _, q := range rec.GetOperation().GetQuarantines() {
			q.Expires = job.GetQuarantineExpires()
		}
	})
	if err != nil {
		return err
	}
	return finishNodes(ctx, run)
}

func finishNodes(ctx context.Context, run *operation.Run) error {
	job := run.Restore()
	return askPresent(ctx, run, job.GetSpec().GetNodes(), func(string) *agentv1.Task {
		return &agentv1.Task{Spec: &agentv1.Task_Finish{Finish: &agentv1.Finish{
			RestoreId: run.ID(), Generation: job.GetGeneration(), QuarantineExpires: job.GetQuarantineExpires(),
		}}}
	})
}

func (j *Jobs) raiseGeneration(cluster string, job *journalv1.RestoreJob) error {
	known, err := j.Catalog.EveryNode() // also those that were removed: one may come back with its old data
	if err != nil {
		return err
	}
	var leftOut []string
	for _, n := range known {
		if n.GetCluster() == cluster && !slices.Contains(job.GetSpec().GetNodes(), n.GetName()) {
			leftOut = append(leftOut, n.GetName())
		}
	}
	err = j.Catalog.UpdateCluster(cluster, func(rec *journalv1.ClusterRecord) {
		rec.Generation, rec.Members, rec.LeftOut, rec.Voters = job.GetGeneration(), job.GetSpec().GetNodes(), leftOut, uint32(len(voters(job)))
	})
	if err != nil {
		return err
	}
	for _, node := range leftOut {
		j.Fleet.Reconnect(cluster, node)
	}
	return nil
}
