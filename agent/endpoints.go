package agent

import (
	"net"
	"net/url"
	"slices"

	"github.com/requorum/requorum/agent/member"
	"github.com/requorum/requorum/agent/runtime"
)

// client returns how to reach the member: as the agent is configured and, where that says nothing, as the
// member is.
func (e Etcd) client(conf runtime.Member) member.Config {
	cfg := member.Config{
		Endpoints: e.Endpoints, CAFile: e.CA, CertFile: e.Cert, KeyFile: e.Key,
		Username: e.Username, PasswordFile: e.PasswordFile, QuotaBytes: conf.QuotaBytes,
	}
	if len(cfg.Endpoints) == 0 {
		cfg.Endpoints = reachable(conf, localAddresses())
	}
	if cfg.CAFile == "" {
		cfg.CAFile = conf.TrustedCAFile
	}
	if cfg.CertFile == "" && conf.ClientCertAuth {
		cfg.CertFile, cfg.KeyFile = conf.CertFile, conf.KeyFile
	}
	return cfg
}

// reachable returns the URLs at which a local client reaches the member. One that listens on every
// address is reached on the loopback one and, since its certificate need not be good for that, at those
// that it advertises; only local ones count, behind any other there may be another member.
func reachable(conf runtime.Member, local []net.IP) []string {
	var all []string
	everywhere := false
	for _, raw := range conf.ListenClientURLs {
		u, err := url.Parse(raw)
		if err == nil {
			if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
				everywhere = true
				u.Host = net.JoinHostPort(loopback(ip), u.Port())
				raw = u.String()
			}
		}
		all = append(all, raw)
	}
	for _, raw := range conf.AdvertiseClientURLs {
		u, err := url.Parse(raw)
		if err == nil && everywhere && slices.ContainsFunc(local, net.ParseIP(u.Hostname()).Equal) && !slices.Contains(all, raw) {
			all = append(all, raw)
		}
	}
	return all
}

func loopback(ip net.IP) string {
	if ip.To4() != nil {
		return "127.0.0.1"
	}
	return "::1"
}

// localAddresses returns the addresses of this host, none if they cannot be told.
func localAddresses() []net.IP {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var ips []net.IP
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return ips
}
