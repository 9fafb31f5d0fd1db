package cri

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/requorum/requorum/internal/grpcserver"
)

func TestSandboxIsOfItsPodOnly(t *testing.T) {
	p := Pod{Name: "etcd", Namespace: "kube-system", Containers: []string{"etcd"}}
	of := func(names ...string) (containers []*criv1.Container) {
		for _, name := range names {
			containers = append(containers, &criv1.Container{Labels: map[string]string{containerLabel: name}})
		}
		return containers
	}
	for name, c := range map[string]struct {
		pod, namespace, source string
		containers             []*criv1.Container
		want                   bool
	}{
		"its own":             {"etcd-cp-1", "kube-system", "file", of("etcd"), true},
		"not yet a container": {"etcd-cp-1", "kube-system", "file", nil, true},
		"of the API server":   {"etcd-cp-1", "kube-system", "api", of("etcd"), false},
		"another namespace":   {"etcd-cp-1", "default", "file", of("etcd"), false},
		"another pod":         {"etcd-events-cp-1", "kube-system", "file", of("etcd-events"), false},
		"not its name":        {"etcdx-cp-1", "kube-system", "file", of("etcd"), false},
	} {
		box := &criv1.PodSandbox{Metadata: &criv1.PodSandboxMetadata{Name: c.pod}, Labels: map[string]string{namespaceLabel: c.namespace}, Annotations: map[string]string{sourceAnnotation: c.source}}
		if got := p.is(box, c.containers); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// slow is a listener whose connections are taken up late, as on a busy host.
type slow struct{ net.Listener }

func (l slow) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	<-time.After(5 * LookInterval)
	return conn, err
}

type answering struct {
	criv1.UnimplementedRuntimeServiceServer
}

func (answering) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{}, nil
}

func TestARuntimeThatAnswersLateIsWaitedFor(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "cri.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	criv1.RegisterRuntimeServiceServer(srv, answering{})
	ended := make(chan error, 1)
	go func() { ended <- grpcserver.Serve(srv, slow{l}) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if err := Connected(t.Context(), "unix://"+socket, "cri_endpoint", func(c *Client) error { return c.Answers(t.Context()) }); err != nil {
		t.Error(err)
	}
}
