package s3test

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands between a client and a server, and makes the network worse.
type Proxy struct {
	Address string // host:port

	to       string
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	cutAt []int64 // for the next connections that come so far: bytes from the client after which one is cut
	still bool
	pause time.Duration
	woken chan struct{} // closed when still ends
	conns map[net.Conn]bool
}

// NewProxy starts a proxy for a server, until the test ends.
func NewProxy(t testing.TB, to string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: listener.Addr().String(), to: to, listener: listener, woken: make(chan struct{}), conns: make(map[net.Conn]bool)}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		p.Wake()
		p.CutAll()
		p.wg.Wait()
	})
	return p
}

// Cut makes the next connections break, each once the client has sent so many bytes on it.
func (p *Proxy) Cut(after ...int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutAt = append(p.cutAt, after...)
}

// Cuts returns how many of the cuts that were ordered are still to come.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.cutAt)
}

// Still makes everything stand still, connections stay open.
func (p *Proxy) Still() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.still = true
}

// Wake ends Still.
func (p *Proxy) Wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.still {
		p.still = false
		close(p.woken)
		p.woken = make(chan struct{})
	}
}

// Slow makes the proxy pause for so long before each 64 KiB.
func (p *Proxy) Slow(pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pause = pause
}

// CutAll breaks every connection.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close() // being broken is what it is for
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			client.Close() // the client sees a server that is not there
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.pass(client, server, true) })
		p.wg.Go(func() { p.pass(server, client, false) })
	}
}

// pass passes bytes on in one direction until the connection breaks.
func (p *Proxy) pass(from, to net.Conn, upwards bool) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, from)
		err := errors.Join(from.Close(), to.Close()) // one of the two was, before
		if err == nil {
			delete(p.conns, to)
		}
	}()
	buf := make([]byte, 64<<10)
	var passed int64
	for {
		n, err := from.Read(buf)
		p.await()
		if passed += int64(n); upwards && p.isCut(passed) {
			return
		}
		if _, werr := to.Write(buf[:n]); werr != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

// await waits for as long as the proxy is to be slow or still.
func (p *Proxy) await() {
	p.mu.Lock()
	pause := p.pause
	p.mu.Unlock()
	if pause > 0 {
		<-time.After(pause)
	}
	for {
		p.mu.Lock()
		still, woken := p.still, p.woken
		p.mu.Unlock()
		if !still {
			return
		}
		<-woken
	}
}

func (p *Proxy) isCut(passed int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, at := range p.cutAt {
		if passed >= at {
			p.cutAt = append(p.cutAt[:i], p.cutAt[i+1:]...)
			return true
		}
	}
	return false
}
