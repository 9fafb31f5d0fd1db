// Package grpcserver runs gRPC servers whose end may come before their beginning.
package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"google.golang.org/grpc"
)

// Listen listens on a TCP address. setting names where the address comes from, for who has to change it.
func Listen(ctx context.Context, address, setting string) (net.Listener, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w; stop what listens there (ss -ltnp shows it), or give another port (%s)", err, setting)
	case err != nil:
		return nil, fmt.Errorf("%w; see whether the address is one of this machine's (%s)", err, setting)
	}
	return listener, nil
}

// Serve serves on the listener, which it closes, until the server is stopped. That is no error, even if the server was stopped
// before it began to serve, as where the goroutine that serves runs late; then grpc says so with an error of its own.
func Serve(server *grpc.Server, listener net.Listener) error {
	err := server.Serve(listener)
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
