package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/requorum/requorum/agent/files"
	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/agent/runtime/docker"
	"github.com/requorum/requorum/agent/runtime/exec"
	"github.com/requorum/requorum/agent/runtime/k3s"
	"github.com/requorum/requorum/agent/runtime/process"
	"github.com/requorum/requorum/agent/runtime/rke2"
	"github.com/requorum/requorum/agent/runtime/staticpod"
	"github.com/requorum/requorum/agent/runtime/systemd"
	"github.com/requorum/requorum/agent/task"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/names"
)

// Config says how to run an agent.
type Config struct {
	Controller string          `yaml:"controller"`    // host:port
	Node       string          `yaml:"node"`          // name of the node; the host's name if empty
	DataDir    string          `yaml:"data_dir"`      // credentials, journal, snapshots
	Snapshots  string          `yaml:"snapshots_dir"` // DataDir/snapshots if empty
	Scratch    string          `yaml:"scratch_dir"`   // where drills restore to; Snapshots if empty
	Token      string          `yaml:"-"`             // join token, from a flag, a file or the environment
	TokenFile  string          `yaml:"token_file"`    // holds the join token; not needed once enrolled
	Transfer   Transfer        `yaml:"transfer"`
	Etcd       Etcd            `yaml:"etcd"`
	Runtime    Runtime         `yaml:"runtime"`
	Files      files.Sets      `yaml:"files"` // what may be kept with snapshots and written back: paths by name of a set
	Kubernetes Kubernetes      `yaml:"kubernetes"`
	StartWait  config.Duration `yaml:"start_wait"` // how long a restored member may take to serve, besides 1 min per GiB
	LogLevel   string          `yaml:"log_level"`  // trace, debug, info, warn, error
	LogJSON    bool            `yaml:"log_json"`   // one JSON object a line
}

// Kubernetes says how the version of Kubernetes is found out that the node runs.
type Kubernetes struct {
	Version  string `yaml:"version"`            // as v1.31.2, where no manifest tells it
	Manifest string `yaml:"apiserver_manifest"` // of kube-apiserver's static pod; where kubeadm and RKE2 have it if empty
}

// Transfer says where the agent serves snapshots to its neighbours.
type Transfer struct {
	Listen    string `yaml:"listen"`    // host:port
	Advertise string `yaml:"advertise"` // host:port that neighbours dial; found out if empty
}

// Etcd says how the agent reaches the node's member.
type Etcd struct {
	Endpoints    []string `yaml:"endpoints"` // client URLs; those that the member listens on if empty
	CA           string   `yaml:"ca_file"`   // PEM bundle
	Cert         string   `yaml:"cert_file"` // client certificate, PEM
	Key          string   `yaml:"key_file"`  // its key, PEM
	Username     string   `yaml:"username"`  // with the role root, where etcd authentication is on
	PasswordFile string   `yaml:"password_file"`
}

// Runtime says how etcd is run on the node: one of its fields is set. Where none is, the agent finds out.
type Runtime struct {
	Process *Process `yaml:"process"`
	Exec    *Exec    `yaml:"exec"`
	Systemd *Systemd `yaml:"systemd"`
	Docker  *Docker  `yaml:"docker"`
	K3s     *K3s     `yaml:"k3s"`
	RKE2    *RKE2    `yaml:"rke2"`

	StaticPod *StaticPod `yaml:"staticpod"`
}

// kinds returns the names of the fields that are set.
func (r Runtime) kinds() []string {
	var kinds []string
	for _, k := range []struct {
		name string
		set  bool
	}{
		{"process", r.Process != nil},
		{"exec", r.Exec != nil},
		{"systemd", r.Systemd != nil},
		{"staticpod", r.StaticPod != nil},
		{"docker", r.Docker != nil},
		{"k3s", r.K3s != nil},
		{"rke2", r.RKE2 != nil},
	} {
		if k.set {
			kinds = append(kinds, k.name)
		}
	}
	return kinds
}

// Systemd makes the agent use the units that run etcd and what writes to it.
type Systemd struct {
	Unit         string          `yaml:"unit"`          // etcd.service if empty
	ControlPlane []string        `yaml:"control_plane"` // stopped before etcd and started after it, in order; kubeadm's names if left out
	Grace        config.Duration `yaml:"grace"`         // after which etcd is killed, besides what its unit allows
}

// StaticPod makes the agent use the manifests of the kubelet's static pods, as kubeadm writes them.
type StaticPod struct {
	Manifest     string          `yaml:"manifest"`      // etcd's, in the directory that the kubelet watches; kubeadm's if empty
	ControlPlane []string        `yaml:"control_plane"` // files beside it, stopped before etcd and started after it, in order; kubeadm's if left out
	HeldDir      string          `yaml:"held_dir"`      // where manifests are kept meanwhile; "requorum-held" beside their directory if empty
	CRIEndpoint  string          `yaml:"cri_endpoint"`  // of the container runtime, as unix:///path; found out if empty
	KubeletUnit  string          `yaml:"kubelet_unit"`  // restarted after the control plane; kubelet.service if empty, "none" for no restart
	Version      string          `yaml:"version"`       // of etcd, where the image's tag does not tell it
	Grace        config.Duration `yaml:"grace"`         // after which pods are killed that the kubelet has not ended
}

// Docker makes the agent use the containers that run etcd and what uses it.
type Docker struct {
	Host         string          `yaml:"host"`          // the engine's address, unix://…; DOCKER_HOST or the engine's default if empty
	Container    string          `yaml:"container"`     // etcd if empty
	ControlPlane []string        `yaml:"control_plane"` // stopped before etcd and started after it, in order; RKE1's names if left out
	Grace        config.Duration `yaml:"grace"`         // after which a container is killed
}

// K3s makes the agent use the unit that runs a k3s server with its etcd.
type K3s struct {
	Unit  string          `yaml:"unit"`  // k3s.service if empty
	Grace config.Duration `yaml:"grace"` // after which k3s is killed, besides what its unit allows
}

// RKE2 makes the agent use the unit that runs an RKE2 server, and the pods of its control plane.
type RKE2 struct {
	Unit        string          `yaml:"unit"`         // rke2-server.service if empty
	CRIEndpoint string          `yaml:"cri_endpoint"` // of a container runtime that RKE2 was told to use, as unix:///path; of RKE2's own if empty
	Grace       config.Duration `yaml:"grace"`        // after which RKE2, and then containers, are killed
}

// Process makes the agent start and supervise etcd.
type Process struct {
	Command []string        `yaml:"command"` // etcd's binary, as an absolute path, and its arguments
	Env     []string        `yaml:"env"`     // NAME=value
	Grace   config.Duration `yaml:"grace"`   // between SIGTERM and SIGKILL
	UID     int             `yaml:"uid"`     // user that etcd runs as; the agent's own if 0
	GID     int             `yaml:"gid"`     // its group
}

// Exec makes the agent use the operator's own commands, given as argument lists; no shell is involved.
type Exec struct {
	Stop              []string        `yaml:"stop"`
	Start             []string        `yaml:"start"`
	Status            []string        `yaml:"status"` // exits with 0 if etcd runs, with 3 if not
	Logs              []string        `yaml:"logs"`   // prints etcd's last log lines; may be empty
	ControlPlaneStop  []string        `yaml:"control_plane_stop"`
	ControlPlaneStart []string        `yaml:"control_plane_start"`
	CommandTimeout    config.Duration `yaml:"command_timeout"`
	Member            ExecMember      `yaml:"member"`
}

// ExecMember is the member's configuration, which commands cannot tell.
type ExecMember struct {
	Name                string       `yaml:"name"`
	DataDir             string       `yaml:"data_dir"`
	WALDir              string       `yaml:"wal_dir"`
	ListenClientURLs    []string     `yaml:"listen_client_urls"`
	AdvertiseClientURLs []string     `yaml:"advertise_client_urls"`
	ListenPeerURLs      []string     `yaml:"listen_peer_urls"`
	AdvertisePeerURLs   []string     `yaml:"initial_advertise_peer_urls"`
	QuotaBytes          config.Bytes `yaml:"quota_backend_bytes"`
	Version             string       `yaml:"version"` // of the etcd that start runs
	UID                 int          `yaml:"uid"`     // owner of the data where there is none yet
	GID                 int          `yaml:"gid"`
}

// DefaultConfig returns the configuration of an agent that was told nothing.
func DefaultConfig() Config {
	return Config{DataDir: "/var/lib/requorum/agent", Transfer: Transfer{Listen: ":7080"}}
}

// complete fills in what follows from the rest, and checks.
func (c *Config) complete() error {
	if c.Controller == "" {
		return errors.New("the controller's address is not set; give --controller host:port or \"controller\" in the configuration")
	}
	if c.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("the node's name is not set, and the host's cannot be read: %w", err)
		}
		c.Node = name
	}
	if err := names.Check("node", c.Node); err != nil {
		return err
	}
	if c.DataDir == "" {
		return errors.New("data_dir is empty")
	}
	if c.Snapshots == "" {
		c.Snapshots = filepath.Join(c.DataDir, "snapshots")
	}
	if c.Scratch == "" {
		c.Scratch = c.Snapshots
	}
	if kinds := c.Runtime.kinds(); len(kinds) > 1 {
		return fmt.Errorf("runtime: etcd is run in one way on this node; keep one of %s", strings.Join(kinds, ", "))
	}
	if err := c.Files.Check(); err != nil {
		return fmt.Errorf("files: %w", err)
	}
	return c.checkAddresses()
}

func (c *Config) checkAddresses() error {
	if _, _, err := net.SplitHostPort(c.Controller); err != nil {
		return fmt.Errorf("the controller's address is not host:port: %w", err)
	}
	if _, _, err := net.SplitHostPort(c.Transfer.Listen); err != nil {
		return fmt.Errorf("transfer.listen: %w", err)
	}
	if c.Transfer.Advertise == "" {
		return nil
	}
	if host, port, err := net.SplitHostPort(c.Transfer.Advertise); err != nil || host == "" || port == "" {
		return fmt.Errorf("transfer.advertise %q is not host:port", c.Transfer.Advertise)
	}
	return nil
}

// advertised returns the address at which neighbours reach the transfer service, which listens on
// listening. Where that is every address of the host, it is the one from which the host reaches the
// controller.
func (c *Config) advertised(ctx context.Context, listening net.Addr) (string, error) {
	if c.Transfer.Advertise != "" {
		return c.Transfer.Advertise, nil
	}
	_, port, err := net.SplitHostPort(listening.String())
	if err != nil {
		return "", fmt.Errorf("transfer.listen: %w", err)
	}
	host, _, err := net.SplitHostPort(c.Transfer.Listen)
	if err != nil {
		return "", fmt.Errorf("transfer.listen: %w", err)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return net.JoinHostPort(host, port), nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", c.Controller) // sends nothing; the kernel chooses the source address
	if err != nil {
		return "", fmt.Errorf("transfer.advertise is not set and cannot be found out: %w", err)
	}
	host, _, err = net.SplitHostPort(conn.LocalAddr().String())
	return net.JoinHostPort(host, port), errors.Join(err, conn.Close())
}

// drillDir is a directory of the drills' own: what is in it is removed.
func (c *Config) drillDir() string { return filepath.Join(c.Scratch, ".requorum-drill") }

// newRuntime makes the runtime that the configuration names.
func (c *Config) newRuntime(log hclog.Logger) (runtime.Runtime, error) {
	if p := c.Runtime.Process; p != nil {
		return process.New(process.Options{
			Command: p.Command, Env: p.Env, Dir: filepath.Join(c.DataDir, "process"), Grace: time.Duration(p.Grace),
			UID: p.UID, GID: p.GID, Log: log.Named("process"),
		})
	}
	if s := c.Runtime.Systemd; s != nil {
		return systemd.New(systemd.Options{Unit: s.Unit, ControlPlane: s.ControlPlane, Grace: s.Grace.Std(), Log: log.Named("systemd")})
	}
	if s := c.Runtime.StaticPod; s != nil {
		return staticpod.New(staticpod.Options{
			Manifest: s.Manifest, ControlPlane: s.ControlPlane, HeldDir: s.HeldDir, Endpoint: s.CRIEndpoint, Kubelet: s.KubeletUnit,
			Version: s.Version, Grace: s.Grace.Std(), Log: log.Named("staticpod"),
		})
	}
	if d := c.Runtime.Docker; d != nil {
		return docker.New(docker.Options{Host: d.Host, Container: d.Container, ControlPlane: d.ControlPlane, Grace: d.Grace.Std(), Log: log.Named("docker")})
	}
	if k := c.Runtime.K3s; k != nil {
		return k3s.New(k3s.Options{Unit: k.Unit, Grace: k.Grace.Std(), Log: log.Named("k3s")})
	}
	if k := c.Runtime.RKE2; k != nil {
		return rke2.New(rke2.Options{
			Unit: k.Unit, Endpoint: k.CRIEndpoint, Dir: filepath.Join(c.DataDir, "rke2"), Grace: k.Grace.Std(), Log: log.Named("rke2"),
		})
	}
	e := c.Runtime.Exec
	return exec.New(exec.Options{
		Member: runtime.Member{
			Name: e.Member.Name, DataDir: e.Member.DataDir, WALDir: e.Member.WALDir,
			ListenClientURLs: e.Member.ListenClientURLs, AdvertiseClientURLs: e.Member.AdvertiseClientURLs,
			ListenPeerURLs: e.Member.ListenPeerURLs, AdvertisePeerURLs: e.Member.AdvertisePeerURLs,
			QuotaBytes: int64(e.Member.QuotaBytes), Version: e.Member.Version, UID: e.Member.UID, GID: e.Member.GID,
		},
		Stop: e.Stop, Start: e.Start, Status: e.Status, Logs: e.Logs,
		ControlPlaneStop: e.ControlPlaneStop, ControlPlaneStart: e.ControlPlaneStart,
		CommandTimeout: time.Duration(e.CommandTimeout), Log: log.Named("exec"),
	})
}

// runtimeWait is how long stopping or starting etcd may take: what was configured for a part of it comes on top.
func (c *Config) runtimeWait() time.Duration {
	wait := task.DefaultRuntimeWait
	if p := c.Runtime.Process; p != nil {
		wait += p.Grace.Std()
	}
	if e := c.Runtime.Exec; e != nil {
		wait += e.CommandTimeout.Std()
	}
	if s := c.Runtime.Systemd; s != nil {
		wait += s.Grace.Std()
	}
	if s := c.Runtime.StaticPod; s != nil {
		wait += s.Grace.Std()
	}
	if d := c.Runtime.Docker; d != nil {
		wait += d.Grace.Std()
	}
	if k := c.Runtime.K3s; k != nil {
		wait += k.Grace.Std()
	}
	if k := c.Runtime.RKE2; k != nil {
		wait += 3 * k.Grace.Std() // RKE2, the control plane and etcd, one after the other
	}
	return wait
}
