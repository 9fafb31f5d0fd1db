package api

import (
	"context"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"
)

type restores struct {
	requorumv1.UnimplementedRestoreServiceServer
	*Server
}

func (s restores) PlanRestore(ctx context.Context, req *requorumv1.PlanRestoreRequest) (*requorumv1.PlanRestoreResponse, error) {
	plan, err := s.Restores.Plan(ctx, req)
	return &requorumv1.PlanRestoreResponse{Plan: plan}, toStatus(err)
}

// RehearseRestore hands over as well.
func (s restores) RehearseRestore(ctx context.Context, req *requorumv1.RehearseRestoreRequest) (*requorumv1.RehearseRestoreResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Restores.Rehearse(ctx, req, by)
	return &requorumv1.RehearseRestoreResponse{Operation: op}, toStatus(err)
}

// StartRestore hands over; the operation does the rest.
func (s restores) StartRestore(ctx context.Context, req *requorumv1.StartRestoreRequest) (*requorumv1.StartRestoreResponse, error) {
	by, err := caller(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	op, err := s.Restores.Start(ctx, req, by)
	return &requorumv1.StartRestoreResponse{Operation: op}, toStatus(err)
}
