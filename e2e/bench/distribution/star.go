package distribution

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Star copies a file from node 0 to every other node at once, as people do with scp, and returns how long that
// took. Each receiver writes its copy, flushes it to the disk and removes it in the end. It is a bare TCP
// stream that neither encrypts nor verifies, so no tool is faster.
func Star(ctx context.Context, net *Network, file, dir string) (took time.Duration, err error) {
	l, err := net.Listen(ctx, 0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	receivers := len(net.nodes) - 1
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	group.Go(func() error { return sendToEach(ctx, l, file, receivers) })
	for i := 1; i <= receivers; i++ {
		group.Go(func() error { return receive(ctx, net, i, l.Addr().String(), filepath.Join(dir, nodeName(i)+".copy")) })
	}
	err = group.Wait()
	return time.Since(began), err
}

// sendToEach sends the file to as many as connect.
func sendToEach(ctx context.Context, l net.Listener, file string, receivers int) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // a second Close says only that
	defer stop()
	var group errgroup.Group
	for range receivers {
		conn, err := l.Accept()
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error { return sendFile(ctx, conn, file) })
	}
	return group.Wait()
}

func sendFile(ctx context.Context, conn net.Conn, file string) (err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // fails only where the stream has ended
	defer stop()
	f, err := os.Open(file)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	_, err = io.Copy(conn, f)
	return errors.Join(err, conn.Close(), f.Close())
}

// receive copies what the source sends to a file.
func receive(ctx context.Context, net *Network, i int, source, path string) (err error) {
	conn, err := net.Dial(ctx, i, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // as above
	defer stop()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	_, err = io.Copy(f, conn)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("copy to %s: %w", nodeName(i), err)
	}
	return nil
}
