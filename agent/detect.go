package agent

import (
	"context"
	"fmt"

	"github.com/hashicorp/go-hclog"
	"go.yaml.in/yaml/v3"

	"github.com/requorum/requorum/agent/runtime/detect"
	"github.com/requorum/requorum/agent/runtime/docker"
	"github.com/requorum/requorum/agent/runtime/k3s"
	"github.com/requorum/requorum/agent/runtime/rke2"
	"github.com/requorum/requorum/agent/runtime/staticpod"
	"github.com/requorum/requorum/agent/runtime/systemd"
)

// detectors are those of all runtimes that can be found.
func detectors() []detect.Detector {
	return []detect.Detector{systemd.Detector{}, staticpod.Detector{}, docker.Detector{}, k3s.Detector{}, rke2.Detector{}}
}

// Detect looks how etcd is run on this node, and changes nothing.
func Detect(ctx context.Context) []detect.Report { return detect.All(ctx, detectors()) }

// detectRuntime finds out how etcd is run where the configuration does not say. What is found is put into the
// configuration, as a person would have written it there.
func (c *Config) detectRuntime(ctx context.Context, detectors []detect.Detector, log hclog.Logger) error {
	if len(c.Runtime.kinds()) > 0 {
		return nil
	}
	found, err := detect.Choose(detect.All(ctx, detectors))
	if err != nil {
		return err
	}
	section, err := yaml.Marshal(map[string]any{found.Kind: found.Config})
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(section, &c.Runtime); err != nil {
		return fmt.Errorf("runtime %s, as detected: %w", found.Kind, err)
	}
	log.Info("found how etcd is run on this node", "runtime", found.Kind, "by", found.Place, "member", found.Member.Name)
	return nil
}
