package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/internal/logging"
	"github.com/requorum/requorum/internal/pki"
)

const (
	// callLimit is how long a call may take that asks the controller alone.
	callLimit = 30 * time.Second
	// planLimit is how long a call may take that asks every node.
	planLimit = 5 * time.Minute
)

// client is a connection to the controller.
type client struct {
	requorumv1.ClusterServiceClient
	requorumv1.SnapshotServiceClient
	requorumv1.RestoreServiceClient
	requorumv1.OperationServiceClient
	requorumv1.AccessServiceClient
	requorumv1.RemoteServiceClient
	requorumv1.ScheduleServiceClient
	requorumv1.AuditServiceClient

	conn       *grpc.ClientConn
	log        hclog.Logger
	controller string // address, as configured
	patience   time.Duration
}

// with runs work with a connection to the controller.
func (p *program) with(ctx context.Context, work func(context.Context, *client) error) error {
	log, err := logging.New("requorum", logging.Options{Level: p.settings.logLevel, Output: p.err})
	if err != nil {
		return &UsageError{Err: err}
	}
	settings, err := p.settings.resolve()
	if err != nil {
		return err
	}
	conn, err := dial(settings, p.tellSlow(settings.Controller))
	if err != nil {
		return err
	}
	c := &client{
		ClusterServiceClient:   requorumv1.NewClusterServiceClient(conn),
		SnapshotServiceClient:  requorumv1.NewSnapshotServiceClient(conn),
		RestoreServiceClient:   requorumv1.NewRestoreServiceClient(conn),
		OperationServiceClient: requorumv1.NewOperationServiceClient(conn),
		AccessServiceClient:    requorumv1.NewAccessServiceClient(conn),
		RemoteServiceClient:    requorumv1.NewRemoteServiceClient(conn),
		ScheduleServiceClient:  requorumv1.NewScheduleServiceClient(conn),
		AuditServiceClient:     requorumv1.NewAuditServiceClient(conn),
		conn:                   conn,
		log:                    log,
		controller:             settings.Controller,
		patience:               p.patience,
	}
	err = work(ctx, c)
	if closeErr := conn.Close(); err == nil {
		err = closeErr
	}
	return err
}

// dial makes the connection; nothing is sent before the first call.
func dial(s clientConfig, watch grpc.UnaryClientInterceptor) (*grpc.ClientConn, error) {
	if _, _, err := net.SplitHostPort(s.Controller); err != nil {
		return nil, usagef("controller address %q: %v; it is HOST:PORT", s.Controller, err)
	}
	creds, err := pki.LoadCredentials(s.Cert, s.Key, s.CA)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, advised(err, "run the command as the user whose files they are, or let an admin make files of your own: requorum access create")
	case err != nil:
		return nil, advised(err, "an admin makes a certificate, its key and the CA that belong together with: requorum access create")
	}
	// A connection whose other end is gone is noticed in half a minute, whatever the server permits.
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	conn, err := grpc.NewClient("passthrough:///"+s.Controller,
		grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(creds, pki.ControllerIdentity()))),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}),
		grpc.WithChainUnaryInterceptor(watch, readableUnary(s.Controller)),
		grpc.WithStreamInterceptor(readableStream(s.Controller)),
	)
	if err != nil {
		return nil, fmt.Errorf("controller %s: %w", s.Controller, err)
	}
	return conn, nil
}

// tellSlow tells a person, once for each call, that an answer is still waited for: the controller may be asking nodes that do not
// answer either. Whoever follows an operation sees that otherwise.
func (p *program) tellSlow(controller string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, person := p.notices(); !person || method == requorumv1.OperationService_GetOperation_FullMethodName {
			return invoke(ctx, method, req, reply, cc, opts...)
		}
		told := make(chan struct{})
		timer := time.AfterFunc(p.slow, func() {
			defer close(told)
			p.hint("waiting for the answer of controller %s, which may have to ask nodes and remotes …", controller)
		})
		err := invoke(ctx, method, req, reply, cc, opts...)
		if !timer.Stop() {
			<-told
		}
		return err
	}
}

// ask makes a call that changes nothing.
func ask[Req, Resp any](ctx context.Context, call func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req, limit time.Duration) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return call(ctx, req)
}

// identified is a request that can be repeated safely.
type identified interface{ GetRequestId() string }

// change makes a call that changes something. While the controller does not answer it is repeated with
// the same request ID, so that it has its effect once.
func change[Req identified, Resp any](ctx context.Context, c *client, call func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	resp, err := insist(ctx, c, call, req)
	if err != nil && unsure(err) {
		err = advised(err, "whether it was accepted is not known; to repeat it safely, run it again with --request-id "+req.GetRequestId())
	}
	return resp, err
}

// insist makes a call that may be made again, and does so while the controller does not answer.
func insist[Req, Resp any](ctx context.Context, c *client, call func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 200*time.Millisecond, 5*time.Second
	return backoff.Retry(ctx, func() (Resp, error) {
		resp, err := ask(ctx, call, req, callLimit)
		if err != nil && status.Code(err) != codes.Unavailable {
			return resp, backoff.Permanent(err)
		}
		return resp, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(c.patience), backoff.WithNotify(func(err error, next time.Duration) {
		c.log.Warn("no answer, trying again", "controller", c.controller, "in", next.Round(time.Millisecond), "reason", err)
	}))
}

// unsure tells whether a call that failed may have had its effect.
func unsure(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return !strings.Contains(err.Error(), "connection refused")
	}
	return false
}

// clusterOr returns name, or the name of the controller's only cluster if name is empty.
func (c *client) clusterOr(ctx context.Context, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	resp, err := ask(ctx, c.ListClusters, &requorumv1.ListClustersRequest{}, callLimit)
	if err != nil {
		return "", err
	}
	var known []string
	for _, cluster := range resp.GetClusters() {
		known = append(known, cluster.GetName())
	}
	switch len(known) {
	case 1:
		return known[0], nil
	case 0:
		return "", &RefusedError{Message: "the controller knows no cluster yet", Hints: []string{"let its nodes join: requorum token create --cluster NAME"}}
	}
	return "", usagef("the controller knows several clusters (%s); say which with --cluster", strings.Join(known, ", "))
}
