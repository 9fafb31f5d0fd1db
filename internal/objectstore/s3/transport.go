package s3

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	dialTimeout = 15 * time.Second
	idleTimeout = 30 * time.Second
	bufferSize  = 64 << 10
)

func newTransport(cfg Config) (*http.Transport, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a machine without any
	}
	if len(cfg.CA) > 0 && !roots.AppendCertsFromPEM(cfg.CA) {
		return nil, errors.New("the CA holds no certificate in PEM")
	}
	proxy := http.ProxyFromEnvironment
	if cfg.Proxy != "" {
		u, err := url.Parse(cfg.Proxy)
		if err != nil || u.Host == "" {
			return nil, errors.New("the proxy is not a URL such as http://proxy.example.org:3128")
		}
		proxy = http.ProxyURL(u)
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	return &http.Transport{
		Proxy: proxy,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return newLively(conn, cmp.Or(cfg.Stall, defaultStall), cfg.Activity)
		},
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, InsecureSkipVerify: cfg.SkipTLSVerify}, //nolint:gosec // only if asked for
		TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout:     idleTimeout,
		MaxIdleConnsPerHost: parallel + 1,
		WriteBufferSize:     bufferSize,
		ReadBufferSize:      bufferSize,
		DisableCompression:  true, // an object is what was stored
	}, nil
}

// lively is a connection that ends when nothing moves on it, in either direction, for some time. A server may take long
// for what it does; TCP alone would wait for one that is gone for a quarter of an hour and more.
type lively struct {
	net.Conn
	stall    time.Duration
	activity func()
}

func newLively(conn net.Conn, stall time.Duration, activity func()) (net.Conn, error) {
	if activity == nil {
		activity = func() {}
	}
	c := &lively{Conn: conn, stall: stall, activity: activity}
	if err := c.SetDeadline(time.Now().Add(stall)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return c, nil
}

func (c *lively) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, c.moved(n, err)
}

func (c *lively) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.moved(n, err)
}

func (c *lively) moved(n int, err error) error {
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return fmt.Errorf("nothing has moved for %s: %v", c.stall, err) //nolint:errorlint // it is not the end of a caller's time
	}
	if n == 0 || err != nil {
		return err
	}
	c.activity()
	return c.SetDeadline(time.Now().Add(c.stall))
}
