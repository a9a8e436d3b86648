package wire

import "fmt"

// Message is any of the structs of this package that fill a packet.
type Message interface {
	// Encode writes the whole packet.
	Encode(*Packet)
	// Decode reads the fields; it overwrites all of the struct.
	Decode(*Packet)
}

// NewRequest returns an empty struct for the request of an opcode.
func NewRequest(op Op) Message {
	switch op {
	case OpSecRead, OpSecWrite, OpSecWriteStable:
		return &SecRw{}
	case OpSecSync:
		return &SecSync{}
	case OpSecStabilize, OpSecRollback:
		return &SecStab{}
	case OpSecDelete:
		return &SecDel{}
	case OpSecList:
		return &SecList{}
	case OpShowConfig:
		return &ShowConfig{}
	case OpRead, OpWrite, OpDelete, OpScrub:
		return &Rw{}
	case OpSecReadBmp:
		return &SecReadBmp{}
	case OpDescribe:
		return &Describe{}
	case OpSecLock:
		return &SecLock{}
	}
	return &HeaderOnly{}
}

// NewReply returns an empty struct for the reply of an opcode.
func NewReply(op Op) Message {
	switch op {
	case OpSecRead, OpSecWrite, OpSecWriteStable:
		return &SecRwReply{}
	case OpSecDelete:
		return &SecDelReply{}
	case OpSecList:
		return &SecListReply{}
	case OpRead, OpWrite, OpScrub:
		return &RwReply{}
	case OpDelete:
		return &DeleteReply{}
	case OpDescribe:
		return &DescribeReply{}
	case OpSecLock:
		return &SecLockReply{}
	}
	return &StatusReply{}
}

// Message decodes the packet, whatever it is; nil if it is neither a request
// nor a reply. It allocates: for logs and tests.
func (p *Packet) Message() Message {
	var m Message
	switch p.Kind() {
	case KindRequest:
		m = NewRequest(p.Op())
	case KindReply:
		m = NewReply(p.Op())
	default:
		return nil
	}
	m.Decode(p)
	return m
}

// String shows the packet with all its fields, for logs.
func (p *Packet) String() string {
	m := p.Message()
	if m == nil {
		return fmt.Sprintf("packet with unknown magic %016x", le.Uint64(p[0:8]))
	}
	return fmt.Sprintf("%v %v %+v", p.Op(), p.Kind(), m)
}
