package staticpod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// kubeletDir is where kubeadm keeps the kubelet's configuration.
const kubeletDir = "/var/lib/kubelet"

// sockets are where container runtimes listen unless they are told otherwise. cri-dockerd comes before containerd, which a
// Docker engine has too.
var sockets = []string{"/run/cri-dockerd.sock", "/run/crio/crio.sock", "/run/containerd/containerd.sock"}

// endpoint returns where the container runtime listens: as configured, as the kubelet is told, or where a socket is.
func (r *Runtime) endpoint() (string, error) {
	if r.o.Endpoint != "" {
		return r.o.Endpoint, nil
	}
	told, err := toldKubelet(kubeletDir)
	if err != nil || told != "" {
		return told, err
	}
	for _, s := range sockets {
		if _, err := os.Stat(s); err == nil {
			return "unix://" + s, nil
		}
	}
	return "", fmt.Errorf("no container runtime was found: %s is not there, and no configuration in %s names one; set runtime.staticpod.cri_endpoint", strings.Join(sockets, ", "), kubeletDir)
}

// endpointFlag is how kubeadm gives the kubelet the endpoint in kubeadm-flags.env.
var endpointFlag = regexp.MustCompile(`--container-runtime-endpoint[= ]([^\s"']+)`)

// toldKubelet returns the endpoint that the kubelet is configured with, empty if none is found. A flag counts more than a
// file, and a file of this node more than the one that all have.
func toldKubelet(dir string) (string, error) {
	flags, err := os.ReadFile(dir + "/kubeadm-flags.env")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if m := endpointFlag.FindSubmatch(flags); m != nil {
		return withScheme(string(m[1])), nil
	}
	for _, name := range []string{"/instance-config.yaml", "/config.yaml"} {
		var c struct {
			Endpoint string `yaml:"containerRuntimeEndpoint"`
		}
		text, err := os.ReadFile(dir + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = yaml.Unmarshal(text, &c)
		}
		if err != nil {
			return "", fmt.Errorf("the kubelet's configuration %s: %w", dir+name, err)
		}
		if c.Endpoint != "" {
			return withScheme(c.Endpoint), nil
		}
	}
	return "", nil
}

// withScheme completes an endpoint that is only a path, which the kubelet takes too.
func withScheme(endpoint string) string {
	if strings.HasPrefix(endpoint, "/") {
		return "unix://" + endpoint
	}
	return endpoint
}
