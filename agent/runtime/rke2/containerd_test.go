package rke2_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/requorum/requorum/internal/critest"
	"github.com/requorum/requorum/internal/durable"
)

// runtimeServer is what containerd answers. All that it knows is in files, so that the next one finds it.
type runtimeServer struct {
	criv1.UnimplementedRuntimeServiceServer
	state string // directory
	shim  string // program
}

// containerd is containerd -c FILE -a SOCKET --state DIR --root DIR.
func containerd(args []string) error {
	if len(args) != 9 || args[1] != "-c" || args[3] != "-a" || args[5] != "--state" || args[7] != "--root" {
		return fmt.Errorf("stand-in for containerd: arguments %q", args)
	}
	s := &runtimeServer{state: args[6], shim: filepath.Join(filepath.Dir(args[0]), "containerd-shim")}
	if err := os.MkdirAll(filepath.Join(s.state, "tasks"), 0o700); err != nil {
		return err
	}
	// As the real one does with its database, it waits until no other one runs.
	lock, err := os.OpenFile(filepath.Join(s.state, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := os.RemoveAll(args[4]); err != nil {
		return err
	}
	l, err := net.Listen("unix", args[4])
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	criv1.RegisterRuntimeServiceServer(server, s)
	return server.Serve(l)
}

func (s *runtimeServer) path(id, kind string) string {
	return filepath.Join(s.state, "tasks", id+"."+kind)
}

func (s *runtimeServer) write(id, kind string, m proto.Message) error {
	text, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.path(id, kind), text, 0o600)
}

func (s *runtimeServer) read(id, kind string, m proto.Message) error {
	text, err := os.ReadFile(s.path(id, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return status.Errorf(codes.NotFound, "no %s %s", kind, id)
	}
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, m)
}

// ids returns what there is of a kind.
func (s *runtimeServer) ids(kind string) ([]string, error) {
	files, err := filepath.Glob(s.path("*", kind))
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), "."+kind)
	}
	return files, err
}

func (s *runtimeServer) exists(id, kind string) bool {
	_, err := os.Stat(s.path(id, kind))
	return err == nil
}

func newID() string { return fmt.Sprintf("%032x", time.Now().UnixNano()) }

func (s *runtimeServer) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{RuntimeName: "containerd"}, nil
}

func (s *runtimeServer) RunPodSandbox(_ context.Context, r *criv1.RunPodSandboxRequest) (*criv1.RunPodSandboxResponse, error) {
	id, c := newID(), r.GetConfig()
	return &criv1.RunPodSandboxResponse{PodSandboxId: id}, s.write(id, "sandbox", &criv1.PodSandbox{
		Id: id, Metadata: c.GetMetadata(), Labels: c.GetLabels(), Annotations: c.GetAnnotations(), CreatedAt: time.Now().UnixNano(),
	})
}

func (s *runtimeServer) ListPodSandbox(context.Context, *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	ids, err := s.ids("sandbox")
	if err != nil {
		return nil, err
	}
	var answer criv1.ListPodSandboxResponse
	for _, id := range ids {
		var box criv1.PodSandbox
		if err := s.read(id, "sandbox", &box); err != nil {
			return nil, err
		}
		if s.exists(id, "stopped") {
			box.State = criv1.PodSandboxState_SANDBOX_NOTREADY
		}
		answer.Items = append(answer.Items, &box)
	}
	return &answer, nil
}

func (s *runtimeServer) StopPodSandbox(ctx context.Context, r *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	all, err := s.ListContainers(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, c := range all.GetContainers() {
		if c.GetPodSandboxId() != r.GetPodSandboxId() {
			continue
		}
		if _, err := s.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: c.GetId()}); err != nil {
			return nil, err
		}
	}
	return &criv1.StopPodSandboxResponse{}, durable.WriteFile(s.path(r.GetPodSandboxId(), "stopped"), nil, 0o600)
}

func (s *runtimeServer) CreateContainer(_ context.Context, r *criv1.CreateContainerRequest) (*criv1.CreateContainerResponse, error) {
	id := newID()
	err := s.write(id, "config", r.GetConfig())
	if err == nil {
		err = s.write(id, "container", &criv1.Container{
			Id: id, PodSandboxId: r.GetPodSandboxId(), Metadata: r.GetConfig().GetMetadata(), Labels: r.GetConfig().GetLabels(), CreatedAt: time.Now().UnixNano(),
		})
	}
	return &criv1.CreateContainerResponse{ContainerId: id}, err
}

func (s *runtimeServer) StartContainer(ctx context.Context, r *criv1.StartContainerRequest) (*criv1.StartContainerResponse, error) {
	cmd := exec.Command(s.shim, s.state, r.GetContainerId())
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go cmd.Wait() // the shim itself says how it ends
	return &criv1.StartContainerResponse{}, s.await(ctx, func() bool { return s.exists(r.GetContainerId(), "pid") })
}

// await waits until done.
func (s *runtimeServer) await(ctx context.Context, done func() bool) error {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !done() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *runtimeServer) ListContainers(context.Context, *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	ids, err := s.ids("container")
	if err != nil {
		return nil, err
	}
	var answer criv1.ListContainersResponse
	for _, id := range ids {
		var c criv1.Container
		if err := s.read(id, "container", &c); err != nil {
			return nil, err
		}
		switch {
		case s.exists(id, "exit"):
			c.State = criv1.ContainerState_CONTAINER_EXITED
		case s.exists(id, "pid"):
			c.State = criv1.ContainerState_CONTAINER_RUNNING
		}
		answer.Containers = append(answer.Containers, &c)
	}
	return &answer, nil
}

func (s *runtimeServer) ContainerStatus(_ context.Context, r *criv1.ContainerStatusRequest) (*criv1.ContainerStatusResponse, error) {
	var c criv1.Container
	err := s.read(r.GetContainerId(), "container", &c)
	return &criv1.ContainerStatusResponse{Status: &criv1.ContainerStatus{Id: c.GetId(), LogPath: s.path(c.GetId(), "log")}}, err
}

// StopContainer lets a container end, and kills it after the timeout.
func (s *runtimeServer) StopContainer(ctx context.Context, r *criv1.StopContainerRequest) (*criv1.StopContainerResponse, error) {
	id := r.GetContainerId()
	if !s.exists(id, "pid") {
		return &criv1.StopContainerResponse{}, durable.WriteFile(s.path(id, "exit"), nil, 0o600)
	}
	text, err := os.ReadFile(s.path(id, "pid"))
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return nil, err
	}
	ended := func() bool { return s.exists(id, "exit") }
	if r.GetTimeout() > 0 && !ended() {
		_ = syscall.Kill(pid, syscall.SIGTERM)
		gentle, cancel := context.WithTimeout(ctx, time.Duration(r.GetTimeout())*time.Second)
		defer cancel()
		_ = s.await(gentle, ended)
	}
	if !ended() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	return &criv1.StopContainerResponse{}, s.await(ctx, ended)
}

// shim is containerd-shim STATE ID: it runs a container, and says when it has ended.
func shim(args []string) error {
	s := &runtimeServer{state: args[1]}
	id := args[2]
	var c criv1.ContainerConfig
	if err := s.read(id, "config", &c); err != nil {
		return err
	}
	log, err := os.OpenFile(s.path(id, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(filepath.Dir(args[0]), "pause"))
	if name := c.GetCommand()[0]; name == "etcd" {
		cmd = exec.Command(binary, c.GetArgs()...)
		cmd.Env = []string{"REQUORUM_TEST_ETCD=1"}
	}
	cmd.Stdout = &critest.Log{To: log}
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := durable.WriteFile(s.path(id, "pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		return err
	}
	var failed *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &failed) {
		return err
	}
	return durable.WriteFile(s.path(id, "exit"), []byte(cmd.ProcessState.String()), 0o600)
}

// pause is a container that does nothing until it is told to end.
func pause([]string) error {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	<-told
	return nil
}
