package agent

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/requorum/requorum/agent/runtime"
	"github.com/requorum/requorum/internal/config"
)

func TestConfigIsCompletedOrRefused(t *testing.T) {
	good := func(c *Config) {}
	for name, c := range map[string]struct {
		change func(*Config)
		why    string
	}{
		"complete":            {good, ""},
		"no controller":       {func(c *Config) { c.Controller = "" }, "--controller"},
		"controller no port":  {func(c *Config) { c.Controller = "host" }, "host:port"},
		"bad node":            {func(c *Config) { c.Node = "../etcd" }, "node"},
		"no data dir":         {func(c *Config) { c.DataDir = "" }, "data_dir"},
		"no runtime":          {func(c *Config) { c.Runtime.Exec = nil }, ""},
		"two runtimes":        {func(c *Config) { c.Runtime.Systemd = &Systemd{} }, "keep one of exec, systemd"},
		"listen without port": {func(c *Config) { c.Transfer.Listen = "host" }, "transfer.listen"},
		"advertise no host":   {func(c *Config) { c.Transfer.Advertise = ":7080" }, "transfer.advertise"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Controller, cfg.Node, cfg.Runtime.Exec = "c:7079", "etcd-1", &Exec{}
			c.change(&cfg)
			err := cfg.complete()
			if c.why == "" {
				must(t, err)
				if cfg.Snapshots != filepath.Join(cfg.DataDir, "snapshots") {
					t.Errorf("%+v", cfg)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v does not say %q", err, c.why)
			}
		})
	}
}

func TestAdvertisedAddress(t *testing.T) {
	listening := &net.TCPAddr{IP: net.IPv4zero, Port: 1234}
	for _, c := range []struct{ listen, advertise, want string }{
		{":0", "", "127.0.0.1:1234"},
		{"0.0.0.0:0", "", "127.0.0.1:1234"},
		{"[::]:0", "", "127.0.0.1:1234"},
		{"10.1.2.3:0", "", "10.1.2.3:1234"},
		{"node.example:7080", "", "node.example:1234"},
		{":0", "nat.example:99", "nat.example:99"},
	} {
		cfg := Config{Controller: "127.0.0.1:7079", Transfer: Transfer{Listen: c.listen, Advertise: c.advertise}}
		got, err := cfg.advertised(t.Context(), listening)
		if err != nil || got != c.want {
			t.Errorf("%+v: %s, %v", c, got, err)
		}
	}
}

func TestUnknownKeyIsRefusedWithItsLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	must(t, os.WriteFile(path, []byte("controller: c:7079\nruntime:\n  exec:\n    stopp: [a]\n"), 0o600))
	cfg := DefaultConfig()
	if err := config.Load(path, &cfg); err == nil || !strings.Contains(err.Error(), path+":4") || !strings.Contains(err.Error(), "stop") {
		t.Errorf("%v", err)
	}
}

func TestMemberIsReachedLocally(t *testing.T) {
	local := []net.IP{net.ParseIP("10.0.0.1"), net.ParseIP("127.0.0.1")}
	for _, c := range []struct{ listen, advertise, want []string }{
		{[]string{"https://10.0.0.1:2379"}, []string{"https://lb:2379"}, []string{"https://10.0.0.1:2379"}},
		{[]string{"https://0.0.0.0:2379"}, []string{"https://10.0.0.1:2379"}, []string{"https://127.0.0.1:2379", "https://10.0.0.1:2379"}},
		{[]string{"http://[::]:2379"}, []string{"https://10.9.9.9:2379", "http://lb:2379"}, []string{"http://[::1]:2379"}},
		{[]string{"unix:///run/etcd.sock"}, nil, []string{"unix:///run/etcd.sock"}},
		{nil, nil, nil},
	} {
		if got := reachable(runtime.Member{ListenClientURLs: c.listen, AdvertiseClientURLs: c.advertise}, local); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v", c, got)
		}
	}
}

func TestMemberIsTrustedAsItIsConfigured(t *testing.T) {
	conf := runtime.Member{TrustedCAFile: "etcd-ca", CertFile: "etcd-cert", KeyFile: "etcd-key", ClientCertAuth: true, QuotaBytes: 7}
	if got := (Etcd{}).client(conf); got.CAFile != "etcd-ca" || got.CertFile != "etcd-cert" || got.KeyFile != "etcd-key" || got.QuotaBytes != 7 {
		t.Errorf("%+v", got)
	}
	if got := (Etcd{Endpoints: []string{"e"}, CA: "ca", Cert: "cert", Key: "key"}).client(conf); got.CAFile != "ca" || got.CertFile != "cert" || got.KeyFile != "key" || got.Endpoints[0] != "e" {
		t.Errorf("%+v", got)
	}
	conf.ClientCertAuth = false
	if got := (Etcd{}).client(conf); got.CertFile != "" {
		t.Errorf("%+v", got)
	}
}
