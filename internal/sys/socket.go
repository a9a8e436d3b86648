package sys

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Events of a descriptor, as EpollWait reports them.
const (
	EventIn  uint32 = unix.EPOLLIN
	EventOut uint32 = unix.EPOLLOUT
	EventErr uint32 = unix.EPOLLERR
	EventHup uint32 = unix.EPOLLHUP
)

// What EpollCtl does.
const (
	EpollAdd    = unix.EPOLL_CTL_ADD
	EpollModify = unix.EPOLL_CTL_MOD
	EpollDelete = unix.EPOLL_CTL_DEL
)

// NewEpoll makes an epoll instance.
func NewEpoll() (int, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return fd, os.NewSyscallError("epoll_create1", err)
}

// NewEventfd makes a non-blocking eventfd.
func NewEventfd() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	return fd, os.NewSyscallError("eventfd", err)
}

// NewTimerfd makes a non-blocking timer of monotonic time that is not set.
func NewTimerfd() (int, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	return fd, os.NewSyscallError("timerfd_create", err)
}

// Close closes a descriptor. Nothing useful can be done about an error here;
// disks are synced before.
func Close(fd int) { _ = unix.Close(fd) }

// CloseReset closes a connection with a reset: the kernel forgets what it has
// not delivered.
func CloseReset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	Close(fd)
}

// ListenTCP opens a non-blocking listening socket and returns its real address.
func ListenTCP(addr netip.AddrPort, backlog int) (int, netip.AddrPort, error) {
	fd, err := socketTCP(addr.Addr())
	if err != nil {
		return -1, addr, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		err = os.NewSyscallError("setsockopt", err)
	} else if err = unix.Bind(fd, sockaddr(addr)); err != nil {
		err = os.NewSyscallError("bind", err)
	} else if err = unix.Listen(fd, backlog); err != nil {
		err = os.NewSyscallError("listen", err)
	}
	if err != nil {
		Close(fd)
		return -1, addr, err
	}
	return fd, LocalAddr(fd), nil
}

// DialTCP starts to connect a new non-blocking socket: EventOut comes when the
// outcome is known, which SocketError tells.
func DialTCP(addr netip.AddrPort) (int, error) {
	fd, err := socketTCP(addr.Addr())
	if err != nil {
		return -1, err
	}
	tune(fd)
	if err := unix.Connect(fd, sockaddr(addr)); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// AcceptTCP takes the next connection of a listening socket.
func AcceptTCP(listener int) (fd int, remote netip.AddrPort, e syscall.Errno) {
	for {
		fd, sa, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			tune(fd)
			return fd, addrPort(sa), 0
		case unix.EINTR, unix.ECONNABORTED:
			continue
		}
		return -1, remote, err.(syscall.Errno)
	}
}

// SocketError returns and clears the pending error of a socket.
func SocketError(fd int) syscall.Errno {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err.(syscall.Errno)
	}
	return syscall.Errno(n)
}

// LocalAddr is the address of a socket's own end.
func LocalAddr(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

func socketTCP(a netip.Addr) (int, error) {
	family := unix.AF_INET
	if !a.Unmap().Is4() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

// Keepalive of connections in seconds: a peer whose host has died silently is
// noticed after a minute even by who only waits for its requests.
const (
	keepIdleSec     = 30
	keepIntervalSec = 10
	keepProbes      = 3
)

// tune makes small messages leave at once, and lets dead connections end.
// Failing would only cost latency, or memory.
func tune(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepIdleSec)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepIntervalSec)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepProbes)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneIndex(a.Addr().Zone())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch s := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr).Unmap().WithZone(zoneName(s.ZoneId)), uint16(s.Port))
	}
	return netip.AddrPort{}
}
