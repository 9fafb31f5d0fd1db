// Package cri looks at the pods of a node by way of its container runtime (CRI), as the kubelet does, and ends them.
package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod names a static pod: one that the kubelet runs from a file.
type Pod struct {
	Name       string // as its manifest has it, without the node's
	Namespace  string
	Containers []string
}

// What the kubelet notes at sandboxes and containers.
const (
	namespaceLabel   = "io.kubernetes.pod.namespace"
	containerLabel   = "io.kubernetes.container.name"
	sourceAnnotation = "kubernetes.io/config.source" // "file" at a static pod
)

// maxAnswer is what an answer may be long: a node with many containers has long lists. The kubelet takes as much.
const maxAnswer = 16 << 20

// connectTimeout is how long the runtime may take to answer a connection. Without it gRPC would give up after a backoff.
const connectTimeout = 20 * time.Second

// Client is a connection to the container runtime.
type Client struct {
	endpoint, setting string
	api               criv1.RuntimeServiceClient
}

// Connected runs do with a connection to the container runtime that listens at endpoint, as unix:///path. setting names the
// key of the agent's configuration that chooses the endpoint, for messages.
func Connected(ctx context.Context, endpoint, setting string, do func(*Client) error) (err error) {
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a socket that only root may open
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		// It is on this host, and may be waited for until it starts. A busy host lets it take its time to answer.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: LookInterval, Multiplier: 1, MaxDelay: LookInterval},
			MinConnectTimeout: connectTimeout,
		}))
	if err != nil {
		return fmt.Errorf("container runtime at %s: %w", endpoint, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := do(&Client{endpoint: endpoint, setting: setting, api: criv1.NewRuntimeServiceClient(conn)}); err != nil {
		if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx)) // of which the error is a consequence
		}
		return err
	}
	return nil
}

// Answers returns nil if the container runtime does, otherwise why not.
func (c *Client) Answers(ctx context.Context) error {
	if _, err := c.api.Version(ctx, &criv1.VersionRequest{}); err != nil {
		return c.failed("Version", err)
	}
	return nil
}

// failed says what a call to the container runtime failed with.
func (c *Client) failed(call string, err error) error {
	return fmt.Errorf("%s of the container runtime at %s: %w; if that is not its endpoint, set %s", call, c.endpoint, err, c.setting)
}

// Seen is what the container runtime has of pods: also what has ended and was not removed yet.
type Seen struct {
	sandboxes  []*criv1.PodSandbox
	containers []*criv1.Container
}

// Look returns what there is of the pods.
func (c *Client) Look(ctx context.Context, pods ...Pod) (Seen, error) {
	sandboxes, err := c.api.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return Seen{}, c.failed("ListPodSandbox", err)
	}
	containers, err := c.api.ListContainers(ctx, &criv1.ListContainersRequest{})
	if err != nil {
		return Seen{}, c.failed("ListContainers", err)
	}
	of := map[string][]*criv1.Container{}
	for _, k := range containers.GetContainers() {
		of[k.GetPodSandboxId()] = append(of[k.GetPodSandboxId()], k)
	}
	var s Seen
	for _, box := range sandboxes.GetItems() {
		within := of[box.GetId()]
		if slices.ContainsFunc(pods, func(p Pod) bool { return p.is(box, within) }) {
			s.sandboxes = append(s.sandboxes, box)
			s.containers = append(s.containers, within...)
		}
	}
	return s, nil
}

// is tells whether a sandbox is of this pod. The kubelet adds a dash and the node's name to the name of a static pod; since
// another manifest may have a name that begins so, containers must have the right names too.
func (p Pod) is(box *criv1.PodSandbox, containers []*criv1.Container) bool {
	if box.GetLabels()[namespaceLabel] != p.Namespace || box.GetAnnotations()[sourceAnnotation] != "file" ||
		!strings.HasPrefix(box.GetMetadata().GetName(), p.Name+"-") {
		return false
	}
	return !slices.ContainsFunc(containers, func(k *criv1.Container) bool { return !slices.Contains(p.Containers, k.GetLabels()[containerLabel]) })
}

// Running returns the container of this name that runs, nil if none does.
func (s Seen) Running(name string) *criv1.Container {
	for _, k := range s.containers {
		if k.GetLabels()[containerLabel] == name && k.GetState() == criv1.ContainerState_CONTAINER_RUNNING {
			return k
		}
	}
	return nil
}

// Ended returns the container with the ID, or else the newest one of this name, if it has ended; nil if there is none.
func (s Seen) Ended(name, id string) *criv1.Container {
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

// IDs returns the IDs of the containers of this name.
func (s Seen) IDs(name string) (ids []string) {
	for _, k := range s.containers {
		if k.GetLabels()[containerLabel] == name {
			ids = append(ids, k.GetId())
		}
	}
	return ids
}

// Left returns the IDs of the sandboxes and containers that have not ended. A sandbox that is ready tells that the kubelet
// has not seen yet that the manifest is gone, and may start its containers again.
func (s Seen) Left() (sandboxes, containers []string) {
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

// LookInterval is how often it is looked what became of a pod.
const LookInterval = 100 * time.Millisecond

// Wait looks at the pods until check returns neither what it waits for nor an error. When ctx ends it returns its cause and
// what was waited for last, also if it was a look that ctx has cut off: that one tells nothing of the container runtime.
func (c *Client) Wait(ctx context.Context, check func(Seen) (waitsFor, err error), pods ...Pod) error {
	look := time.NewTicker(LookInterval)
	defer look.Stop()
	var waitsFor error
	for {
		s, err := c.Look(ctx, pods...)
		if err == nil {
			waitsFor, err = check(s)
		}
		if waitsFor != nil && ctx.Err() != nil {
			return fmt.Errorf("%w: %w", waitsFor, context.Cause(ctx))
		}
		if err != nil || waitsFor == nil {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

// End lets the containers end, all at once, and kills those that have not after grace; at once if that is 0. Then it ends
// the sandboxes.
func (c *Client) End(ctx context.Context, grace time.Duration, sandboxes, containers []string) error {
	all, within := errgroup.WithContext(ctx)
	for _, id := range containers {
		all.Go(func() error {
			if _, err := c.api.StopContainer(within, &criv1.StopContainerRequest{ContainerId: id, Timeout: int64(grace.Seconds())}); err != nil {
				return c.failed("StopContainer", err)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	for _, id := range sandboxes {
		if _, err := c.api.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			return c.failed("StopPodSandbox", err)
		}
	}
	return nil
}

// Alive returns nil while the container of this name runs that has the ID, or any if that is empty, otherwise an error with
// the last lines. One that the kubelet started again does not count.
func (c *Client) Alive(ctx context.Context, p Pod, name, id string) error {
	s, err := c.Look(ctx, p)
	if err != nil {
		return err
	}
	now := s.Running(name)
	if now != nil && (id == "" || now.GetId() == id) {
		return nil
	}
	text := c.lastLines(ctx, s.Ended(name, id))
	if now != nil {
		return fmt.Errorf("%s has ended, and the kubelet has started it again; its last lines:\n%s", name, text)
	}
	return fmt.Errorf("%s has ended; its last lines:\n%s", name, text)
}

// Of a container's log, this much is read and this many lines are shown.
const (
	logBytes = 16 << 10
	logLines = 12
)

// lastLines returns a container's last lines, or why they cannot be read.
func (c *Client) lastLines(ctx context.Context, k *criv1.Container) string {
	if k == nil {
		return "(its container is gone)"
	}
	status, err := c.api.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: k.GetId()})
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
