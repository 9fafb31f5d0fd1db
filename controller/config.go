package controller

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/requorum/requorum/controller/audit"
	"github.com/requorum/requorum/controller/dispatch"
	"github.com/requorum/requorum/controller/remote"
	"github.com/requorum/requorum/controller/sealing"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/pki"
)

// Config says how to run a controller. Zero values of the times stand for the defaults.
type Config struct {
	Listen             string          `yaml:"listen"`               // host:port to serve on
	DataDir            string          `yaml:"data_dir"`             // journal, catalog, CA, first admin certificate
	Advertise          []string        `yaml:"advertise"`            // names and addresses at which clients reach it
	CA                 Authority       `yaml:"ca"`                   // the CA to use instead of one of its own
	NodeCertificateTTL config.Duration `yaml:"node_certificate_ttl"` // agents renew at two thirds of it
	Heartbeat          config.Duration `yaml:"heartbeat"`            // how often agents show that they live
	OfflineAfter       config.Duration `yaml:"offline_after"`        // how long a task waits for a node that is away
	StalledAfter       config.Duration `yaml:"stalled_after"`        // how long a task may go without progress
	LocalStorage       sealing.Config  `yaml:"local_storage"`        // how copies on the nodes are compressed and encrypted
	Remotes            []remote.Config `yaml:"remotes"`              // object stores that snapshots can be stored in
	ReconcileEvery     config.Duration `yaml:"reconcile_every"`      // how often the nodes are asked which copies they hold
	Audit              Audit           `yaml:"audit"`                // who asked for what
	EpochAtLeast       uint64          `yaml:"-"`                    // for a controller brought back from an old backup
	LogLevel           string          `yaml:"log_level"`            // trace, debug, info, warn, error
	LogJSON            bool            `yaml:"log_json"`             // one JSON object a line
}

// Audit bounds what is kept of who asked for what. Zero values stand for the defaults.
type Audit struct {
	File        string          `yaml:"file"`          // JSON lines; DataDir/audit.log if empty
	MaxFileSize config.Bytes    `yaml:"max_file_size"` // when the file is put aside
	MaxFiles    int             `yaml:"max_files"`     // files kept, the present one included
	Keep        config.Duration `yaml:"keep"`          // how long the controller's store keeps entries
	KeepEntries int             `yaml:"keep_entries"`  // how many entries it keeps
}

// Authority names the files of a given CA.
type Authority struct {
	Cert string `yaml:"cert"` // PEM
	Key  string `yaml:"key"`  // PEM
}

// DefaultConfig returns the configuration of a controller that was told nothing.
func DefaultConfig() Config {
	return Config{Listen: ":7079", DataDir: "/var/lib/requorum/controller"}
}

func (c Config) check() error {
	if c.DataDir == "" {
		return errors.New("data_dir is empty")
	}
	if (c.CA.Cert == "") != (c.CA.Key == "") {
		return errors.New("ca needs both cert and key")
	}
	if a := c.Audit; a.MaxFiles < 0 || a.KeepEntries < 0 {
		return errors.New("audit: max_files and keep_entries cannot be negative")
	}
	if _, err := c.LocalStorage.Local(); err != nil {
		return err
	}
	_, err := remote.New(c.Remotes)
	return err
}

func (c Config) auditOptions() audit.Options {
	o := audit.Options{
		File: c.Audit.File, MaxFileBytes: int64(c.Audit.MaxFileSize), MaxFiles: c.Audit.MaxFiles,
		Keep: c.Audit.Keep.Std(), KeepEntries: c.Audit.KeepEntries,
	}
	if o.File == "" {
		o.File = filepath.Join(c.DataDir, "audit.log")
	}
	return o
}

func (c Config) authority() (*pki.Authority, error) {
	if c.CA.Cert != "" {
		return pki.LoadAuthority(c.CA.Cert, c.CA.Key)
	}
	return pki.LoadOrCreateAuthority(filepath.Join(c.DataDir, "ca"))
}

func (c Config) dispatchOptions() dispatch.Options {
	return dispatch.Options{
		Heartbeat: time.Duration(c.Heartbeat), Offline: time.Duration(c.OfflineAfter), Stall: time.Duration(c.StalledAfter),
	}
}

// hosts returns the names and addresses for the server's certificate, which clients other than
// requorum look at.
func (c Config) hosts(listen net.Addr) []string {
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, c.Advertise...)
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	if tcp, ok := listen.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		hosts = append(hosts, tcp.IP.String())
	}
	return hosts
}

// reachedAt returns host:port for a client's configuration.
func (c Config) reachedAt(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	if len(c.Advertise) > 0 {
		host = c.Advertise[0]
	}
	return net.JoinHostPort(host, port)
}
