package staticpod

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent/datadir"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/cri"
	"github.com/requorum/requorum/agent/runtime/etcdconf"
)

// pod is what is read of a manifest.
type pod struct {
	Metadata struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"metadata"`
	Spec struct {
		HostNetwork     bool            `yaml:"hostNetwork"`
		SecurityContext securityContext `yaml:"securityContext"`
		Volumes         []volume        `yaml:"volumes"`
		Containers      []container     `yaml:"containers"`
	} `yaml:"spec"`

	path string // of the manifest, for messages
	text []byte // the manifest
}

type volume struct {
	Name     string `yaml:"name"`
	HostPath *struct {
		Path string `yaml:"path"`
	} `yaml:"hostPath"`
}

type container struct {
	Name            string          `yaml:"name"`
	Image           string          `yaml:"image"`
	Command         []string        `yaml:"command"`
	Args            []string        `yaml:"args"`
	WorkingDir      string          `yaml:"workingDir"`
	Env             []variable      `yaml:"env"`
	EnvFrom         []any           `yaml:"envFrom"`
	SecurityContext securityContext `yaml:"securityContext"`
	VolumeMounts    []mount         `yaml:"volumeMounts"`
	Ports           []port          `yaml:"ports"`
	StartupProbe    *probe          `yaml:"startupProbe"`
	ReadinessProbe  *probe          `yaml:"readinessProbe"`
	LivenessProbe   *probe          `yaml:"livenessProbe"`
}

type variable struct {
	Name      string `yaml:"name"`
	Value     string `yaml:"value"`
	ValueFrom any    `yaml:"valueFrom"`
}

type securityContext struct {
	User  *int `yaml:"runAsUser"`
	Group *int `yaml:"runAsGroup"`
}

type mount struct {
	Name        string `yaml:"name"`
	MountPath   string `yaml:"mountPath"`
	SubPath     string `yaml:"subPath"`
	SubPathExpr string `yaml:"subPathExpr"`
}

type port struct {
	Name   string `yaml:"name"`
	Number int    `yaml:"containerPort"`
}

// parse reads a manifest.
func parse(path string, text []byte) (*pod, error) {
	p := &pod{path: path, text: text}
	if err := yaml.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", path, err)
	}
	if p.Metadata.Name == "" || len(p.Spec.Containers) == 0 {
		return nil, fmt.Errorf("%s is not the manifest of a pod: it has no name or no containers", path)
	}
	if p.Metadata.Namespace == "" {
		p.Metadata.Namespace = "default" // as the kubelet does
	}
	return p, nil
}

// named returns how the container runtime knows the pod.
func (p *pod) named() cri.Pod {
	n := cri.Pod{Name: p.Metadata.Name, Namespace: p.Metadata.Namespace}
	for _, c := range p.Spec.Containers {
		n.Containers = append(n.Containers, c.Name)
	}
	return n
}

func named(pods []*pod) []cri.Pod {
	all := make([]cri.Pod, len(pods))
	for i, p := range pods {
		all[i] = p.named()
	}
	return all
}

// etcdIndex returns which container runs a program named etcd, -1 if none does.
func (p *pod) etcdIndex() int {
	for i, c := range p.Spec.Containers {
		if len(c.Command) > 0 && filepath.Base(c.Command[0]) == "etcd" {
			return i
		}
	}
	return -1
}

// etcd returns the container that runs etcd, or the first one if none is seen to.
func (p *pod) etcd() *container { return &p.Spec.Containers[max(0, p.etcdIndex())] }

func (p *pod) errNoEtcd() error {
	return fmt.Errorf("no container of %s has a command that is etcd itself; a shell or a wrapper cannot be read, use the exec runtime", p.path)
}

// member returns the configuration of the member that the pod runs, with paths as the host has them, without its state.
// version is etcd's where the image's tag does not tell.
func (p *pod) member(version string) (runtime.Member, error) {
	if p.etcdIndex() < 0 {
		return runtime.Member{}, p.errNoEtcd()
	}
	if !p.Spec.HostNetwork {
		return runtime.Member{}, fmt.Errorf("%s has no hostNetwork, so the agent cannot reach etcd where it listens; use the exec runtime", p.path)
	}
	c := p.etcd()
	args, env, err := c.commandLine()
	if err != nil {
		return runtime.Member{}, fmt.Errorf("%s: %w", p.path, err)
	}
	m, err := etcdconf.Read(etcdconf.Source{Args: args, Env: env, Dir: c.WorkingDir, ReadFile: func(path string) ([]byte, error) {
		file, err := p.hostPath(c, path)
		if err != nil {
			return nil, err
		}
		return os.ReadFile(file)
	}})
	if err != nil {
		return runtime.Member{}, fmt.Errorf("%s: %w", p.path, err)
	}
	for _, path := range []*string{&m.DataDir, &m.WALDir, &m.TrustedCAFile, &m.CertFile, &m.KeyFile} {
		if *path, err = p.hostPath(c, *path); err != nil {
			return runtime.Member{}, fmt.Errorf("%s: %w", p.path, err)
		}
	}
	m.UID, m.GID = p.owner(c, m.DataDir)
	if m.Version = version; version == "" {
		m.Version, err = c.version()
	}
	return m, err
}

// reference is a variable in a command, or a dollar sign that stands for itself.
var reference = regexp.MustCompile(`\$\$|\$\([A-Za-z_.-][A-Za-z0-9_.-]*\)`)

// commandLine returns etcd's arguments, without its name, and its environment, with variables put in as the kubelet does it.
func (c *container) commandLine() (args, env []string, err error) {
	if len(c.EnvFrom) > 0 {
		return nil, nil, fmt.Errorf("container %s has envFrom, which the agent cannot read", c.Name)
	}
	values := map[string]string{}
	expand := func(s string) string {
		return reference.ReplaceAllStringFunc(s, func(ref string) string {
			if ref == "$$" {
				return "$"
			}
			if value, ok := values[ref[2:len(ref)-1]]; ok {
				return value
			}
			return ref
		})
	}
	for _, v := range c.Env {
		if v.ValueFrom != nil {
			return nil, nil, fmt.Errorf("variable %s of container %s comes from elsewhere (valueFrom), which the agent cannot read; give its value", v.Name, c.Name)
		}
		values[v.Name] = expand(v.Value)
		env = append(env, v.Name+"="+values[v.Name])
	}
	for _, a := range append(c.Command[1:len(c.Command):len(c.Command)], c.Args...) {
		args = append(args, expand(a))
	}
	return args, env, nil
}

// hostPath returns where a path of a container is on the host; an empty one stays empty.
func (p *pod) hostPath(c *container, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	path = filepath.Clean(path)
	var over *mount // the innermost one
	for i, m := range c.VolumeMounts {
		at := filepath.Clean(m.MountPath)
		if (path == at || strings.HasPrefix(path, strings.TrimSuffix(at, "/")+"/")) && (over == nil || len(at) > len(filepath.Clean(over.MountPath))) {
			over = &c.VolumeMounts[i]
		}
	}
	if over != nil && over.SubPathExpr == "" {
		for _, v := range p.Spec.Volumes {
			if v.Name == over.Name && v.HostPath != nil {
				return filepath.Join(v.HostPath.Path, over.SubPath, strings.TrimPrefix(path, filepath.Clean(over.MountPath))), nil
			}
		}
	}
	return "", fmt.Errorf("%s of container %s is not on a hostPath volume, where the agent could find it", path, c.Name)
}

// owner returns the user and group that the container runs as. Where the manifest says nothing the image does, and etcd's
// data has that owner, or there is none yet and it is root, as in etcd's and kubeadm's images.
func (p *pod) owner(c *container, dataDir string) (uid, gid int) {
	uid, gid = datadir.Owner(dataDir)
	for _, s := range []securityContext{p.Spec.SecurityContext, c.SecurityContext} {
		if s.User != nil {
			uid = *s.User
		}
		if s.Group != nil {
			gid = *s.Group
		}
	}
	return uid, gid
}

// version reads etcd's version off the image's tag.
func (c *container) version() (string, error) {
	version, ok := etcdconf.ImageVersion(c.Image)
	if !ok {
		return "", fmt.Errorf("the tag of the image %s does not tell etcd's version; set runtime.staticpod.version to it", c.Image)
	}
	return version, nil
}
