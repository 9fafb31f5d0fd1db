// Package grpcserver runs gRPC servers whose end may come before their beginning.
package grpcserver

import (
	"errors"
	"net"

	"google.golang.org/grpc"
)

// Serve serves on the listener, which it closes, until the server is stopped. That is no error, even if the server was stopped
// before it began to serve, as where the goroutine that serves runs late; then grpc says so with an error of its own.
func Serve(server *grpc.Server, listener net.Listener) error {
	err := server.Serve(listener)
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
