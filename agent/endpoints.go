package agent

import (
	"net"
	"net/url"
)

// reachable turns the URLs that a member listens on into URLs that can be dialled: a member that listens
// on every address is reached on the loopback one.
func reachable(listen []string) []string {
	out := make([]string, 0, len(listen))
	for _, raw := range listen {
		u, err := url.Parse(raw)
		if err == nil {
			if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
				u.Host = net.JoinHostPort(loopback(ip), u.Port())
				raw = u.String()
			}
		}
		out = append(out, raw)
	}
	return out
}

func loopback(ip net.IP) string {
	if ip.To4() != nil {
		return "127.0.0.1"
	}
	return "::1"
}
