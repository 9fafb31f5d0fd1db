package grpcserver_test

import (
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/requorum/requorum/internal/grpcserver"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestAServerThatWasStoppedBeforeItBeganIsNoError(t *testing.T) {
	server, l := grpc.NewServer(), listen(t)
	server.Stop()
	if err := grpcserver.Serve(server, l); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the listener is still open")
	}
}

func TestAPortThatIsTakenSaysWhatToDo(t *testing.T) {
	l := listen(t)
	defer l.Close()
	_, err := grpcserver.Listen(t.Context(), l.Addr().String(), "listen")
	if err == nil || !strings.Contains(err.Error(), "stop what listens there (ss -ltnp shows it), or give another port (listen)") {
		t.Error(err)
	}
}

func TestAListenerThatFailsIsAnError(t *testing.T) {
	server, l := grpc.NewServer(), listen(t)
	t.Cleanup(server.Stop)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := grpcserver.Serve(server, l); err == nil {
		t.Error("it served without a listener")
	}
}
