package staticpod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What the kubelet notes at sandboxes and containers.
const (
	namespaceLabel   = "io.kubernetes.pod.namespace"
	containerLabel   = "io.kubernetes.container.name"
	sourceAnnotation = "kubernetes.io/config.source" // "file" at a static pod
)

// maxAnswer is what an answer may be long: a node with many containers has long lists. The kubelet takes as much.
const maxAnswer = 16 << 20

// cri is a connection to the container runtime.
type cri struct {
	endpoint string
	client   criv1.RuntimeServiceClient
}

// connected runs do with a connection to the container runtime.
func (r *Runtime) connected(ctx context.Context, do func(*cri) error) (err error) {
	endpoint, err := r.endpoint()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a socket that only root may open
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return fmt.Errorf("container runtime at %s: %w", endpoint, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := do(&cri{endpoint: endpoint, client: criv1.NewRuntimeServiceClient(conn)}); err != nil {
		if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx)) // of which the error is a consequence
		}
		return err
	}
	return nil
}

// failed says what a call to the container runtime failed with.
func (c *cri) failed(call string, err error) error {
	return fmt.Errorf("%s of the container runtime at %s: %w; if that is not its endpoint, set runtime.staticpod.cri_endpoint", call, c.endpoint, err)
}

// seen is what the container runtime has of a pod: also what has ended and was not removed yet.
type seen struct {
	sandboxes  []*criv1.PodSandbox
	containers []*criv1.Container
}

// look returns what there is of the pods.
func (c *cri) look(ctx context.Context, pods ...*pod) (seen, error) {
	sandboxes, err := c.client.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return seen{}, c.failed("ListPodSandbox", err)
	}
	containers, err := c.client.ListContainers(ctx, &criv1.ListContainersRequest{})
	if err != nil {
		return seen{}, c.failed("ListContainers", err)
	}
	of := map[string][]*criv1.Container{}
	for _, k := range containers.GetContainers() {
		of[k.GetPodSandboxId()] = append(of[k.GetPodSandboxId()], k)
	}
	var s seen
	for _, box := range sandboxes.GetItems() {
		within := of[box.GetId()]
		if slices.ContainsFunc(pods, func(p *pod) bool { return p.is(box, within) }) {
			s.sandboxes = append(s.sandboxes, box)
			s.containers = append(s.containers, within...)
		}
	}
	return s, nil
}

// is tells whether a sandbox is of this pod. The kubelet adds a dash and the node's name to the name of a static pod; since
// another manifest may have a name that begins so, containers must have the right names too.
func (p *pod) is(box *criv1.PodSandbox, containers []*criv1.Container) bool {
	if box.GetLabels()[namespaceLabel] != p.Metadata.Namespace || box.GetAnnotations()[sourceAnnotation] != "file" ||
		!strings.HasPrefix(box.GetMetadata().GetName(), p.Metadata.Name+"-") {
		return false
	}
	return !slices.ContainsFunc(containers, func(k *criv1.Container) bool { return !p.hasContainer(k.GetLabels()[containerLabel]) })
}

func (p *pod) hasContainer(name string) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c container) bool { return c.Name == name })
}

// running returns the container of this name that runs, nil if none does.
func (s seen) running(name string) *criv1.Container {
	for _, k := range s.containers {
		if k.GetLabels()[containerLabel] == name && k.GetState() == criv1.ContainerState_CONTAINER_RUNNING {
			return k
		}
	}
	return nil
}

// ended returns the container with the ID, or else the newest one of this name, if it has ended; nil if there is none.
func (s seen) ended(name, id string) *criv1.Container {
	var newest *criv1.Container
	for _, k := range s.containers {
		if k.GetLabels()[containerLabel] != name || k.GetState() != criv1.ContainerState_CONTAINER_EXITED {
			continue
		}
		if k.GetId() == id {
			return k
		}
		if newest == nil || k.GetCreatedAt() > newest.GetCreatedAt() {
			newest = k
		}
	}
	return newest
}

// left returns the IDs of the sandboxes and containers that have not ended. A sandbox that is ready tells that the kubelet
// has not seen yet that the manifest is gone, and may start its containers again.
func (s seen) left() (sandboxes, containers []string) {
	for _, box := range s.sandboxes {
		if box.GetState() == criv1.PodSandboxState_SANDBOX_READY {
			sandboxes = append(sandboxes, box.GetId())
		}
	}
	for _, k := range s.containers {
		if k.GetState() != criv1.ContainerState_CONTAINER_EXITED { // created, running, or the runtime does not know
			containers = append(containers, k.GetId())
		}
	}
	return sandboxes, containers
}

// lookInterval is how often it is looked what became of a pod.
const lookInterval = 100 * time.Millisecond

// end kills the containers and sandboxes.
func (c *cri) end(ctx context.Context, sandboxes, containers []string) error {
	for _, id := range containers {
		if _, err := c.client.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id}); err != nil {
			return c.failed("StopContainer", err)
		}
	}
	for _, id := range sandboxes {
		if _, err := c.client.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			return c.failed("StopPodSandbox", err)
		}
	}
	return nil
}

// Of a container's log, this much is read and this many lines are shown.
const (
	logBytes = 16 << 10
	logLines = 12
)

// lastLines returns a container's last lines, or why they cannot be read.
func (c *cri) lastLines(ctx context.Context, k *criv1.Container) string {
	if k == nil {
		return "(its container is gone)"
	}
	status, err := c.client.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: k.GetId()})
	if err != nil {
		return fmt.Sprintf("(where its log is cannot be told: %v)", err)
	}
	text, err := tail(status.GetStatus().GetLogPath())
	if err != nil {
		return fmt.Sprintf("(its log cannot be read: %v)", err)
	}
	return text
}

// tail reads the last lines of a log as the CRI has them: time, stream, and whether the line is whole, before each.
func tail(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	from := max(0, info.Size()-logBytes)
	text := make([]byte, info.Size()-from)
	n, err := f.ReadAt(text, from)
	if n < len(text) && err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	lines = lines[max(0, len(lines)-logLines):]
	for i, line := range lines {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			lines[i] = fields[3]
		}
	}
	return strings.Join(lines, "\n"), nil
}
