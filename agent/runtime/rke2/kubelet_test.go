package rke2_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// syncInterval is how often the kubelet looks at its manifests.
const syncInterval = 20 * time.Millisecond

func listens(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// podManifest is what the kubelet reads of one.
type podManifest struct {
	Metadata struct{ Name, Namespace, UID string }
	Spec     struct {
		Containers []struct {
			Name          string
			Command, Args []string
		}
	}
}

// kubelet is kubelet DIRECTORY: it runs by the CRI what has a manifest there, starts again what ends, and ends what has none
// any more.
func kubelet(args []string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: syncInterval, Multiplier: 1, MaxDelay: syncInterval}}))
	if err != nil {
		return err
	}
	client := criv1.NewRuntimeServiceClient(conn)
	look := time.NewTicker(syncInterval)
	defer look.Stop()
	for range look.C {
		if err := syncPods(context.Background(), client, args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "kubelet:", err)
		}
	}
	return nil
}

func syncPods(ctx context.Context, client criv1.RuntimeServiceClient, dir string) error {
	boxes, err := client.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return err
	}
	wanted := map[string]podManifest{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var m podManifest
		if err := yaml.Unmarshal(text, &m); err != nil {
			return err
		}
		wanted[m.Metadata.UID] = m
	}
	for _, box := range boxes.GetItems() {
		uid := box.GetMetadata().GetUid()
		if box.GetState() != criv1.PodSandboxState_SANDBOX_READY {
			continue
		}
		m, ok := wanted[uid]
		if !ok {
			if _, err := client.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: box.GetId()}); err != nil {
				return err
			}
			continue
		}
		delete(wanted, uid)
		if err := syncContainer(ctx, client, box.GetId(), m); err != nil {
			return err
		}
	}
	for uid, m := range wanted { // each has no sandbox that is ready
		_, err := client.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: &criv1.PodSandboxConfig{
			Metadata:    &criv1.PodSandboxMetadata{Name: m.Metadata.Name + "-server-1", Namespace: m.Metadata.Namespace, Uid: uid},
			Labels:      map[string]string{"io.kubernetes.pod.namespace": m.Metadata.Namespace, "component": m.Metadata.Name},
			Annotations: map[string]string{"kubernetes.io/config.source": "file"},
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// syncContainer starts the pod's container unless it runs.
func syncContainer(ctx context.Context, client criv1.RuntimeServiceClient, box string, m podManifest) error {
	all, err := client.ListContainers(ctx, &criv1.ListContainersRequest{})
	if err != nil {
		return err
	}
	for _, c := range all.GetContainers() {
		if c.GetPodSandboxId() == box && c.GetState() == criv1.ContainerState_CONTAINER_RUNNING {
			return nil
		}
	}
	spec := m.Spec.Containers[0]
	made, err := client.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: box, Config: &criv1.ContainerConfig{
		Metadata: &criv1.ContainerMetadata{Name: spec.Name}, Command: spec.Command, Args: spec.Args,
		Labels: map[string]string{"io.kubernetes.container.name": spec.Name},
	}})
	if err != nil {
		return err
	}
	_, err = client.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: made.GetContainerId()})
	return err
}
