package cri

import (
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
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
