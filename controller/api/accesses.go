package api

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/requorum/requorum/gen/requorum/agent/v1"
	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/internal/pki"
)

type accesses struct {
	requorumv1.UnimplementedAccessServiceServer
	*Server
}

func (s accesses) CreateToken(ctx context.Context, req *requorumv1.CreateTokenRequest) (*requorumv1.CreateTokenResponse, error) {
	token, expires, err := s.Access.CreateToken(ctx, req.GetRequestId(), req.GetCluster(), req.GetNode(), req.GetTtl().AsDuration())
	if err != nil {
		return nil, toStatus(err)
	}
	return &requorumv1.CreateTokenResponse{Token: token, Expires: timestamppb.New(expires)}, nil
}

func (s accesses) IssueOperatorCertificate(ctx context.Context, req *requorumv1.IssueOperatorCertificateRequest) (*requorumv1.IssueOperatorCertificateResponse, error) {
	cert, ca, err := s.Access.IssueOperator(ctx, req.GetCsr(), req.GetName(), req.GetRole(), req.GetTtl().AsDuration())
	if err != nil {
		return nil, toStatus(err)
	}
	return &requorumv1.IssueOperatorCertificateResponse{Certificate: cert, Ca: ca}, nil
}

func (s accesses) ListOperatorCertificates(context.Context, *requorumv1.ListOperatorCertificatesRequest) (*requorumv1.ListOperatorCertificatesResponse, error) {
	all, err := s.Access.Operators()
	if err != nil {
		return nil, toStatus(err)
	}
	return &requorumv1.ListOperatorCertificatesResponse{Certificates: all}, nil
}

func (s accesses) RevokeOperatorCertificate(ctx context.Context, req *requorumv1.RevokeOperatorCertificateRequest) (*requorumv1.RevokeOperatorCertificateResponse, error) {
	revoked, err := s.Access.RevokeOperator(ctx, req.GetSerial())
	if err != nil {
		return nil, toStatus(err)
	}
	return &requorumv1.RevokeOperatorCertificateResponse{Certificate: revoked}, nil
}

type enrolment struct {
	agentv1.UnimplementedEnrollServiceServer
	*Server
}

func (s enrolment) Enroll(ctx context.Context, req *agentv1.EnrollRequest) (*agentv1.EnrollResponse, error) {
	cert, ca, err := s.Access.Enroll(ctx, req.GetTokenId(), req.GetTokenSecret(), req.GetNode(), req.GetCsr())
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.readmit(cert); err != nil {
		return nil, toStatus(err)
	}
	return &agentv1.EnrollResponse{Certificate: cert, Ca: ca}, nil
}

// readmit lets a node begin anew that was known before.
func (s enrolment) readmit(certPEM []byte) error {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return errors.New("the certificate just issued is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	id, err := pki.FromCertificate(cert)
	if err != nil {
		return err
	}
	s.Dispatcher.Readmit(dispatch.Key{Cluster: id.Cluster, Node: id.Node})
	return s.Catalog.Reenrolled(id.Cluster, id.Node)
}

func (s enrolment) Renew(ctx context.Context, req *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	id, current, err := pki.FromContext(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	cert, ca, err := s.Access.Renew(ctx, id, current, req.GetCsr())
	if err != nil {
		return nil, toStatus(err)
	}
	return &agentv1.RenewResponse{Certificate: cert, Ca: ca}, nil
}
