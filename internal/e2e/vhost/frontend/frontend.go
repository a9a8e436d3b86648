// Package frontend is the other side of vhost-user-blk for tests and figures: a
// small front-end and driver, written from the protocol's documentation and the
// virtio standard and with nothing of the back-end's code.
//
//	Dial ─▶ Frontend (messages, memory, eventfds) ─▶ Queue (one request in each slot)
//
// Guarantee: none; it is as friendly or hostile as its user wants (Call sends any
// message).
//
// Concurrency: a Frontend belongs to one goroutine, a Queue after Start to another.
package frontend

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Options are what a Frontend wants.
type Options struct {
	Queues    int // 0 = 1
	Size      int // descriptors of each; 0 = 128
	Packed    bool
	EventIdx  bool
	Indirect  bool
	NoFlush   bool // do not accept FLUSH: writes must be durable
	Unsealed  bool // memory of an ordinary file
	SlotBytes int  // of data in each slot; 0 = 4096
	// Inflight makes requests survive the back-end. Memory comes from an earlier
	// Frontend that has lost its back-end: rings and all go on.
	Inflight bool
	Memory   *Memory
}

// Memory is what a front-end shares with the back-end.
type Memory struct {
	B        []byte
	File     int // descriptor of B
	Inflight int // descriptor, -1 = none
	area     []byte
	queues   []*Queue
}

// Features and requests of the protocol that tests need.
const (
	FeatureLogAll   = 1 << 26
	FeatureIndirect = 1 << 28
	FeatureEventIdx = 1 << 29
	FeatureProtocol = 1 << 30
	FeatureVersion1 = 1 << 32
	FeaturePacked   = 1 << 34
	FeatureFlush    = 1 << 9

	GetFeatures   = 1
	SetFeatures   = 2
	SetOwner      = 3
	SetMemTable   = 5
	SetLogBase    = 6
	SetVringNum   = 8
	SetVringAddr  = 9
	SetVringBase  = 10
	GetVringBase  = 11
	SetVringKick  = 12
	SetVringCall  = 13
	SetVringErr   = 14
	GetProtocol   = 15
	SetProtocol   = 16
	GetQueueNum   = 17
	VringEnable   = 18
	SetBackendFD  = 21
	GetConfig     = 24
	SetConfig     = 25
	GetInflightFD = 31
	SetInflightFD = 32
	ResetDevice   = 34
	MaxMemSlots   = 36
	AddMemReg     = 37
	RemMemReg     = 38

	NeedReply = 1 << 3
)

// GuestBase is the guest's address of the memory, UserBase that of the (made
// up) process.
const (
	GuestBase = 0x4000_0000
	UserBase  = 0x7f00_0000_0000
	pageBytes = 4096
)

// Frontend is a connection to a back-end.
type Frontend struct {
	o        Options
	fd       int
	Features uint64 // offered
	Accepted uint64
	M        *Memory
	Timeout  time.Duration
}

// Dial connects and negotiates; rings are not started.
func Dial(path string, o Options) (*Frontend, error) {
	setDefault(&o.Queues, 1)
	setDefault(&o.Size, 128)
	setDefault(&o.SlotBytes, 4096)
	f, err := Connect(path)
	if err != nil {
		return nil, err
	}
	f.o = o
	if err := f.negotiate(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func setDefault(n *int, v int) {
	if *n == 0 {
		*n = v
	}
}

// Connect only connects.
func Connect(path string) (*Frontend, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return &Frontend{fd: fd, Timeout: 10 * time.Second}, nil
}

// Close closes the connection; memory and queues stay.
func (f *Frontend) Close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// Message is one message, as it is.
func Message(request, flags uint32, payload []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, request)
	b = binary.NativeEndian.AppendUint32(b, flags)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// Raw sends bytes, with descriptors.
func (f *Frontend) Raw(b []byte, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(f.fd, b, oob, nil, unix.MSG_NOSIGNAL)
}

// Call sends a message and waits for its answer, or for its acknowledgement.
func (f *Frontend) Call(request uint32, payload []byte, fds ...int) (reply []byte, files []int, err error) {
	if err := f.Raw(Message(request, 1|NeedReply, payload), fds...); err != nil {
		return nil, nil, err
	}
	return f.Receive(request)
}

// Receive waits for the answer to a request.
func (f *Frontend) Receive(request uint32) (reply []byte, files []int, err error) {
	head, files, err := f.read(12)
	if err != nil {
		return nil, files, fmt.Errorf("request %d: %w", request, err)
	}
	got, flags, n := get32(head, 0), get32(head, 4), get32(head, 8)
	if got != request || flags&7 != 5 || n > 4096 {
		return nil, files, fmt.Errorf("request %d is answered by %d with flags %#x and %d bytes", request, got, flags, n)
	}
	reply, more, err := f.read(int(n))
	return reply, append(files, more...), err
}

func (f *Frontend) read(n int) (b []byte, files []int, err error) {
	b = make([]byte, n)
	for at := 0; at < n; {
		p := []unix.PollFd{{Fd: int32(f.fd), Events: unix.POLLIN}}
		if k, err := unix.Poll(p, int(f.Timeout.Milliseconds())); k == 0 {
			return nil, files, fmt.Errorf("no answer within %v", f.Timeout)
		} else if err == unix.EINTR {
			continue
		}
		oob := make([]byte, 128)
		k, oobn, _, _, err := unix.Recvmsg(f.fd, b[at:], oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, files, err
		case k == 0:
			return nil, files, fmt.Errorf("the back-end has closed the connection")
		}
		at += k
		list, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for i := range list {
			fds, _ := unix.ParseUnixRights(&list[i])
			files = append(files, fds...)
		}
	}
	return b, files, nil
}

// OK is Call of a message that is only acknowledged.
func (f *Frontend) OK(request uint32, payload []byte, fds ...int) error {
	reply, _, err := f.Call(request, payload, fds...)
	if err == nil && (len(reply) != 8 || get64(reply, 0) != 0) {
		err = fmt.Errorf("request %d is refused (%x)", request, reply)
	}
	return err
}

// Get is Call of a message that is answered by one number.
func (f *Frontend) Get(request uint32) (uint64, error) {
	reply, _, err := f.Call(request, nil)
	if err == nil && len(reply) != 8 {
		err = fmt.Errorf("request %d is answered by %d bytes", request, len(reply))
	}
	if err != nil {
		return 0, err
	}
	return get64(reply, 0), nil
}

// U64 and U32 code payloads of numbers.
func U64(list ...uint64) (b []byte) {
	for _, v := range list {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

// U32 is U64 of smaller numbers.
func U32(list ...uint32) (b []byte) {
	for _, v := range list {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func (f *Frontend) negotiate() (err error) {
	// Without REPLY_ACK only questions are answered.
	if f.Features, err = f.Get(GetFeatures); err != nil {
		return err
	}
	protocol, err := f.Get(GetProtocol)
	if err != nil {
		return err
	}
	const want = 1<<0 | 1<<1 | 1<<3 | 1<<5 | 1<<9 | 1<<12 | 1<<13 | 1<<15
	if err := f.Raw(Message(SetProtocol, 1, U64(protocol&want))); err != nil {
		return err
	}
	if protocol&(1<<3) == 0 {
		return fmt.Errorf("the back-end does not offer REPLY_ACK (%#x)", protocol)
	}
	if err := f.OK(SetOwner, nil); err != nil {
		return err
	}
	a := uint64(FeatureVersion1 | FeatureProtocol | FeatureFlush)
	if f.o.NoFlush {
		a &^= FeatureFlush
	}
	for _, x := range []struct {
		on  bool
		bit uint64
	}{{f.o.Packed, FeaturePacked}, {f.o.EventIdx, FeatureEventIdx}, {f.o.Indirect, FeatureIndirect}} {
		if x.on {
			a |= x.bit
		}
	}
	if a&^f.Features != 0 {
		return fmt.Errorf("features %#x are wanted, %#x are offered", a, f.Features)
	}
	f.Accepted = a
	return f.OK(SetFeatures, U64(a))
}

// Config reads the configuration space.
func (f *Frontend) Config() ([]byte, error) {
	reply, _, err := f.Call(GetConfig, append(U32(0, 60, 0), make([]byte, 60)...))
	if err == nil && len(reply) != 72 {
		err = fmt.Errorf("a configuration of %d bytes", len(reply))
	}
	if err != nil {
		return nil, err
	}
	return reply[12:], nil
}

// Start shares memory and starts all queues.
func (f *Frontend) Start() error {
	if f.M = f.o.Memory; f.M == nil {
		m, err := NewMemory(f.o)
		if err != nil {
			return err
		}
		f.M = m
	}
	if err := f.Share(); err != nil {
		return err
	}
	if f.o.Inflight {
		if err := f.inflight(); err != nil {
			return err
		}
	}
	for _, q := range f.M.queues {
		if err := f.startQueue(q); err != nil {
			return err
		}
	}
	return nil
}

// Share sends the memory table.
func (f *Frontend) Share() error {
	table := append(U32(1, 0), U64(GuestBase, uint64(len(f.M.B)), UserBase, 0)...)
	return f.OK(SetMemTable, table, f.M.File)
}

// inflight asks for memory of requests in flight, or gives it back.
func (f *Frontend) inflight() error {
	shape := func(size uint64) []byte {
		b := U64(size, 0)
		b = binary.NativeEndian.AppendUint16(b, uint16(f.o.Queues))
		b = binary.NativeEndian.AppendUint16(b, uint16(f.o.Size))
		return append(b, 0, 0, 0, 0)
	}
	if f.M.Inflight < 0 {
		reply, files, err := f.Call(GetInflightFD, shape(0))
		if err != nil {
			return err
		}
		if len(files) != 1 || len(reply) < 20 {
			return fmt.Errorf("GET_INFLIGHT_FD: %d descriptors, %d bytes", len(files), len(reply))
		}
		f.M.Inflight, f.M.area = files[0], reply[:8]
	}
	return f.OK(SetInflightFD, shape(get64(f.M.area, 0)), f.M.Inflight)
}

// startQueue describes a ring and starts it where it is.
func (f *Frontend) startQueue(q *Queue) error {
	i := uint32(q.index)
	for _, step := range []struct {
		request uint32
		payload []byte
		fd      int
	}{
		{SetVringNum, U32(i, uint32(f.o.Size)), -1},
		{SetVringBase, U32(i, q.base()), -1},
		{SetVringAddr, q.address(0), -1},
		{SetVringCall, U64(uint64(i)), q.call},
		{SetVringErr, U64(uint64(i)), q.err},
		{SetVringKick, U64(uint64(i)), q.kick},
		{VringEnable, U32(i, 1), -1},
	} {
		var err error
		if step.fd >= 0 {
			err = f.OK(step.request, step.payload, step.fd)
		} else {
			err = f.OK(step.request, step.payload)
		}
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
	}
	q.Kick()
	return nil
}

// StopQueue stops a ring; the result is its position.
func (f *Frontend) StopQueue(i int) (uint32, error) {
	reply, _, err := f.Call(GetVringBase, U32(uint32(i), 0))
	if err != nil {
		return 0, err
	}
	return get32(reply, 4), nil
}

// Queue is one of the queues.
func (f *Frontend) Queue(i int) *Queue { return f.M.queues[i] }
