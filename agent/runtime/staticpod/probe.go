package staticpod

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/requorum/requorum/agent/runtime/cri"
)

// probe is a container's probe, as far as it is a request by HTTP.
type probe struct {
	HTTPGet *httpGet `yaml:"httpGet"`
}

type httpGet struct {
	Host   string `yaml:"host"`
	Path   string `yaml:"path"`
	Port   string `yaml:"port"` // a number or the name of a port
	Scheme string `yaml:"scheme"`
}

// Probes are asked this often and may take this long to answer.
const (
	probeInterval = 250 * time.Millisecond
	probeTimeout  = 5 * time.Second
)

// waitHealthy waits until every container of the pods runs and its probe succeeds.
func (r *Runtime) waitHealthy(ctx context.Context, c *cri.Client, pods []*pod) error {
	ask := time.NewTicker(probeInterval)
	defer ask.Stop()
	for _, p := range pods {
		var ill error
		for {
			now := r.health(ctx, c, p)
			if now == nil {
				break
			}
			if ctx.Err() == nil || ill == nil { // what fails once ctx has ended says only that
				ill = now
			}
			select {
			case <-ask.C:
			case <-ctx.Done():
				return fmt.Errorf("%s does not become healthy: %w: %w; see crictl ps -a and crictl logs", p.Metadata.Name, ill, context.Cause(ctx))
			}
		}
	}
	return nil
}

// health returns nil if every container of a pod runs and its probe succeeds.
func (r *Runtime) health(ctx context.Context, c *cri.Client, p *pod) error {
	s, err := c.Look(ctx, p.named())
	if err != nil {
		return err
	}
	for i := range p.Spec.Containers {
		k := &p.Spec.Containers[i]
		if s.Running(k.Name) == nil {
			return fmt.Errorf("its container %s does not run", k.Name)
		}
		if err := k.probe(ctx); err != nil {
			return err
		}
	}
	return nil
}

// probe asks as the kubelet does, by the first probe of those that tell whether a container serves.
func (c *container) probe(ctx context.Context) error {
	for _, p := range []*probe{c.ReadinessProbe, c.StartupProbe, c.LivenessProbe} {
		if p == nil || p.HTTPGet == nil {
			continue
		}
		url, err := c.url(p.HTTPGet)
		if err != nil {
			return err
		}
		return get(ctx, url)
	}
	return nil
}

// url returns what a probe asks. The pod is on the host's network.
func (c *container) url(g *httpGet) (string, error) {
	number := g.Port
	for _, p := range c.Ports {
		if p.Name != "" && p.Name == g.Port {
			number = strconv.Itoa(p.Number)
		}
	}
	if _, err := strconv.ParseUint(number, 10, 16); err != nil {
		return "", fmt.Errorf("the probe of container %s asks port %q, which is none", c.Name, g.Port)
	}
	host, scheme := g.Host, strings.ToLower(g.Scheme)
	if host == "" {
		host = "127.0.0.1"
	}
	if scheme == "" {
		scheme = "http"
	}
	return scheme + "://" + net.JoinHostPort(host, number) + "/" + strings.TrimPrefix(g.Path, "/"), nil
}

func get(ctx context.Context, url string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as the kubelet does: it asks whether the node's own process answers, and tells it nothing
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 512))
	if err != nil {
		return err
	}
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s: %s", url, answer.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
