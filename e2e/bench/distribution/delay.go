package distribution

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	vnetHeader = 10        // bytes that go before each frame and say how the kernel is to cut it up
	frameSize  = 128 << 10 // no frame is larger
	underway   = 1 << 14   // frames on their way at most
	socketRoom = 16 << 20  // bytes that wait to be read
)

// relay carries frames between two interfaces of a namespace, each after a delay. The kernel's own way is netem, which many
// machines do not have.
type relay struct {
	ends   [2]*os.File
	closed chan struct{}
	done   sync.WaitGroup
}

// startRelay starts a relay between two interfaces of the namespace.
func startRelay(namespace string, interfaces [2]string, delay time.Duration) (*relay, error) {
	r := &relay{closed: make(chan struct{})}
	err := within(namespace, func() error {
		for i, name := range interfaces {
			fd, err := packetSocket(name)
			if err != nil {
				return fmt.Errorf("delay frames of %s: %w", name, err)
			}
			r.ends[i] = os.NewFile(uintptr(fd), name)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	for i := range r.ends {
		frames := make(chan frame, underway)
		r.done.Go(func() { receiveFrames(r.ends[i], delay, frames) })
		r.done.Go(func() { sendFrames(r.ends[1-i], frames, r.closed) })
	}
	return r, nil
}

// close ends the relay. What is on its way is lost.
func (r *relay) close() error {
	close(r.closed)
	var errs []error
	for _, end := range r.ends {
		if end != nil {
			errs = append(errs, end.Close())
		}
	}
	r.done.Wait()
	return errors.Join(errs...)
}

// packetSocket opens a socket that reads every frame that comes out of an interface, and writes frames into it. Both carry
// large frames that the kernel has not cut up yet, as it hands them to a link.
func packetSocket(name string) (fd int, err error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return -1, err
	}
	all := int(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)))
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketRoom),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: link.Index}),
	)
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

type frame struct {
	content []byte // with its vnetHeader
	due     time.Time
}

// receiveFrames reads frames until the socket is closed. As a link does, it drops what does not fit any more.
func receiveFrames(from *os.File, delay time.Duration, to chan<- frame) {
	defer close(to)
	buffer := make([]byte, frameSize)
	for {
		n, err := from.Read(buffer)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n <= vnetHeader {
			continue // the interface was down for a moment
		}
		select {
		case to <- frame{content: append([]byte(nil), buffer[:n]...), due: time.Now().Add(delay)}:
		default:
		}
	}
}

// sendFrames writes each frame when it is due, until the relay is closed.
func sendFrames(to *os.File, frames <-chan frame, closed <-chan struct{}) {
	for f := range frames {
		select {
		case <-time.After(time.Until(f.due)):
		case <-closed:
			return
		}
		_, _ = to.Write(f.content) // what a link cannot carry is lost
	}
}
