package api

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/retention"
	"github.com/requorum/requorum/controller/schedule"
)

type schedules struct {
	requorumv1.UnimplementedScheduleServiceServer
	*Server
}

func (s schedules) ApplySchedule(ctx context.Context, req *requorumv1.ApplyScheduleRequest) (*requorumv1.ApplyScheduleResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	applied, outcome, err := s.Schedules.Apply(req.GetSchedule(), by)
	return &requorumv1.ApplyScheduleResponse{Schedule: applied, Outcome: outcome}, toStatus(err)
}

func (s schedules) ListSchedules(_ context.Context, req *requorumv1.ListSchedulesRequest) (*requorumv1.ListSchedulesResponse, error) {
	if req.GetCluster() != "" {
		if _, err := s.Catalog.Cluster(req.GetCluster()); err != nil {
			return nil, toStatus(err)
		}
	}
	all, err := s.Schedules.List(req.GetCluster())
	return &requorumv1.ListSchedulesResponse{Schedules: all}, toStatus(err)
}

func (s schedules) GetSchedule(_ context.Context, req *requorumv1.GetScheduleRequest) (*requorumv1.GetScheduleResponse, error) {
	got, err := s.Schedules.Get(req.GetName())
	return &requorumv1.GetScheduleResponse{Schedule: got}, toStatus(err)
}

func (s schedules) PauseSchedule(ctx context.Context, req *requorumv1.PauseScheduleRequest) (*requorumv1.PauseScheduleResponse, error) {
	now, err := s.setPaused(ctx, req.GetName(), true)
	return &requorumv1.PauseScheduleResponse{Schedule: now}, toStatus(err)
}

func (s schedules) ResumeSchedule(ctx context.Context, req *requorumv1.ResumeScheduleRequest) (*requorumv1.ResumeScheduleResponse, error) {
	now, err := s.setPaused(ctx, req.GetName(), false)
	return &requorumv1.ResumeScheduleResponse{Schedule: now}, toStatus(err)
}

func (s schedules) setPaused(ctx context.Context, name string, paused bool) (*requorumv1.Schedule, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	return s.Schedules.SetPaused(name, paused, by)
}

func (s schedules) TriggerSchedule(ctx context.Context, req *requorumv1.TriggerScheduleRequest) (*requorumv1.TriggerScheduleResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, run, err := s.Schedules.Trigger(req.GetName(), req.GetRequestId(), by)
	return &requorumv1.TriggerScheduleResponse{Operation: op, Run: run}, toStatus(err)
}

func (s schedules) DeleteSchedule(_ context.Context, req *requorumv1.DeleteScheduleRequest) (*requorumv1.DeleteScheduleResponse, error) {
	return &requorumv1.DeleteScheduleResponse{}, toStatus(s.Schedules.Delete(req.GetName()))
}

// listed is how many runs are returned where the request does not say.
const listed = 100

func (s schedules) ListScheduleRuns(_ context.Context, req *requorumv1.ListScheduleRunsRequest) (*requorumv1.ListScheduleRunsResponse, error) {
	limit := int(req.GetLimit())
	if limit <= 0 {
		limit = listed
	}
	runs, err := s.Schedules.Runs(req.GetName(), req.GetCluster(), limit)
	return &requorumv1.ListScheduleRunsResponse{Runs: runs}, toStatus(err)
}

func (s snapshots) PlanPrune(_ context.Context, req *requorumv1.PlanPruneRequest) (*requorumv1.PlanPruneResponse, error) {
	verdicts, err := s.Schedules.Judge(req.GetCluster(), req.GetSchedule(), req.GetRetention())
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &requorumv1.PlanPruneResponse{}
	for _, v := range verdicts {
		told := verdict(v)
		if v.Remove {
			told.Removal = schedule.Removal(&v, verdicts)
		}
		resp.Verdicts = append(resp.Verdicts, told)
	}
	return resp, nil
}

func verdict(v retention.Verdict) *requorumv1.PruneVerdict {
	return &requorumv1.PruneVerdict{
		Name: v.Snapshot.GetName(), Schedule: v.Snapshot.GetSchedule(), Kind: v.Snapshot.GetKind(), Size: v.Snapshot.GetManifest().GetSize(),
		Created: timestamppb.New(retention.Taken(v.Snapshot)), Remove: v.Remove, Reason: v.Reason, Remote: v.Remote,
	}
}

func (s snapshots) RepairSnapshot(ctx context.Context, req *requorumv1.RepairSnapshotRequest) (*requorumv1.RepairSnapshotResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Repair(req.GetCluster(), req.GetName(), req.GetRequestId(), by, req.GetIdentity())
	return &requorumv1.RepairSnapshotResponse{Operation: op}, toStatus(err)
}

func (s snapshots) RebuildCatalog(ctx context.Context, req *requorumv1.RebuildCatalogRequest) (*requorumv1.RebuildCatalogResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Snapshots.Rebuild(req.GetCluster(), req.GetFrom(), req.GetRequestId(), by)
	return &requorumv1.RebuildCatalogResponse{Operation: op}, toStatus(err)
}

func (s snapshots) PlanRebuild(ctx context.Context, req *requorumv1.PlanRebuildRequest) (*requorumv1.PlanRebuildResponse, error) {
	resp, err := s.Snapshots.PlanRebuild(ctx, req.GetCluster(), req.GetFrom())
	return resp, toStatus(err)
}

func (s snapshots) ListOrphans(ctx context.Context, req *requorumv1.ListOrphansRequest) (*requorumv1.ListOrphansResponse, error) {
	resp, err := s.Copies.Orphans(ctx, req.GetCluster())
	return resp, toStatus(err)
}
