package kubelettest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/requorum/requorum/internal/critest"
	"github.com/requorum/requorum/internal/grpcserver"
)

// StandIn stands for a kubelet and its container runtime. It does with real processes what the kubelet does with containers: it
// runs each file of its directory as a pod, starts again what ends, lets a pod whose manifest is gone end, and starts a pod
// whose manifest has changed anew once the old one has ended. What has ended stays listed. Paths of a container are translated by
// its mounts, for the processes see the host's.
type StandIn struct {
	Kubelet
	criv1.UnimplementedRuntimeServiceServer

	logs string
	etcd Program
	dead atomic.Bool // it notices nothing and starts nothing; what runs goes on
	stop func()

	mu         sync.Mutex
	sandboxes  []*criv1.PodSandbox
	containers []*containerState
	ids        int
	looks      int         // that are left until atLook
	atLook     func()      // nil for none
	fail       func(error) // the test
}

type containerState struct {
	api     *criv1.Container
	log     string
	process *os.Process
}

// What the fake kubelet and the runtime time by.
const (
	syncInterval = 20 * time.Millisecond
	podGrace     = 10 * time.Second
	crashBackOff = 50 * time.Millisecond
)

// manifest is what the stand-in reads of one.
type manifest struct {
	Metadata struct{ Name, Namespace string } `yaml:"metadata"`
	Spec     struct {
		Volumes []struct {
			Name     string
			HostPath struct{ Path string } `yaml:"hostPath"`
		}
		Containers []struct {
			Name         string
			Command      []string
			VolumeMounts []struct {
				Name      string
				MountPath string `yaml:"mountPath"`
			} `yaml:"volumeMounts"`
		}
	} `yaml:"spec"`
}

// StartStandIn starts a stand-in with an empty directory of manifests, and with the program that is etcd. It ends, with all that
// it runs, when the test does.
func StartStandIn(t testing.TB, etcd Program) *StandIn {
	t.Helper()
	sock, err := os.MkdirTemp("", "cri") //nolint:usetesting // the path of a socket must be shorter than a test's name
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(sock)) })
	return StartStandInAt(t, etcd, Kubelet{Dir: filepath.Join(t.TempDir(), "kubernetes", "manifests"), Endpoint: "unix://" + sock + "/cri.sock"})
}

// StartStandInAt is StartStandIn for a directory that there may be manifests in, and an endpoint.
func StartStandInAt(t testing.TB, etcd Program, at Kubelet) *StandIn {
	t.Helper()
	k := &StandIn{Kubelet: at, logs: filepath.Join(t.TempDir(), "pods"), etcd: etcd, fail: func(err error) { t.Error(err) }}
	must(t, os.MkdirAll(k.Dir, 0o700))
	must(t, os.MkdirAll(k.logs, 0o700))
	l, err := net.Listen("unix", strings.TrimPrefix(k.Endpoint, "unix://"))
	must(t, err)
	server := grpc.NewServer()
	criv1.RegisterRuntimeServiceServer(server, k)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := grpcserver.Serve(server, l); err != nil {
			k.fail(err)
		}
	})
	running.Go(func() { k.run(ctx) })
	k.stop = sync.OnceFunc(func() {
		cancel()
		server.Stop()
		running.Wait()
	})
	t.Cleanup(k.stop)
	return k
}

// Stop ends it and all that it runs before the test ends.
func (k *StandIn) Stop() { k.stop() }

// SetDead makes it notice nothing and start nothing, as a kubelet that is down; what runs goes on. Or it undoes that.
func (k *StandIn) SetDead(dead bool) { k.dead.Store(dead) }

// AtLook calls do while it is asked for its sandboxes for the nth time from now on, n being 1 or more.
func (k *StandIn) AtLook(n int, do func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looks, k.atLook = n, do
}

// worker runs one pod until it is told to end.
type worker struct {
	uid    string
	cancel context.CancelFunc
	ended  chan struct{}
}

func (k *StandIn) run(ctx context.Context) {
	workers := map[string]*worker{}
	var all sync.WaitGroup
	defer all.Wait()
	tick := time.NewTicker(syncInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !k.dead.Load() {
			k.sync(ctx, workers, &all)
		}
	}
}

// sync starts and ends pods by the files that there are.
func (k *StandIn) sync(ctx context.Context, workers map[string]*worker, all *sync.WaitGroup) {
	files, err := filepath.Glob(filepath.Join(k.Dir, "[^.]*"))
	if err != nil {
		k.fail(err)
	}
	found := map[string][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // moved away just now
		}
		if err != nil {
			k.fail(err)
		}
		found[file] = text
	}
	for file, w := range workers {
		if text, ok := found[file]; !ok || w.uid != uidOf(file, text) {
			w.cancel()
		}
		select {
		case <-w.ended: // a manifest that has come back meanwhile is run anew
			delete(workers, file)
		default:
		}
	}
	for file, text := range found {
		if workers[file] != nil {
			continue
		}
		var m manifest
		if err := yaml.Unmarshal(text, &m); err != nil {
			k.fail(fmt.Errorf("%s: %w", file, err))
			continue
		}
		podCtx, cancel := context.WithCancel(ctx)
		w := &worker{uid: uidOf(file, text), cancel: cancel, ended: make(chan struct{})}
		workers[file] = w
		all.Go(func() {
			defer close(w.ended)
			defer cancel()
			k.runPod(podCtx, w.uid, m)
		})
	}
}

func uidOf(file string, text []byte) string {
	digest := sha256.Sum256(append([]byte(file), text...))
	return hex.EncodeToString(digest[:16])
}

func (k *StandIn) id() string {
	k.ids++
	return fmt.Sprintf("%064x", k.ids)
}

func (k *StandIn) runPod(ctx context.Context, uid string, m manifest) {
	labels := map[string]string{"io.kubernetes.pod.name": m.Metadata.Name + "-node-1", "io.kubernetes.pod.namespace": m.Metadata.Namespace, "io.kubernetes.pod.uid": uid}
	box := &criv1.PodSandbox{
		Metadata: &criv1.PodSandboxMetadata{Name: m.Metadata.Name + "-node-1", Namespace: m.Metadata.Namespace, Uid: uid},
		State:    criv1.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(), Labels: labels,
		Annotations: map[string]string{"kubernetes.io/config.source": "file"},
	}
	k.mu.Lock()
	box.Id = k.id()
	k.sandboxes = append(k.sandboxes, box)
	k.mu.Unlock()
	var all sync.WaitGroup
	for i := range m.Spec.Containers {
		all.Go(func() {
			for attempt := uint32(0); ctx.Err() == nil; attempt++ {
				k.runContainer(ctx, box, m, i, attempt)
				pause(ctx, crashBackOff)
				for k.dead.Load() && ctx.Err() == nil {
					pause(ctx, syncInterval)
				}
			}
		})
	}
	all.Wait()
	k.mu.Lock()
	box.State = criv1.PodSandboxState_SANDBOX_NOTREADY
	k.mu.Unlock()
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// runContainer runs a container's process once.
func (k *StandIn) runContainer(ctx context.Context, box *criv1.PodSandbox, m manifest, index int, attempt uint32) {
	goruntime.LockOSThread() // which the process dies with, as it does with the test
	defer goruntime.UnlockOSThread()
	c := m.Spec.Containers[index]
	path := filepath.Join(k.logs, fmt.Sprintf("%s_%d_%d.log", box.GetMetadata().GetUid(), attempt, time.Now().UnixNano()))
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		k.fail(err)
		return
	}
	program, err := k.program(c.Command[0])
	if err != nil {
		k.fail(err)
		return
	}
	cmd := exec.Command(program.Path, m.translated(index)...)
	cmd.Env = append([]string{}, program.Env...) // and nothing of the test's
	output := &critest.Log{To: log}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		k.fail(err)
		return
	}
	labels := map[string]string{"io.kubernetes.container.name": c.Name}
	for key, value := range box.GetLabels() {
		labels[key] = value
	}
	k.mu.Lock()
	state := &containerState{log: path, process: cmd.Process, api: &criv1.Container{
		Id: k.id(), PodSandboxId: box.GetId(), Metadata: &criv1.ContainerMetadata{Name: c.Name, Attempt: attempt},
		State: criv1.ContainerState_CONTAINER_RUNNING, CreatedAt: time.Now().UnixNano(), Labels: labels,
	}}
	k.containers = append(k.containers, state)
	k.mu.Unlock()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { terminate(cmd.Process, ended) })
	if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
		k.fail(err)
	}
	close(ended)
	stop()
	k.mu.Lock()
	state.api.State = criv1.ContainerState_CONTAINER_EXITED
	k.mu.Unlock()
	if err := log.Close(); err != nil {
		k.fail(err)
	}
}

// program is what runs instead of a container's.
func (k *StandIn) program(command string) (Program, error) {
	if command == "etcd" {
		return k.etcd, nil
	}
	self, err := os.Executable()
	return Program{self, []string{asComponent + "=1"}}, err
}

// terminate ends a process as the kubelet does. That it has ended already is no failure.
func terminate(p *os.Process, ended <-chan struct{}) {
	_ = p.Signal(syscall.SIGTERM)
	timer := time.NewTimer(podGrace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		_ = p.Kill()
	}
}

// translated returns a container's arguments with the host's paths.
func (m manifest) translated(index int) []string {
	c := m.Spec.Containers[index]
	args := append([]string{}, c.Command[1:]...)
	for _, at := range c.VolumeMounts {
		for _, v := range m.Spec.Volumes {
			for i, a := range args {
				if name, value, _ := strings.Cut(a, "="); v.Name == at.Name && (value == at.MountPath || strings.HasPrefix(value, at.MountPath+"/")) {
					args[i] = name + "=" + v.HostPath.Path + strings.TrimPrefix(value, at.MountPath)
				}
			}
		}
	}
	return args
}

// ListPodSandbox lists every sandbox that there ever was.
func (k *StandIn) ListPodSandbox(context.Context, *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.looks--; k.looks == 0 && k.atLook != nil {
		k.atLook()
	}
	var answer criv1.ListPodSandboxResponse
	for _, s := range k.sandboxes {
		answer.Items = append(answer.Items, &criv1.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations})
	}
	return &answer, nil
}

// ListContainers lists every container that there ever was.
func (k *StandIn) ListContainers(context.Context, *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var answer criv1.ListContainersResponse
	for _, s := range k.containers {
		c := s.api
		answer.Containers = append(answer.Containers, &criv1.Container{Id: c.Id, PodSandboxId: c.PodSandboxId, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, Labels: c.Labels})
	}
	return &answer, nil
}

func (k *StandIn) find(id string) (*containerState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.containers {
		if s.api.GetId() == id {
			return s, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "no container %s", id)
}

// KillAll kills every process, as they may die by themselves.
func (k *StandIn) KillAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.containers {
		if err := s.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			k.fail(err)
		}
	}
}

// ContainerStatus tells where a container's log is.
func (k *StandIn) ContainerStatus(_ context.Context, r *criv1.ContainerStatusRequest) (*criv1.ContainerStatusResponse, error) {
	s, err := k.find(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &criv1.ContainerStatusResponse{Status: &criv1.ContainerStatus{Id: s.api.GetId(), LogPath: s.log}}, nil
}

// StopContainer kills a container's process.
func (k *StandIn) StopContainer(_ context.Context, r *criv1.StopContainerRequest) (*criv1.StopContainerResponse, error) {
	s, err := k.find(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := s.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, err
	}
	return &criv1.StopContainerResponse{}, nil
}

// StopPodSandbox makes a sandbox one that is not ready.
func (k *StandIn) StopPodSandbox(_ context.Context, r *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.sandboxes {
		if s.GetId() == r.GetPodSandboxId() {
			s.State = criv1.PodSandboxState_SANDBOX_NOTREADY
		}
	}
	return &criv1.StopPodSandboxResponse{}, nil
}
